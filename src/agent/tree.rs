//! A tree as a copy: how layers are laid over each other where no overlay can be mounted, and how what a step changed
//! becomes a layer again.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Lays a copy of `from` over `to`: directories, files (as reflinks where the file system has them), links, modes, times.
/// `alive` is called for each entry: a large tree takes its time.
pub fn copy_tree(from: &Path, to: &Path, alive: &mut dyn FnMut()) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        alive();
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata()?;
        let there = fs::symlink_metadata(&target).ok();
        // overlayfs marks what an upper layer removed with a device of number 0; as a copy it is just not there.
        let removed = meta.file_type().is_char_device() && meta.rdev() == 0;
        if there.as_ref().is_some_and(|t| !(t.is_dir() && meta.is_dir())) {
            if there.is_some_and(|t| t.is_dir()) { fs::remove_dir_all(&target)? } else { fs::remove_file(&target)? }
        }
        if meta.is_dir() {
            if fs::symlink_metadata(&target).is_err() {
                fs::create_dir(&target)?;
            }
            copy_tree(&source, &target, alive)?;
            fs::set_permissions(&target, meta.permissions())?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if meta.is_file() {
            // std copies with copy_file_range, which shares the blocks where it can.
            fs::copy(&source, &target)?;
            fs::File::options()
                .write(true)
                .open(&target)
                .or_else(|_| fs::File::open(&target))?
                .set_times(fs::FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?))?;
        }
        if removed || !(meta.is_dir() || meta.is_symlink() || meta.is_file()) {
            continue;
        }
        // As root the copy is the step's, like the original; for others both are theirs already.
        let _ = std::os::unix::fs::lchown(&target, Some(meta.uid()), Some(meta.gid()));
    }
    Ok(())
}

/// Moves everything in `from` to `to`, which is empty: by name where both are on one file system, else as a copy. What
/// overlayfs marks as removed stays marked.
pub fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if fs::rename(&source, &target).is_ok() {
            continue;
        }
        let meta = entry.metadata()?;
        if meta.is_dir() {
            fs::create_dir(&target)?;
            move_tree(&source, &target)?;
            fs::set_permissions(&target, meta.permissions())?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if meta.is_file() {
            fs::copy(&source, &target)?;
            let times = fs::FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?);
            let opened = fs::File::options().write(true).open(&target).or_else(|_| fs::File::open(&target))?;
            opened.set_times(times)?;
        } else if meta.file_type().is_char_device() && meta.rdev() == 0 {
            let device = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, &target, device, rustix::fs::Mode::empty(), 0)?;
        }
    }
    Ok(())
}

/// Removes a directory with everything in it, also where a step took the rights over its own directories away.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    open_all(path);
    fs::remove_dir_all(path)
}

fn open_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|e| open_all(&e.path()));
}

/// Puts into every file below `tree` what `content` makes of it, where it makes something else.
pub fn rewrite(tree: &Path, content: &dyn Fn(&[u8]) -> Option<Vec<u8>>, alive: &mut dyn FnMut()) -> io::Result<()> {
    for entry in fs::read_dir(tree)? {
        alive();
        let entry = entry?;
        let (at, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() {
            rewrite(&at, content, alive)?;
        } else if meta.is_file()
            && let Some(new) = content(&fs::read(&at)?)
        {
            // A file of its own: what was copied may be read-only.
            fs::remove_file(&at)?;
            fs::write(&at, new)?;
            fs::set_permissions(&at, meta.permissions())?;
        }
    }
    Ok(())
}

/// What tells a file that was touched from one that was not. The change time can't be set back by a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(meta: &Metadata) -> Mark {
        // Directories change with what is in them, which has marks of its own.
        let directory = meta.is_dir();
        let times = |time: (i64, i64)| if directory { (0, 0) } else { time };
        Mark {
            inode: meta.ino(),
            mode: meta.mode(),
            size: if directory { 0 } else { meta.size() },
            modified: times((meta.mtime(), meta.mtime_nsec())),
            changed: times((meta.ctime(), meta.ctime_nsec())),
        }
    }
}

/// A copied tree as it was before the step.
#[derive(Debug, Default)]
pub struct Before {
    marks: HashMap<PathBuf, Mark>,
}

impl Before {
    /// Looks at everything below `tree`.
    pub fn record(tree: &Path) -> Before {
        let mut marks = HashMap::new();
        let _ = walk(tree, Path::new(""), &mut |path, meta| {
            marks.insert(path.to_owned(), Mark::of(meta));
        });
        Before { marks }
    }

    /// Leaves of `tree` only what is new or changed, and marks what is gone as overlayfs does (a device of number 0):
    /// the upper layer that an overlay would have left.
    ///
    /// # Errors
    /// Where something can't be removed or marked. The tree is more than a layer then, and still holds every change.
    pub fn reduce(mut self, tree: &Path) -> io::Result<()> {
        let mut same = Vec::new();
        walk(tree, Path::new(""), &mut |path, meta| {
            if self.marks.remove(path) == Some(Mark::of(meta)) {
                same.push((path.to_owned(), meta.is_dir()));
            }
        })?;
        let mut gone: Vec<PathBuf> = self.marks.into_keys().filter(|path| !exists(&tree.join(path))).collect();
        gone.sort();
        // Of a directory that is gone, itself: what was in it goes with it.
        gone.dedup_by(|path, above| path.starts_with(above));
        for path in gone {
            let at = tree.join(path);
            if at.parent().is_some_and(Path::is_dir) {
                let device = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(rustix::fs::CWD, &at, device, rustix::fs::Mode::empty(), 0)?;
            }
        }
        // Deepest first, so that directories with nothing new in them are empty when their turn comes.
        for (path, directory) in same.into_iter().rev() {
            let at = tree.join(path);
            if directory {
                let _ = fs::remove_dir(&at);
            } else {
                fs::remove_file(&at)?;
            }
        }
        Ok(())
    }
}

impl Before {
    /// Writes as a tar what is new or changed in `tree`, and what is gone as a device of number 0: laid over the tree as
    /// it was, that gives the tree as it is. Nothing in `tree` changes.
    ///
    /// # Errors
    /// Where `into` takes no more, or something can't be read.
    pub fn changes(&self, tree: &Path, into: &mut impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(into);
        let mut seen = HashMap::new();
        let mut changed = Vec::new();
        walk(tree, Path::new(""), &mut |path, meta| {
            seen.insert(path.to_owned(), ());
            if self.marks.get(path) != Some(&Mark::of(meta)) {
                changed.push((path.to_owned(), Some(meta.clone())));
            }
        })?;
        let mut gone: Vec<&PathBuf> = self.marks.keys().filter(|path| !seen.contains_key(*path)).collect();
        gone.sort();
        // Of a directory that is gone, itself: what was in it goes with it.
        gone.dedup_by(|path, above| path.starts_with(above.as_path()));
        // What replaced a directory stands for all that was in it.
        let in_directory = |path: &PathBuf| path.parent().is_some_and(|parent| tree.join(parent).is_dir());
        changed.extend(gone.into_iter().filter(|path| in_directory(path)).map(|path| (path.clone(), None)));
        changed.sort_by(|a, b| a.0.cmp(&b.0));
        let mut written: Vec<PathBuf> = Vec::new();
        for (path, meta) in &changed {
            // The directories above, unless the last entry stands in them too.
            let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
            above.reverse();
            written.retain(|directory| path.starts_with(directory));
            for directory in above {
                if !written.iter().any(|have| have == directory) {
                    append(&mut archive, tree, directory, Some(&fs::symlink_metadata(tree.join(directory))?))?;
                    written.push(directory.to_owned());
                }
            }
            append(&mut archive, tree, path, meta.as_ref())?;
            if meta.as_ref().is_some_and(Metadata::is_dir) {
                written.push(path.clone());
            }
        }
        archive.finish()
    }
}

fn append(archive: &mut tar::Builder<impl Write>, tree: &Path, path: &Path, meta: Option<&Metadata>) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(meta.map_or(0, |meta| meta.mode() & 0o777));
    header.set_mtime(meta.map_or(0, |meta| meta.mtime().max(0).cast_unsigned()));
    let Some(meta) = meta else {
        header.set_entry_type(tar::EntryType::Char);
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        return archive.append_data(&mut header, path, io::empty());
    };
    if meta.mtime_nsec() != 0 && (meta.is_dir() || meta.is_symlink() || meta.is_file()) {
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        archive.append_pax_extensions([("mtime", time.as_bytes())])?;
    }
    if meta.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, path, io::empty())
    } else if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        let target = fs::read_link(tree.join(path))?;
        archive.append_link(&mut header, path, Path::new(std::ffi::OsStr::from_bytes(target.as_os_str().as_bytes())))
    } else if meta.is_file() {
        let file = fs::File::open(tree.join(path))?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(meta.size());
        archive.append_data(&mut header, path, io::Read::take(file, meta.size()))
    } else {
        // Sockets and pipes were somebody's who is gone.
        Ok(())
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Visits everything below `top`, each directory before what is in it. Links are not followed; a directory that can't be
/// read is visited and not entered.
fn walk(top: &Path, below: &Path, visit: &mut impl FnMut(&Path, &Metadata)) -> io::Result<()> {
    for entry in fs::read_dir(top.join(below))? {
        let entry = entry?;
        let (path, meta) = (below.join(entry.file_name()), entry.metadata()?);
        visit(&path, &meta);
        if meta.is_dir() {
            let _ = walk(top, &path, visit);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_of_layers_is_what_an_overlay_shows() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["below/sub", "above/sub", "to"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("below/sub/both"), "below").unwrap();
        fs::write(at("below/sub/only"), "only").unwrap();
        fs::write(at("below/becomes_link"), "file").unwrap();
        fs::set_permissions(at("below/sub/only"), fs::Permissions::from_mode(0o555)).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(at("below/sub/both")).unwrap().set_modified(time).unwrap();
        fs::write(at("above/sub/both"), "above").unwrap();
        fs::File::options().write(true).open(at("above/sub/both")).unwrap().set_modified(time).unwrap();
        symlink("sub/both", at("above/becomes_link")).unwrap();
        copy_tree(&at("below"), &at("to"), &mut || ()).unwrap();
        copy_tree(&at("above"), &at("to"), &mut || ()).unwrap();
        assert_eq!(fs::read_to_string(at("to/sub/both")).unwrap(), "above");
        assert_eq!(fs::read_to_string(at("to/sub/only")).unwrap(), "only");
        assert_eq!(fs::read_link(at("to/becomes_link")).unwrap(), Path::new("sub/both"));
        assert_eq!(fs::metadata(at("to/sub/only")).unwrap().mode() & 0o777, 0o555);
        assert_eq!(fs::metadata(at("to/sub/both")).unwrap().modified().unwrap(), time);
        // None of the layers was changed by it.
        assert_eq!(fs::read_to_string(at("below/sub/both")).unwrap(), "below");
    }

    #[test]
    fn what_is_left_of_a_copy_is_the_layer_that_an_overlay_would_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let (below, tree) = (dir.path().join("below"), dir.path().join("tree"));
        for path in ["kept/deep", "gone/deep", "mixed"] {
            fs::create_dir_all(below.join(path)).unwrap();
        }
        for path in ["kept/deep/a", "gone/deep/b", "mixed/changed", "mixed/same", "mixed/removed", "replaced"] {
            fs::write(below.join(path), "before").unwrap();
        }
        fs::create_dir(&tree).unwrap();
        copy_tree(&below, &tree, &mut || ()).unwrap();
        let before = Before::record(&tree);
        fs::remove_dir_all(tree.join("gone")).unwrap();
        fs::remove_file(tree.join("mixed/removed")).unwrap();
        fs::write(tree.join("mixed/changed"), "after!").unwrap();
        fs::write(tree.join("mixed/new"), "new").unwrap();
        fs::remove_file(tree.join("replaced")).unwrap();
        fs::create_dir(tree.join("replaced")).unwrap();
        fs::write(tree.join("replaced/inner"), "x").unwrap();
        before.reduce(&tree).unwrap();
        let mut left = Vec::new();
        walk(&tree, Path::new(""), &mut |path, meta| {
            let removed = meta.file_type().is_char_device() && meta.rdev() == 0;
            left.push(format!("{}{}", path.display(), if removed { " removed" } else { "" }));
        })
        .unwrap();
        left.sort();
        assert_eq!(
            left,
            [
                "gone removed",
                "mixed",
                "mixed/changed",
                "mixed/new",
                "mixed/removed removed",
                "replaced",
                "replaced/inner"
            ]
        );
        // Laid over the tree again it gives what the step saw.
        let next = dir.path().join("next");
        fs::create_dir(&next).unwrap();
        copy_tree(&below, &next, &mut || ()).unwrap();
        copy_tree(&tree, &next, &mut || ()).unwrap();
        assert!(!next.join("gone").exists() && !next.join("mixed/removed").exists());
        assert_eq!(fs::read_to_string(next.join("mixed/changed")).unwrap(), "after!");
        assert!(next.join("kept/deep/a").exists() && next.join("replaced/inner").exists());
        // Moved, by name and as a copy, it is the same layer.
        let here = std::path::PathBuf::from("/dev/shm");
        let far = if here.is_dir() { tempfile::tempdir_in(&here).unwrap() } else { tempfile::tempdir().unwrap() };
        move_tree(&tree, far.path()).unwrap();
        let again = dir.path().join("again");
        fs::create_dir(&again).unwrap();
        copy_tree(&below, &again, &mut || ()).unwrap();
        copy_tree(far.path(), &again, &mut || ()).unwrap();
        assert!(!again.join("gone").exists() && !again.join("mixed/removed").exists());
        assert_eq!(fs::read_to_string(again.join("mixed/changed")).unwrap(), "after!");
        assert!(fs::symlink_metadata(far.path().join("gone")).unwrap().file_type().is_char_device());
    }
}
