//! Real cells and hostile programs. Each attack has a control arm that succeeds without the walls, and the verdict comes
//! from outside wherever there is an outside to ask. Nothing here is skipped: a machine that can't raise a namespaces
//! cell fails these tests.
#![cfg(target_os = "linux")]

mod agent;
mod artifacts;
mod container;
mod death;
mod ends;
mod harness;
mod here;
mod here_relay;
mod hostile;
mod limits;
mod network;
mod relay;
mod scripted;
mod user;
mod walls;
mod witness;
