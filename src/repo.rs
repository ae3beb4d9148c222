//! A repository as plain values: where it is, what of it is checked, and what git's machine-readable output means.
//!
//! Pure: nothing here reads a file or starts a program (`facts::git` finds a [`Repo`], [`crate::git`] runs git).

use std::path::{Path, PathBuf};

/// A git repository with a worktree, and the part of it that the lock speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// The repository root: the nearest folder at or above the caller's that holds a lock, else git's top level.
    /// Absolute, without links. Everything that `ft` reads and writes is relative to it.
    pub root: PathBuf,
    /// Git's top level; [`Repo::root`] or a folder above it.
    pub top: PathBuf,
    /// This worktree's own git directory (`.git`, `.git/worktrees/NAME`, `.git/modules/NAME`). Absolute.
    pub git_dir: PathBuf,
    /// The git directory that all linked worktrees share. Absolute.
    pub common_dir: PathBuf,
    /// The commit that is checked out, in hex; `None` before the first commit.
    pub head: Option<String>,
    /// `sha1` or `sha256`.
    pub object_format: String,
}

impl Repo {
    /// A repository of which only the root is known, and that not for sure: enough to read files of its worktree.
    #[must_use]
    pub fn unconfirmed(root: PathBuf) -> Repo {
        let git_dir = root.join(".git");
        let (top, common_dir) = (root.clone(), git_dir.clone());
        Repo { root, top, git_dir, common_dir, head: None, object_format: String::new() }
    }

    /// [`Repo::root`] relative to [`Repo::top`], with `/` between and behind names as git writes it: empty, or
    /// `services/api/`.
    #[must_use]
    pub fn prefix(&self) -> Vec<u8> {
        let below = self.root.strip_prefix(&self.top).unwrap_or(Path::new(""));
        let mut prefix = Vec::new();
        for name in below.components() {
            prefix.extend_from_slice(name.as_os_str().as_encoded_bytes());
            prefix.push(b'/');
        }
        prefix
    }

    /// Where `ft` keeps what it may lose: `.firsttry` below the root.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root.join(STATE_DIR)
    }
}

/// The folder of caches, environments and runs, below [`Repo::root`].
pub const STATE_DIR: &str = ".firsttry";
/// The folder that runs publish to, below [`Repo::root`].
pub const ARTIFACTS_DIR: &str = "artifacts";
/// The link to the current environment, below [`Repo::root`].
pub const VENV_LINK: &str = ".venv-parity";

/// Whether a path relative to the root is one that `ft` itself writes and git need not know.
#[must_use]
pub fn is_ours(path: &[u8]) -> bool {
    [STATE_DIR, ARTIFACTS_DIR, VENV_LINK]
        .iter()
        .any(|ours| path.strip_prefix(ours.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

/// Which tree is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The files that git tracks, as they are on disk.
    Worktree,
    /// What a commit made now would hold.
    Index {
        /// Another index than the worktree's own: the value of `GIT_INDEX_FILE` in a hook. Relative to
        /// [`Repo::top`], as git means it.
        index_file: Option<PathBuf>,
    },
    /// A commit, by any name that git knows.
    Commit(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::Worktree => "worktree",
            Source::Index { .. } => "index",
            Source::Commit(name) => name,
        })
    }
}

/// What git tracks at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A regular file that may be executed.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A submodule: a commit of another repository.
    Submodule,
}

impl Kind {
    /// The kind of a mode as the index and trees write it; `None` for a mode that git no longer makes.
    #[must_use]
    pub fn of_mode(mode: &[u8]) -> Option<Kind> {
        Some(match mode {
            b"100644" | b"100664" => Kind::File,
            b"100755" => Kind::Executable,
            b"120000" => Kind::Symlink,
            b"160000" => Kind::Submodule,
            _ => return None,
        })
    }

    /// The mode as git writes it.
    #[must_use]
    pub fn mode(self) -> &'static str {
        match self {
            Kind::File => "100644",
            Kind::Executable => "100755",
            Kind::Symlink => "120000",
            Kind::Submodule => "160000",
        }
    }
}

/// One entry of the index or of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Relative to the directory that was listed, bytes as git has them, `/` between names.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The object's id, in hex.
    pub oid: String,
    /// The index tells git not to look at the file (`assume-unchanged` or `skip-worktree`).
    pub unwatched: bool,
}

/// A line that git's documentation does not explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("git wrote a line that can't be read: {0:?}")]
pub struct UnreadableLine(pub String);

fn unreadable(line: &[u8]) -> UnreadableLine {
    UnreadableLine(String::from_utf8_lossy(line).into_owned())
}

/// Reads `git ls-files --stage -v -z`: `TAG MODE OID STAGE<tab>PATH<nul>`. An unmerged path has several stages and is
/// given once, as the first one says.
///
/// # Errors
/// [`UnreadableLine`] for anything else.
pub fn parse_ls_files(output: &[u8]) -> Result<Vec<Tracked>, UnreadableLine> {
    let mut tracked: Vec<Tracked> = Vec::new();
    for line in records(output) {
        let (head, path) = split_at_byte(line, b'\t').ok_or_else(|| unreadable(line))?;
        let mut words = head.split(|b| *b == b' ');
        let (tag, mode, oid) = (words.next(), words.next(), words.next());
        let entry = (|| {
            let tag = *tag?.first()?;
            Some(Tracked {
                path: path.to_vec(),
                kind: Kind::of_mode(mode?)?,
                oid: std::str::from_utf8(oid?).ok()?.to_owned(),
                unwatched: tag.is_ascii_lowercase() || tag == b'S',
            })
        })()
        .ok_or_else(|| unreadable(line))?;
        if tracked.last().is_none_or(|last| last.path != entry.path) {
            tracked.push(entry);
        }
    }
    Ok(tracked)
}

/// Reads `git ls-tree -r -z`: `MODE TYPE OID<tab>PATH<nul>`.
///
/// # Errors
/// [`UnreadableLine`] for anything else.
pub fn parse_ls_tree(output: &[u8]) -> Result<Vec<Tracked>, UnreadableLine> {
    records(output)
        .map(|line| {
            let (head, path) = split_at_byte(line, b'\t').ok_or_else(|| unreadable(line))?;
            let mut words = head.split(|b| *b == b' ');
            let (mode, oid) = (words.next(), words.nth(1));
            (|| {
                Some(Tracked {
                    path: path.to_vec(),
                    kind: Kind::of_mode(mode?)?,
                    oid: std::str::from_utf8(oid?).ok()?.to_owned(),
                    unwatched: false,
                })
            })()
            .ok_or_else(|| unreadable(line))
        })
        .collect()
}

/// What `git status --porcelain=v2 -z` says. Paths are relative to git's top level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Tracked paths that differ from HEAD, staged or not; unmerged ones too.
    pub changed: Vec<Vec<u8>>,
    /// Paths that git neither tracks nor ignores.
    pub untracked: Vec<Vec<u8>>,
    /// Submodules with untracked files of their own.
    pub untracked_in_submodules: Vec<Vec<u8>>,
}

/// Reads `git status --porcelain=v2 -z`.
///
/// # Errors
/// [`UnreadableLine`] for a line of none of the documented kinds.
pub fn parse_status(output: &[u8]) -> Result<Status, UnreadableLine> {
    let mut status = Status::default();
    let mut lines = records(output);
    while let Some(line) = lines.next() {
        // How many fields stand before the path, in each kind of line (git-status(1), Porcelain Format Version 2).
        let fields = match line.first() {
            Some(b'#' | b'!') => continue,
            Some(b'?') => {
                status.untracked.push(line.get(2..).ok_or_else(|| unreadable(line))?.to_vec());
                continue;
            }
            Some(b'1') => 8,
            Some(b'2') => {
                lines.next(); // the path it was renamed from
                9
            }
            Some(b'u') => 10,
            _ => return Err(unreadable(line)),
        };
        let mut words = line.splitn(fields + 1, |b| *b == b' ');
        let submodule = words.nth(2).ok_or_else(|| unreadable(line))?;
        let path = words.nth(fields - 3).ok_or_else(|| unreadable(line))?.to_vec();
        if submodule.first() == Some(&b'S') && submodule.get(3) == Some(&b'U') {
            status.untracked_in_submodules.push(path.clone());
            if submodule == b"S..U" {
                continue;
            }
        }
        status.changed.push(path);
    }
    Ok(status)
}

/// The parts of output that was written with `-z`.
fn records(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|b| *b == 0).filter(|line| !line.is_empty())
}

fn split_at_byte(line: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|b| *b == byte)?;
    Some((&line[..at], &line[at + 1..]))
}

/// A path of git's as one of this system. Bytes stay as they are on Unix; elsewhere a path is UTF-8 or is replaced
/// by what can be shown.
#[must_use]
pub fn native(path: &[u8]) -> PathBuf {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(path))
    }
    #[cfg(not(unix))]
    {
        PathBuf::from(String::from_utf8_lossy(path).into_owned())
    }
}

/// The reverse of [`native`].
#[must_use]
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// A path as a person reads it: text where it is text, escapes where it is not, never a control character.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_prefix_is_written_as_git_writes_it() {
        let mut repo = Repo {
            root: "/r/a/b".into(),
            top: "/r".into(),
            git_dir: "/r/.git".into(),
            common_dir: "/r/.git".into(),
            head: None,
            object_format: "sha1".into(),
        };
        assert_eq!(repo.prefix(), b"a/b/");
        repo.root = "/r".into();
        assert_eq!(repo.prefix(), b"");
    }

    #[test]
    fn only_our_own_paths_are_ours() {
        for path in [".firsttry", ".firsttry/x", ".venv-parity", "artifacts/a"] {
            assert!(is_ours(path.as_bytes()), "{path}");
        }
        for path in [".firsttry2", "sub/artifacts/a", "artifactsx", "a"] {
            assert!(!is_ours(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn flags_that_blind_git_are_read_from_the_tag() {
        let oid = "a".repeat(40);
        let text = format!("H 100644 {oid} 0\ta\0h 100755 {oid} 0\tb c\0S 120000 {oid} 0\td\0s 100644 {oid} 0\te\0");
        let seen = parse_ls_files(text.as_bytes()).unwrap();
        assert_eq!(seen.iter().map(|t| t.unwatched).collect::<Vec<_>>(), [false, true, true, true]);
        assert_eq!(seen[1].path, b"b c");
        assert_eq!(seen[1].kind, Kind::Executable);
    }

    #[test]
    fn an_unmerged_path_is_given_once() {
        let oid = "a".repeat(40);
        let text = format!("M 100644 {oid} 1\ta\0M 100644 {oid} 2\ta\0M 100644 {oid} 3\ta\0");
        assert_eq!(parse_ls_files(text.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn a_status_with_every_kind_of_line_is_read() {
        let oid = "a".repeat(40);
        let text = format!(
            "# branch.oid {oid}\0# branch.head main\0\
             1 .M N... 100644 100644 100644 {oid} {oid} with space\0\
             2 R. N... 100644 100644 100644 {oid} {oid} R100 new\0old\0\
             1 .M S..U 160000 160000 160000 {oid} {oid} sub\0\
             u UU N... 100644 100644 100644 100644 {oid} {oid} {oid} both\0? un\ntracked\0! ignored\0"
        );
        let status = parse_status(text.as_bytes()).unwrap();
        assert_eq!(status.changed, [b"with space".to_vec(), b"new".to_vec(), b"both".to_vec()]);
        assert_eq!(status.untracked, [b"un\ntracked".to_vec()]);
        assert_eq!(status.untracked_in_submodules, [b"sub".to_vec()]);
    }

    #[test]
    fn a_shown_path_holds_no_control_character() {
        assert_eq!(shown(b"a\x1b[31m\xff\n\xc3\xa4"), "a\\u{1b}[31m\\xff\\n\u{e4}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_ls_files(&bytes);
            let _ = parse_ls_tree(&bytes);
            let _ = parse_status(&bytes);
            prop_assert!(!shown(&bytes).chars().any(char::is_control));
        }
    }
}
