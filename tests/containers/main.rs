//! Container mode with a real engine: whole runs of `ft` on small real repositories, in an image made of this machine's
//! own files, held against venv mode on the same repository.

#[path = "../cells/container.rs"]
#[allow(dead_code, reason = "the image alone is needed here")]
mod container;
mod death;
#[path = "../cli/harness.rs"]
#[allow(dead_code, reason = "made for more tests than these")]
mod harness;
mod images;
mod in_place;
mod matrix;
mod podman;
#[path = "../engine/private.rs"]
#[allow(dead_code, reason = "made for more tests than these")]
mod private;
#[path = "../images/harness.rs"]
#[allow(dead_code, reason = "made for more tests than these")]
mod recipes;
mod relay;
mod runs;
mod shared;
mod together;
mod trees;
