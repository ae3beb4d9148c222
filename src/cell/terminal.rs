//! The caller's own terminal, lent to a command in a cell, and taken back as it was.
//!
//! The command becomes the foreground of the terminal by itself; Ctrl-C, Ctrl-Z and window changes go to it and not to
//! this process. When it is over, or whatever else ends the loan, foreground and modes are what they were before.

use rustix::process::{Pid, getpgrp};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};
use std::io;
use std::os::fd::AsFd;

/// Why there is no terminal to lend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTerminal {
    /// Standard input is a pipe, a file or closed.
    #[error("standard input is not a terminal")]
    NotOne,
    /// Another job has it: `ft shell &`.
    #[error("this is not the foreground job of its terminal")]
    Background,
}

/// A terminal on loan; dropping it takes it back.
#[derive(Debug)]
pub struct Terminal {
    modes: Termios,
    group: Pid,
}

impl Terminal {
    /// Remembers modes and foreground of standard input's terminal.
    ///
    /// # Errors
    /// [`NoTerminal`].
    pub fn lend() -> Result<Terminal, NoTerminal> {
        let input = io::stdin();
        if !isatty(input.as_fd()) {
            return Err(NoTerminal::NotOne);
        }
        let modes = tcgetattr(input.as_fd()).map_err(|_| NoTerminal::NotOne)?;
        match tcgetpgrp(input.as_fd()) {
            Ok(group) if group == getpgrp() => {
                // From the background nobody may change a terminal: it would stop us. The command gets its own signals.
                crate::linux::process::ignore(rustix::process::Signal::TTOU.as_raw());
                Ok(Terminal { modes, group })
            }
            _ => Err(NoTerminal::Background),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let input = io::stdin();
        // A terminal that is gone needs nothing back.
        let _ = tcsetpgrp(input.as_fd(), self.group);
        let _ = tcsetattr(input.as_fd(), OptionalActions::Drain, &self.modes);
    }
}
