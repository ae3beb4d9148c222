//! What the wheel store holds of a lock, for a machine without network, and what is put into it there. Files and choices
//! are those that a fetch leaves; each is compared with the lock's hashes on the way out and on the way in.

use super::fetch::{Chosen, WheelStore, plain_name};
use super::{PathError, layout, locks, seal};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Of which file fits an interpreter: the name of the choice, which stands for interpreter and hashes, and the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// 40 hexadecimal digits.
    pub key: String,
    /// What was chosen.
    pub chosen: Chosen,
}

impl Choice {
    /// A choice as it is written: key, digest and name of a file. `None` where one of them can't be.
    #[must_use]
    pub fn read(key: &str, text: &str, locked: &BTreeSet<String>) -> Option<Choice> {
        let (sha256, file) = text.trim_end().split_once(' ')?;
        let key_is_one = key.len() == 40 && key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let good = key_is_one && locked.contains(&format!("sha256:{sha256}")) && plain_name(file);
        good.then(|| Choice {
            key: key.to_owned(),
            chosen: Chosen { sha256: sha256.to_owned(), file: file.to_owned() },
        })
    }

    /// What [`Choice::read`] reads.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}\n", self.chosen.sha256, self.chosen.file)
    }
}

impl WheelStore {
    /// The files and choices that the store holds for these hashes (`sha256:...`). A file whose bytes are others is left out.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn held(&self, locked: &BTreeSet<String>) -> Result<(Vec<Chosen>, Vec<Choice>), PathError> {
        let (mut files, mut choices) = (Vec::new(), Vec::new());
        for sha256 in locked.iter().filter_map(|hash| hash.strip_prefix("sha256:")) {
            for file in names(&self.root().join("files").join(sha256))?.into_iter().filter(|file| plain_name(file)) {
                let chosen = Chosen { sha256: sha256.to_owned(), file };
                let path = self.file(&chosen);
                let (_, found) = seal::hash_file(&path).map_err(PathError::at(&path))?;
                if hex::encode(found) == chosen.sha256 {
                    files.push(chosen);
                }
            }
        }
        let folder = self.root().join("choices");
        for key in names(&folder)? {
            let path = folder.join(&key);
            let text = std::fs::read_to_string(&path).map_err(PathError::at(&path))?;
            choices.extend(Choice::read(&key, &text, locked).filter(|choice| files.contains(&choice.chosen)));
        }
        Ok((files, choices))
    }

    /// Takes a file that the lock names into the store.
    ///
    /// # Errors
    /// Its bytes are not those of its digest (`InvalidData`), it has no name of a file, or it can't be written.
    pub fn adopt(&self, chosen: &Chosen, from: &Path) -> Result<(), PathError> {
        let refuse = |what: &str| PathError::at(from)(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        if !plain_name(&chosen.file) {
            return Err(refuse("no name of a wheel"));
        }
        let target = self.file(chosen);
        let folder = target.parent().unwrap_or(self.root());
        layout::create_dirs(folder)?;
        // Copied first and hashed after: what is hashed is what stays.
        let copy =
            tempfile::Builder::new().prefix(".tmp-").tempfile_in(self.root()).map_err(PathError::at(self.root()))?;
        std::fs::copy(from, copy.path()).map_err(PathError::at(from))?;
        let (_, found) = seal::hash_file(copy.path()).map_err(PathError::at(copy.path()))?;
        if hex::encode(found) != chosen.sha256 {
            return Err(refuse(&format!("has sha256 {}, and its name says {}", hex::encode(found), chosen.sha256)));
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        copy.as_file()
            .set_permissions(mode)
            .and_then(|()| copy.as_file().sync_all())
            .map_err(PathError::at(&target))?;
        copy.persist(&target).map(drop).map_err(|error| PathError::at(&target)(error.error))
    }

    /// Remembers which file fits an interpreter, as another machine has found out.
    ///
    /// # Errors
    /// It can't be written.
    pub fn adopt_choice(&self, choice: &Choice) -> Result<(), PathError> {
        let folder = self.root().join("choices");
        layout::create_dirs(&folder)?;
        seal::write_atomic(&folder.join(&choice.key), choice.text().as_bytes())?;
        Ok(())
    }

    /// Holds the store for writing; `None` where another process does.
    ///
    /// # Errors
    /// The store can't be written to.
    pub fn try_hold(&self) -> Result<Option<locks::Held>, PathError> {
        layout::create_dirs(self.root())?;
        locks::try_exclusive(&self.lock_path())
    }
}

/// The names in a directory, sorted; none where it is not there.
fn names(folder: &Path) -> Result<Vec<String>, PathError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(PathError::at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(PathError::at(folder))?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn what_one_store_holds_another_takes_and_nothing_else() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (WheelStore::open(one.path().join("w")), WheelStore::open(other.path().join("w")));
        let chosen = |text: &str| Chosen {
            sha256: hex::encode(Sha256::digest(text)),
            file: format!("{text}-1-py3-none-any.whl"),
        };
        let (a, b) = (chosen("a"), chosen("b"));
        for (chosen, text) in [(&a, "a"), (&b, "b")] {
            std::fs::create_dir_all(one.file(chosen).parent().unwrap()).unwrap();
            std::fs::write(one.file(chosen), text).unwrap();
            let choice = Choice { key: "0".repeat(39) + text, chosen: chosen.clone() };
            one.adopt_choice(&choice).unwrap();
        }
        // The lock has only the first, and a third that nobody has.
        let locked: BTreeSet<String> = [format!("sha256:{}", a.sha256), format!("sha256:{}", "0".repeat(64))].into();
        let (files, choices) = one.held(&locked).unwrap();
        assert_eq!((files.as_slice(), choices.len(), &choices[0].chosen), (&[a.clone()][..], 1, &a));
        let _held = other.try_hold().unwrap().unwrap();
        other.adopt(&a, &one.file(&a)).unwrap();
        other.adopt_choice(&choices[0]).unwrap();
        assert_eq!(other.held(&locked).unwrap(), (files, choices));
        // Other bytes under the right name.
        let error = other.adopt(&a, &one.file(&b)).unwrap_err();
        assert!(error.to_string().contains("and its name says"), "{error}");
        std::fs::write(one.file(&a), "x").unwrap();
        assert_eq!(one.held(&locked).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn a_choice_that_names_what_the_lock_does_not_have_is_none() {
        let sha256 = "1".repeat(64);
        let locked: BTreeSet<String> = [format!("sha256:{sha256}")].into();
        let key = "a".repeat(40);
        assert!(Choice::read(&key, &format!("{sha256} a.whl\n"), &locked).is_some());
        for (key, text) in [
            ("../../x", format!("{sha256} a.whl")),
            (key.as_str(), format!("{} a.whl", "2".repeat(64))),
            (key.as_str(), format!("{sha256} ../a.whl")),
            (key.as_str(), sha256.clone()),
        ] {
            assert_eq!(Choice::read(key, &text, &locked), None, "{key} {text}");
        }
    }
}
