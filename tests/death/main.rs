//! What is left when somebody dies. The real `ft` on a small real repository; the runner, the starter of a cell and its
//! agent are killed at points spread over a whole run; and whoever looks afterwards looks from outside: descendants that
//! the kernel hands to this process, mounts and control groups of the machine, the files of the repository.
//!
//! Nothing here needs an index: the repository's environment is a Python without packages.
#![cfg(target_os = "linux")]

mod ends;
mod harness;
mod points;
mod terminal;
