//! Snapshots of real repositories, unpacked again.

use super::*;
use crate::git::fixture::Fixture;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn repo(fixture: &Fixture) -> Repo {
    Repo {
        root: fixture.top.clone(),
        top: fixture.top.clone(),
        git_dir: fixture.top.join(".git"),
        common_dir: fixture.top.join(".git"),
        head: Some(fixture.git(["rev-parse", "HEAD"])),
        object_format: "sha1".into(),
    }
}

fn snapshot(fixture: &Fixture, source: &Source) -> Snapshot {
    let to = fixture.dir.path().join("snapshot.tar");
    take(&repo(fixture), source, &GlobSet::empty(), &to).unwrap()
}

fn unpacked(fixture: &Fixture, snapshot: &Snapshot, name: &str) -> PathBuf {
    let dir = fixture.dir.path().join(name);
    unpack(snapshot, &dir, None).unwrap();
    dir
}

#[test]
fn the_worktree_comes_back_with_names_links_and_modes() {
    let fixture = Fixture::with(&[("a.py", "one"), ("deep/er/b.py", "two")]);
    let odd = std::ffi::OsStr::from_bytes(b"not utf8 \xff\n");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(140));
    fixture.write(odd, "three");
    fixture.write(&long, "four");
    fixture.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(fixture.top.join("run.sh"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", fixture.top.join("outside")).unwrap();
    std::os::unix::fs::symlink(format!("./deep//{}", "x".repeat(150)), fixture.top.join("longlink")).unwrap();
    fixture.commit("more");
    fixture.write("untracked", "no");

    let dir = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "out");
    assert_eq!(std::fs::read(dir.join(odd)).unwrap(), b"three");
    assert_eq!(std::fs::read(dir.join(&long)).unwrap(), b"four");
    assert_eq!(std::fs::metadata(dir.join("run.sh")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(dir.join("a.py")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(dir.join("deep")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read_link(dir.join("outside")).unwrap(), Path::new("/etc/passwd"));
    let target = std::fs::read_link(dir.join("longlink")).unwrap();
    assert_eq!(target.as_os_str(), &*format!("./deep//{}", "x".repeat(150)));
    assert!(!dir.join("untracked").exists());
}

#[test]
fn an_edit_of_equal_size_in_the_same_second_gives_another_time() {
    let fixture = Fixture::with(&[("a.py", "x = 1\n")]);
    let first = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "first");
    fixture.write("a.py", "x = 2\n");
    let second = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "second");
    fixture.write("a.py", "x = 1\n");
    let third = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "third");
    let time = |dir: &Path| {
        let meta = std::fs::metadata(dir.join("a.py")).unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.len())
    };
    assert_ne!(time(&first).0, time(&second).0);
    assert_eq!(time(&first), time(&third));
    assert_eq!(time(&first).1, 0);
}

#[test]
fn the_same_state_in_another_place_has_the_same_digest() {
    let one = Fixture::with(&[("a", "1"), ("b/c", "2")]);
    let two = Fixture::new();
    two.git(["pull", "-q", one.top.to_str().unwrap(), "main"]);
    std::fs::set_permissions(two.top.join("a"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let first = snapshot(&one, &Source::Worktree);
    assert_eq!(first.sha256, snapshot(&two, &Source::Worktree).sha256);
    two.write("a", "2");
    assert_ne!(first.sha256, snapshot(&two, &Source::Worktree).sha256);
}

#[test]
fn a_large_file_is_streamed_whole() {
    let fixture = Fixture::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    fixture.write("large", &bytes);
    fixture.commit("large");
    let dir = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "out");
    assert_eq!(std::fs::read(dir.join("large")).unwrap(), bytes);
}

#[test]
fn what_a_glob_excludes_is_left_out_with_everything_below() {
    let fixture = Fixture::with(&[("a", ""), ("docs/x/y", ""), ("b.md", ""), ("src/docs2", "")]);
    let mut globs = globset::GlobSetBuilder::new();
    globs.add(globset::Glob::new("docs").unwrap()).add(globset::Glob::new("*.md").unwrap());
    let to = fixture.dir.path().join("s.tar");
    let taken = take(&repo(&fixture), &Source::Worktree, &globs.build().unwrap(), &to).unwrap();
    let dir = unpacked(&fixture, &taken, "out");
    assert!(dir.join("a").exists() && dir.join("src/docs2").exists());
    assert!(!dir.join("docs").exists() && !dir.join("b.md").exists());
}

#[test]
fn the_index_is_what_a_commit_made_now_would_hold() {
    let fixture = Fixture::with(&[("a", "old"), ("b", "b"), ("gone", "")]);
    fixture.write("a", "staged");
    fixture.write("new", "new");
    fixture.git(["add", "a", "new"]);
    fixture.git(["rm", "-q", "--cached", "gone"]);
    fixture.write("a", "only on disk");
    fixture.write("intent", "");
    fixture.git(["add", "-N", "intent"]);
    let index = snapshot(&fixture, &Source::Index { index_file: None });
    let dir = unpacked(&fixture, &index, "out");
    assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"staged");
    assert_eq!(std::fs::read(dir.join("new")).unwrap(), b"new");
    assert!(!dir.join("gone").exists() && !dir.join("intent").exists());
}

#[test]
fn another_index_file_counts_where_a_hook_names_one() {
    let fixture = Fixture::with(&[("a", "old")]);
    std::fs::copy(fixture.top.join(".git/index"), fixture.top.join(".git/other")).unwrap();
    fixture.write("a", "staged");
    fixture.git(["add", "a"]);
    let other = snapshot(&fixture, &Source::Index { index_file: Some(".git/other".into()) });
    let dir = unpacked(&fixture, &other, "out");
    assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"old");
}

#[test]
fn an_unmerged_index_has_no_snapshot() {
    let fixture = Fixture::with(&[("a", "1")]);
    fixture.git(["switch", "-q", "-c", "other"]);
    fixture.write("a", "2");
    fixture.commit("2");
    fixture.git(["switch", "-q", "main"]);
    fixture.write("a", "3");
    fixture.commit("3");
    let merged = crate::git::fixture::command(&fixture.top).args(["merge", "-q", "other"]).output().unwrap();
    assert!(!merged.status.success());
    let to = fixture.dir.path().join("s.tar");
    let error = take(&repo(&fixture), &Source::Index { index_file: None }, &GlobSet::empty(), &to).unwrap_err();
    assert!(matches!(error, SnapshotError::Unmerged), "{error}");
    assert!(!to.exists());
}

#[test]
fn a_commit_is_as_a_fresh_clone_checks_it_out() {
    let fixture = Fixture::with(&[
        (
            ".gitattributes",
            "*.txt text eol=crlf\n*.id ident\n*.bin filter=lfs diff=lfs merge=lfs -text\n*.up filter=up\n",
        ),
        ("a.txt", "one\ntwo\n"),
        ("a.id", "$Id$\n"),
        ("pointer.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
        ("a.up", "lower\n"),
    ]);
    fixture.write("run", "#!/bin/sh\n");
    std::fs::set_permissions(fixture.top.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("a.txt", fixture.top.join("link")).unwrap();
    fixture.commit("second");
    // What CI's clone would not have: a filter and attributes of this clone alone.
    fixture.git(["config", "filter.up.smudge", "tr a-z A-Z"]);
    fixture.git(["config", "core.autocrlf", "true"]);
    std::fs::write(fixture.top.join(".git/info/attributes"), "*.py eol=crlf\n").unwrap();
    fixture.write("a.txt", "dirty");

    let clone = fixture.dir.path().join("clone");
    crate::git::fixture::git(
        fixture.dir.path(),
        ["clone", "-q", fixture.top.to_str().unwrap(), clone.to_str().unwrap()],
    );
    let dir = unpacked(&fixture, &snapshot(&fixture, &Source::Commit("HEAD".into())), "out");
    let compared = std::process::Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=.git"])
        .args([&clone, &dir])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    assert_eq!(std::fs::read(dir.join("a.txt")).unwrap(), b"one\r\ntwo\r\n");
    assert_eq!(std::fs::metadata(dir.join("run")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn submodules_come_with_their_files() {
    let inner = Fixture::with(&[("b", "inner")]);
    let outer = Fixture::with(&[("a", "outer")]);
    outer.git(["submodule", "--quiet", "add", inner.top.to_str().unwrap(), "sub"]);
    outer.commit("with a submodule");
    outer.write("sub/b", "edited");
    let at = |source: &Source, name: &str| {
        let taken = snapshot(&outer, source);
        assert_eq!(taken.notes, [""; 0]);
        std::fs::read_to_string(unpacked(&outer, &taken, name).join("sub/b")).unwrap()
    };
    assert_eq!(at(&Source::Worktree, "worktree"), "edited");
    assert_eq!(at(&Source::Commit("HEAD".into()), "commit"), "inner");
    assert_eq!(at(&Source::Index { index_file: None }, "index"), "inner");

    outer.git(["submodule", "--quiet", "deinit", "--force", "sub"]);
    for source in [Source::Worktree, Source::Commit("HEAD".into())] {
        let taken = snapshot(&outer, &source);
        assert_eq!(taken.notes, ["submodule sub: not checked out here, so its files are left out"]);
    }
}

#[test]
fn a_file_behind_a_folder_that_became_a_link_is_not_read() {
    let fixture = Fixture::with(&[("dir/a", "inside"), ("b", "1")]);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("a"), "outside").unwrap();
    std::fs::remove_dir_all(fixture.top.join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.path(), fixture.top.join("dir")).unwrap();
    let dir = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "out");
    assert!(dir.join("b").exists() && !dir.join("dir").exists());
}

#[test]
fn where_modes_do_not_count_git_says_what_is_executable() {
    let fixture = Fixture::with(&[("run", "#!/bin/sh\n"), ("plain", "")]);
    fixture.git(["update-index", "--chmod=+x", "run"]);
    fixture.git(["config", "core.fileMode", "false"]);
    std::fs::set_permissions(fixture.top.join("plain"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let dir = unpacked(&fixture, &snapshot(&fixture, &Source::Worktree), "out");
    let mode = |name| std::fs::metadata(dir.join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("run"), mode("plain")), (0o755, 0o644));
}
