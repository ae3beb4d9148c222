//! A cell takes a tree and a manifest, emits frames, and gives back artifacts; everything else is a pure function of
//! those frames.
//!
//! # The story
//!
//! 1. [`cli`] turns argv and environment variables into typed values. Nothing starts there.
//! 2. [`lock`] parses and validates `ci/parity.lock.json`. It does not look at the repository.
//! 3. [`facts`] reads repository and machine: git state, hashes, what can be enforced (found by trying).
//! 4. [`plan`] is pure: lock, facts and request become steps and findings. A self-check stops here.
//! 5. [`snapshot`] writes the tree that is checked, once; every step gets its own view of it.
//! 6. [`environment`] finds the sealed environment for its key, or builds it from verified wheels.
//! 7. [`cell`] raises walls around one step; inside, [`agent`] is PID 1 and speaks [`frame`]s.
//! 8. [`run`] decides what happens next, as a state machine; [`session`] is the one `select!` that performs it and
//!    appends every [`event`] to `events.jsonl`.
//! 9. [`outcome`] folds events. The outcome of a live run equals that of its replayed events.
//! 10. [`report`] turns an outcome into bytes, [`ui`] shows it, [`artifacts`] receives and publishes files.
//! 11. [`entry()`] returns the exit code of the outcome. Nothing else in the program exits.
//!
//! # Who may import whom
//!
//! Pure: [`code`], [`escape`], [`etc`], [`frame`], [`network`], [`finding`], [`step`], [`repo`], [`lock`], [`plan`], [`results`],
//! [`event`], [`run`], [`outcome`], [`doctor`], [`report`]. They import only each other. Effects import pure modules, and
//! not each other, but for what are tools of theirs: [`mod@git`] (how git is called), [`mod@engine`] (how a container
//! engine is reached), [`lib_py`] (our Python files) and [`tar_writer`]. [`image`] makes, reads and identifies container
//! images; what an image is called stands in [`lock::image`].
//! Wiring ([`session`], [`commands`]) imports all; nothing imports wiring. `tests/house` reads the sources against this.
//! `unsafe` stands in [`linux`] only. With the feature `agent` alone the crate is the agent's: no runtime, no argument
//! parser, no procedural macros.
//!
//! # Three kinds of bad news
//!
//! A [`finding::Finding`] is a deviation of the repository: a result. An error is that we could not do our job: it
//! becomes an event, and the run leaves with 69. A bug is a panic: 70.

#[cfg(target_os = "linux")]
pub mod agent;
pub mod code;
pub mod escape;
pub mod etc;
pub mod frame;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod network;

#[cfg(feature = "host")]
pub mod artifacts;
#[cfg(all(feature = "host", unix))]
pub mod bytecode;
#[cfg(feature = "host")]
pub mod cell;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod commands;
#[cfg(feature = "host")]
pub mod doctor;
#[cfg(feature = "host")]
pub mod engine;
#[cfg(feature = "host")]
mod entry;
#[cfg(feature = "host")]
pub mod environment;
#[cfg(feature = "host")]
pub mod event;
#[cfg(feature = "host")]
pub mod facts;
#[cfg(feature = "host")]
pub mod finding;
#[cfg(feature = "host")]
pub mod git;
#[cfg(feature = "host")]
pub mod hooks;
#[cfg(feature = "host")]
pub mod image;
#[cfg(feature = "host")]
pub mod leftovers;
#[cfg(feature = "host")]
pub mod lib_py;
#[cfg(feature = "host")]
pub mod lock;
#[cfg(feature = "host")]
pub mod outcome;
#[cfg(feature = "host")]
pub mod plan;
#[cfg(feature = "host")]
pub mod repo;
#[cfg(feature = "host")]
pub mod report;
#[cfg(feature = "host")]
pub mod resolve;
#[cfg(feature = "host")]
pub mod results;
#[cfg(feature = "host")]
pub mod run;
#[cfg(feature = "host")]
pub mod session;
#[cfg(feature = "host")]
pub mod snapshot;
#[cfg(feature = "host")]
pub mod step;
#[cfg(feature = "host")]
pub mod tar_writer;
#[cfg(feature = "host")]
pub mod ui;

#[cfg(feature = "host")]
pub use commands::Front;
#[cfg(feature = "host")]
pub use entry::{entry, guarded};
