//! A stream whose reader may stand still (Ctrl-S, a pager, a full pipe) and nobody waits for it: a thread of its own
//! writes. What the run has to do, and above all to read, does not depend on who looks at it.

use indicatif::TermLike;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a reader is waited for before it counts as one that stands still: a healthy one sees each line before
/// anything else happens.
const PATIENCE: Duration = Duration::from_millis(50);

/// Bytes that are kept for a reader that stands still. What comes after is lost: it was progress, and the report has it.
const KEPT: usize = 256 << 10;

/// A stream that never blocks for long. All clones write to the same one; the last one that goes waits until everything
/// is written.
#[derive(Clone)]
pub(super) struct Patient(Arc<Ours>);

struct Ours(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is in a write.
    writing: bool,
    /// The reader was waited for in vain, and has not taken everything since.
    stands_still: bool,
    /// Nobody writes any more.
    over: bool,
}

impl State {
    fn is_busy(&mut self) -> bool {
        self.writing || !self.waiting.is_empty()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what is written until nobody writes any more.
    fn pass_on(&self, mut to: impl Write) {
        let mut state = self.state();
        loop {
            state = self
                .changed
                .wait_while(state, |state| state.waiting.is_empty() && !state.over)
                .unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                return;
            }
            let bytes = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            // Of what is only told, whether anybody hears it is nobody's business.
            let _ = to.write_all(&bytes).and_then(|()| to.flush());
            state = self.state();
            state.writing = false;
            state.stands_still &= !state.waiting.is_empty();
            self.changed.notify_all();
        }
    }
}

impl Patient {
    /// Writes to `to`, by a thread that is started here. Without a thread to be had nothing is told.
    pub(super) fn new(to: impl Write + Send + 'static) -> Patient {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("progress".to_owned()).spawn(move || theirs.pass_on(to));
        shared.state().over = started.is_err();
        Patient(Arc::new(Ours(shared)))
    }

    fn add(&self, bytes: &[u8]) {
        let mut state = self.0.0.state();
        if !state.over && state.waiting.len() + bytes.len() <= KEPT {
            state.waiting.extend_from_slice(bytes);
            self.0.0.changed.notify_all();
        }
    }

    fn wait_a_moment(&self) {
        let mut state = self.0.0.state();
        if !state.stands_still {
            let waited = self.0.0.changed.wait_timeout_while(state, PATIENCE, |state| state.is_busy());
            let timed_out;
            (state, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state.stands_still = timed_out.timed_out();
        }
    }

    /// Waits until everything is written, however long the reader takes.
    pub(super) fn settle(&self) {
        self.0.settle();
    }
}

impl Ours {
    fn settle(&self) {
        drop(self.0.changed.wait_while(self.0.state(), |state| state.is_busy()));
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.settle();
        self.0.state().over = true;
        self.0.changed.notify_all();
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wait_a_moment();
        Ok(())
    }
}

/// The terminal on standard error, written to by a [`Patient`].
pub(super) struct Screen(pub(super) Patient);

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

impl Screen {
    /// `CSI n letter` of ECMA-48; nothing for 0, which would mean 1.
    fn control(&self, n: usize, letter: char) -> io::Result<()> {
        if n > 0 {
            self.0.add(format!("\x1b[{n}{letter}").as_bytes());
        }
        Ok(())
    }
}

/// Columns and rows of the terminal on standard error.
fn size() -> (u16, u16) {
    #[cfg(target_os = "linux")]
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stderr())
        && size.ws_col > 0
        && size.ws_row > 0
    {
        return (size.ws_col, size.ws_row);
    }
    (80, 24)
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        size().0
    }

    fn height(&self) -> u16 {
        size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.control(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.control(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.control(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.control(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.add(text.as_bytes());
        self.0.add(b"\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.add(text.as_bytes());
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.add(b"\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.wait_a_moment();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    #[test]
    fn a_reader_that_stands_still_is_waited_for_once_and_gets_everything_when_it_goes_on() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stream = Patient::new(writer);
        let begin = Instant::now();
        // More than a pipe holds, and less than is kept.
        for _ in 0..150 {
            stream.write_all(&[b'x'; 1024]).unwrap();
            stream.flush().unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        // Beyond that nothing is kept.
        stream.write_all(&vec![b'y'; KEPT]).unwrap();
        let all = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        stream.settle();
        stream.write_all(b"end").unwrap();
        drop(stream);
        let all = all.join().unwrap();
        assert!(all.len() == 150 * 1024 + 3 && all.ends_with(b"xend"), "{}", all.len());
    }

    #[test]
    fn a_reader_that_is_gone_is_no_reason_to_wait() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut stream = Patient::new(writer);
        stream.write_all(b"nobody").unwrap();
        stream.settle();
    }
}
