//! A cell takes a tree and a manifest, emits frames, and gives back artifacts; everything else is a pure function of
//! those frames.

pub mod code;
pub mod frame;

#[cfg(feature = "host")]
pub mod cell;
#[cfg(feature = "host")]
pub mod environment;
#[cfg(feature = "host")]
pub mod finding;
#[cfg(feature = "host")]
pub mod lock;
#[cfg(feature = "host")]
pub mod step;
