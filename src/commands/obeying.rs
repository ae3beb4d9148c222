//! What signals mean before the steps: Ctrl-Z pauses the cell of a job and stops this process, `fg` lets both go on, and
//! everything else ends the work.

use super::jobs::Asked;
use crate::frame::ToAgent;
use crate::run::Signal;
use crate::session::{Pausing, Signals};
use std::future::Future;

/// Does some work beside the signals; `job` is told of them, where a cell does it.
///
/// # Errors
/// The signal that ended it. The work is dropped where it stood.
pub(super) async fn during<T>(signals: &mut Signals, job: Asked, work: impl Future<Output = T>) -> Result<T, Signal> {
    let mut work = std::pin::pin!(work);
    let mut stop = Pausing::default();
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::Stop => {
                    job.say(ToAgent::Pause {});
                    stop.shortly();
                }
                Signal::Continue => job.say(ToAgent::Resume {}),
                signal => return Err(signal),
            },
            () = stop.due() => {}
            done = &mut work => return Ok(done),
        }
    }
}
