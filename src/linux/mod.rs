//! What the cell asks of the kernel and no safe crate offers: the only `unsafe` of the program.
//!
//! Each function says what it asks for, who may call it and what failure means. Nothing here knows a plan or a step,
//! and nothing here decides; rustix is used directly by the callers wherever it has the call.
#![expect(unsafe_code, reason = "the one place for it")]

pub mod cgroup;
pub mod diag;
pub mod ids;
pub mod landlock;
pub mod namespaces;
pub mod notify;
pub mod process;
pub mod route;
pub mod seccomp;
pub mod socket;
pub mod trial;

use std::io;

/// A call that failed, with its arguments in words.
#[derive(Debug)]
pub struct CallError {
    /// What was asked for: `mount overlay at /ft/work`.
    pub call: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, self.source)
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Names the call on the way up, so that no error is a bare number.
pub trait Named<T> {
    /// The same result, with the call in words.
    ///
    /// # Errors
    /// The same error, named.
    fn named(self, call: impl FnOnce() -> String) -> Result<T, CallError>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T, CallError> {
        self.map_err(|source| CallError { call: call(), source: source.into() })
    }
}

/// A C return value where -1 means that `errno` says why.
fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
