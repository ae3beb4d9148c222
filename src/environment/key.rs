//! Everything that determines an environment, as one name.

use super::interpreter::Interpreter;
use super::{Pinned, layout};
use sha2::{Digest, Sha256};

/// The name of an environment, `3.11.7-0123456789abcdef01234567`: what people read first, then a hash of everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvKey(String);

impl EnvKey {
    /// The key of a closure installed for an interpreter. The order of the closure does not count.
    ///
    /// What is in it: the interpreter (its bytes, version, ABI, platform, C library and place, which `pyvenv.cfg` and
    /// `bin/python` name, and the image that it is in), every package with all of its hashes, our layout and the `.pth` text. What is not: which
    /// program downloaded the wheels, for their bytes are compared; markers of the kernel, for the closure was already
    /// chosen by them.
    #[must_use]
    pub fn new(interpreter: &Interpreter, closure: &[Pinned]) -> EnvKey {
        let mut text = format!(
            "layout {}\npth {}\ninterpreter {} {} {}\n{}",
            layout::VERSION,
            layout::PTH.trim_end(),
            interpreter.facts.version,
            interpreter.sha256,
            interpreter.executable.display(),
            interpreter.tags(),
        );
        if let Some(image) = &interpreter.image {
            text += &format!("image {image}\n");
        }
        let mut closure: Vec<Pinned> = closure.to_vec();
        closure.sort_unstable();
        for pinned in &mut closure {
            pinned.hashes.sort_unstable();
            pinned.hashes.dedup();
            text += &format!("{} {} {} {}\n", pinned.name, pinned.version, pinned.sdist, pinned.hashes.join(" "));
        }
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        EnvKey(format!("{}-{}", interpreter.facts.version, &digest[..24]))
    }

    /// The text, which is the name of the environment's directory.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for EnvKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
