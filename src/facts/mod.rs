//! Facts: what is true of this repository and this machine, read and never judged.
//!
//! Findings are made from facts by the plan; nothing here decides what a fact means.

pub mod collection;
pub mod contents;
pub mod engines;
pub mod files;
pub mod git;
pub mod machine;
