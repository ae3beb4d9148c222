//! A cell takes a tree and a manifest, emits frames, and gives back artifacts; everything else is a pure function of
//! those frames.

pub mod code;
pub mod frame;

#[cfg(feature = "host")]
pub mod cell;
#[cfg(feature = "host")]
pub mod event;
#[cfg(feature = "host")]
pub mod facts;
#[cfg(feature = "host")]
pub mod finding;
#[cfg(feature = "host")]
pub mod git;
#[cfg(feature = "host")]
pub mod lib_py;
#[cfg(feature = "host")]
pub mod lock;
#[cfg(feature = "host")]
pub mod outcome;
#[cfg(feature = "host")]
pub mod plan;
#[cfg(feature = "host")]
pub mod report;
#[cfg(feature = "host")]
pub mod results;
#[cfg(feature = "host")]
pub mod repo;
#[cfg(feature = "host")]
pub mod run;
#[cfg(feature = "host")]
pub mod snapshot;
#[cfg(feature = "host")]
pub mod step;
#[cfg(feature = "host")]
pub mod ui;
