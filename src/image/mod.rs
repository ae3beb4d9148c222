//! Container images: made, read, identified.
//!
//! [`archive`] writes image archives whose id is the same on every machine, and reads foreign ones without believing them.
//! [`identity`] compares what the lock says of an image with what an engine or an archive has. Verified first, used after:
//! nothing of an image that is not the one of the lock ever reaches a cell.

pub mod archive;
pub mod bundle;
pub mod identity;
pub mod store;
