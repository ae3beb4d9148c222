//! A scratch git directory that sees the repository's objects and nothing else of it.
//!
//! A checkout made here is what CI's fresh clone would check out: attributes of the tree itself count, but no
//! configuration of this clone or this user, so no filter drivers (large files stay pointers), no line-ending
//! settings, no local attributes. What it writes goes into its own folder.

use super::SnapshotError;
use crate::git::{Git, GitError, line};
use crate::repo::{Repo, path_bytes};
use std::path::{Path, PathBuf};

/// A git directory in a temporary folder, removed with it.
pub struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    /// An empty one in `folder`, beside which the objects of `repo` can be read.
    pub fn new(repo: &Repo, folder: &Path) -> Result<Store, SnapshotError> {
        let dir = tempfile::Builder::new().prefix("git.").tempdir_in(folder).map_err(SnapshotError::io(folder))?;
        let store = Store { dir };
        store.write("HEAD", b"ref: refs/heads/none\n")?;
        store.write("config", config(&repo.object_format).as_bytes())?;
        for folder in ["refs", "objects/info", "objects/pack"] {
            let at = store.path().join(folder);
            std::fs::create_dir_all(&at).map_err(SnapshotError::io(&at))?;
        }
        // Without it git would look for the parents that a shallow clone does not have.
        let shallow = repo.common_dir.join("shallow");
        match std::fs::read(&shallow) {
            Ok(lines) => store.write("shallow", &lines)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SnapshotError::io(shallow)(error)),
        }
        store.borrow_objects(&[&repo.common_dir.join("objects")])?;
        Ok(store)
    }

    /// Lets the store read objects from these directories, and no longer from others.
    pub fn borrow_objects(&self, from: &[&Path]) -> Result<(), SnapshotError> {
        let lines: Vec<u8> = from.iter().flat_map(|dir| quoted(path_bytes(dir))).collect();
        self.write("objects/info/alternates", &lines)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A call of git on this store alone.
    pub fn git(&self) -> Git {
        alone(self.path(), self.path())
    }

    /// Writes a file of the store.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        let at = self.path().join(name);
        std::fs::write(&at, bytes).map_err(SnapshotError::io(&at))
    }

    /// The tree that a commit made now from this index would have. Objects that are missing for it are written here.
    pub fn index_tree(&self, repo: &Repo, index_file: Option<&Path>) -> Result<String, SnapshotError> {
        let index = match index_file {
            Some(path) => repo.top.join(path),
            None => repo.git_dir.join("index"),
        };
        // A copy: writing a tree may refresh the index.
        let copy = self.path().join("index-copy");
        match std::fs::copy(&index, &copy) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && index_file.is_none() => {}
            Err(error) => return Err(SnapshotError::io(index)(error)),
        }
        let tree = Git::at(&repo.top)
            .env("GIT_INDEX_FILE", &copy)
            .env("GIT_OBJECT_DIRECTORY", self.path().join("objects"))
            .args(["write-tree"])
            .output();
        match tree {
            Ok(tree) => Ok(line(&tree)),
            Err(GitError::Failed { message, .. }) if message.contains("unmerged") => Err(SnapshotError::Unmerged),
            Err(error) => Err(error.into()),
        }
    }
}

/// A call of git on a git directory of our own, without the configuration of user and machine.
pub fn alone(git_dir: &Path, home: &Path) -> Git {
    Git::at(git_dir)
        .env("GIT_DIR", git_dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        // For a git that does not know GIT_CONFIG_GLOBAL (before 2.32), and for $HOME/.config/git/attributes.
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
}

/// The configuration of a git directory that we make.
pub fn config(object_format: &str) -> String {
    let (version, extension) = match object_format {
        "sha1" => (0, String::new()),
        other => (1, format!("[extensions]\n\tobjectFormat = {other}\n")),
    };
    format!("[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n{extension}")
}

/// A path as `objects/info/alternates` has it, one line: quoted where it would not be read as it is.
fn quoted(path: &[u8]) -> Vec<u8> {
    let plain = !path.iter().any(|b| matches!(b, b'"' | b'\\' | b'\n')) && !path.starts_with(b"#");
    let mut text = Vec::new();
    if plain {
        text.extend_from_slice(path);
    } else {
        text.push(b'"');
        for byte in path {
            match byte {
                b'"' | b'\\' => text.extend([b'\\', *byte]),
                b'\n' => text.extend(b"\\n"),
                _ => text.push(*byte),
            }
        }
        text.push(b'"');
    }
    text.push(b'\n');
    text
}

/// Where git keeps the objects of the repository around this folder.
pub fn objects_of(folder: &Path) -> Result<PathBuf, GitError> {
    let common = Git::at(folder).args(["rev-parse", "--git-common-dir"]).output()?;
    Ok(folder.join(crate::git::path_line(&common)).join("objects"))
}
