//! The agent: PID 1 of a cell, or in a cell without namespaces the parent of everybody in it. It raises the walls (or
//! finds them raised by an engine), starts one command, watches it, ends it, and brings back what it left. It judges
//! nothing: exit statuses, timeouts and refusals go to the host as frames.
//!
//! One thread, no runtime: namespaces want a process that has never had a second thread, and fork is only safe then.
//! Standard input and output are the stream to the host; standard error is for panics alone. When standard input ends,
//! the host is gone: everything is killed and the agent leaves (the dead man's switch).

mod channel;
mod collect;
mod complaint;
mod contained;
mod disk;
mod escalation;
mod family;
mod goods;
mod here;
mod observe;
mod places;
mod relay;
mod root;
mod spawn;
mod supervisor;
mod tree;
mod trial;
mod walls;
mod witness;

pub use here::{TEMPORARY, is_gone};
pub use places::MARKER;

use crate::code::ExitCode;
use crate::frame::{Frame, PROTOCOL, ToAgent};
use channel::{Channel, Gone};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why the agent could not do its work: at which stage, and what happened.
#[derive(Debug)]
struct Failure {
    stage: &'static str,
    message: String,
}

impl Failure {
    fn new(stage: &'static str, message: impl std::fmt::Display) -> Failure {
        // It may name the whole environment of a step, and a frame has an end.
        Failure { stage, message: message.to_string().chars().take(16 * 1024).collect() }
    }
}

/// How the agent comes to its walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An engine built them, and this is PID 1 behind them, which gets the rest by [`Inside`](crate::frame::Inside).
    Behind {
        /// Seconds after which nobody can need it: then it ends, also where its input is held open by nobody that lives.
        seconds: Option<u32>,
    },
    /// It builds them itself, of namespaces, from the [`Spec`](crate::frame::Spec) that comes first.
    Raise,
    /// There are no namespaces to be had: it takes every right from itself and is the broker of what is left.
    Here,
}

/// Runs the agent on standard input and output.
#[must_use]
pub fn main(mode: Mode) -> std::process::ExitCode {
    let code = catch_unwind(AssertUnwindSafe(|| match mode {
        Mode::Behind { seconds } => contained::enter(seconds),
        Mode::Raise => walls::raise(),
        Mode::Here => here::raise(),
    }));
    code.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        // The stream's counts died with the agent's state: the host sees a broken stream with a reason, and no `end`.
        Channel::stdio()
            .and_then(|mut channel| {
                channel.send(&Frame::Broken { stage: "panic".into(), message: text });
                channel.flush()
            })
            .unwrap_or(());
        ExitCode::BUG
    })
    .into()
}

/// Tries every wall and limit of this machine by itself, with `scratch` as an empty directory to do it in, and says on
/// standard output what was seen: one [`Frame::Ready`].
#[must_use]
pub fn trials(scratch: &std::path::Path) -> std::process::ExitCode {
    use crate::frame::Payload;
    use std::io::Write;
    let said = Frame::Ready { observed: trial::all(scratch) }.encode();
    let whole = std::io::stdout().write_all(&said).and_then(|()| std::io::stdout().flush());
    if whole.is_ok() { ExitCode::PASSED } else { ExitCode::INFRASTRUCTURE }.into()
}

/// Speaks with the host, from `hello` to `bye`.
fn serve(mut behind: walls::Behind) -> ExitCode {
    let Ok(mut channel) = Channel::stdio() else { return ExitCode::INFRASTRUCTURE };
    channel.alive = behind.starter_lives.take();
    channel.deadline = behind.deadline;
    let probe = behind.probe;
    if behind.without.is_none() && std::process::id() != 1 {
        // Ending everything in reach is what this program does: it must not reach the caller's own processes.
        return farewell(channel, Err(Ended::Failed(Failure::new("pid", "the agent is not the first process here"))));
    }
    channel.send(&Frame::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() });
    let said = if probe {
        let mut observed = observe::observe(&behind.facts);
        observed.push(observe::witness(&spawn::try_to_watch()));
        channel.send(&Frame::Ready { observed });
        Ok(())
    } else {
        conversation(&mut channel, behind)
    };
    farewell(channel, said)
}

/// Reports a failure that happened before there was anything to serve.
fn refuse(failure: Failure) -> ExitCode {
    match Channel::stdio() {
        Ok(channel) => farewell(channel, Err(Ended::Failed(failure))),
        Err(_) => ExitCode::INFRASTRUCTURE,
    }
}

/// Why a conversation is over before its end.
enum Ended {
    Failed(Failure),
    Gone,
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Ended {
        Ended::Gone
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failed(failure)
    }
}

fn conversation(channel: &mut Channel, mut behind: walls::Behind) -> Result<(), Ended> {
    let mut manifest = loop {
        match channel.receive_blocking()? {
            ToAgent::Manifest { manifest } => break manifest,
            ToAgent::Ping { token } => channel.send(&Frame::Pong { token }),
            ToAgent::Bye {} => return Err(Ended::Gone),
            _ => {}
        }
    };
    let places = behind.places.clone();
    places.translate(&mut manifest);
    let changes = behind.changes.take();
    let before = collect::Before::record(&manifest, &places);
    let left = supervisor::run(channel, &manifest, behind)?;
    if let Some(left) = &left {
        left.check().map_err(|what| Failure::new("places", what))?;
    }
    collect::send(channel, &manifest, &places, &before)?;
    if let Some(before) = changes {
        collect::send_changes(channel, &manifest, &places, &before)?;
    }
    if let Some(left) = left {
        left.hand_over(&places.work()).map_err(|e| Failure::new("changes", e))?;
    }
    Ok(())
}

/// Ends the stream so that the host can tell it from a cut one, and leaves when the host has it all.
fn farewell(mut channel: Channel, said: Result<(), Ended>) -> ExitCode {
    match said {
        Ok(()) => {}
        Err(Ended::Gone) => return ExitCode::INFRASTRUCTURE,
        Err(Ended::Failed(Failure { stage, message })) => {
            channel.send(&Frame::Broken { stage: stage.into(), message });
        }
    }
    channel.send_end();
    // An engine drops what a container wrote if it leaves too early; so the host says when.
    loop {
        match channel.receive_blocking() {
            Ok(ToAgent::Bye {}) => return ExitCode::PASSED,
            Ok(ToAgent::Ping { .. }) | Ok(_) => {}
            Err(Gone) => return ExitCode::INFRASTRUCTURE,
        }
    }
}
