//! Git asked in the unpacked snapshot and in the repository itself: the answers must be the same.

use crate::git::fixture::{Fixture, command, git};
use crate::repo::{Repo, Source};
use crate::snapshot::{Snapshot, take, unpack};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::path::{Path, PathBuf};

fn repo_at(fixture: &Fixture, root: &Path) -> Repo {
    let head = command(&fixture.top).args(["rev-parse", "--verify", "-q", "HEAD"]).output().unwrap();
    let common = git(root, ["rev-parse", "--git-common-dir"]);
    let common = root.join(common).canonicalize().unwrap();
    Repo {
        root: root.to_owned(),
        top: fixture.top.clone(),
        git_dir: common.clone(),
        common_dir: common,
        head: head.status.success().then(|| crate::git::line(&head.stdout)),
        object_format: "sha1".into(),
    }
}

fn taken(fixture: &Fixture, source: &Source, exclude: &GlobSet) -> Snapshot {
    take(&repo_at(fixture, &fixture.top), source, exclude, &fixture.dir.path().join("s.tar")).unwrap()
}

fn unpacked(fixture: &Fixture, snapshot: &Snapshot) -> PathBuf {
    let dir = tempfile::Builder::new().tempdir_in(fixture.dir.path()).unwrap().keep();
    unpack(snapshot, &dir, None).unwrap();
    dir
}

fn snapshot(fixture: &Fixture) -> PathBuf {
    unpacked(fixture, &taken(fixture, &Source::Worktree, &GlobSet::empty()))
}

/// As setuptools-scm asks.
fn describe(dir: &Path) -> String {
    git(dir, ["describe", "--dirty", "--tags", "--long", "--match", "*[0-9]*"])
}

fn status(dir: &Path) -> String {
    git(dir, ["status", "--porcelain"])
}

fn with_history() -> Fixture {
    let fixture = Fixture::with(&[("a", "1"), ("dir/b", "1")]);
    fixture.git(["tag", "-a", "-m", "one", "v1.0"]);
    fixture.git(["switch", "-q", "-c", "side"]);
    fixture.commit("on the side");
    fixture.git(["tag", "light-2"]);
    fixture.git(["switch", "-q", "main"]);
    fixture.write("a", "2");
    fixture.commit("second");
    fixture.git(["merge", "-q", "--no-ff", "-m", "merged", "side"]);
    fixture.write("a", "3");
    fixture.commit("third");
    fixture.git(["switch", "-q", "-c", "elsewhere"]);
    fixture.write("secret", "x");
    fixture.commit("not reached");
    fixture.git(["tag", "v9.9"]);
    fixture.git(["switch", "-q", "main"]);
    fixture
}

#[test]
fn describe_answers_as_in_the_repository() {
    let fixture = with_history();
    let changes: &[&dyn Fn()] = &[
        &|| {},
        &|| fixture.write("a", "edited"),
        &|| {
            fixture.git(["add", "a"]);
        },
        &|| {
            fixture.git(["commit", "-q", "-m", "fourth"]);
        },
        &|| {
            fixture.write("new", "");
            fixture.git(["add", "new"]);
        },
        &|| {
            fixture.git(["tag", "-a", "-m", "nested", "v2.0", "v1.0"]);
            fixture.commit("fifth");
        },
        &|| std::fs::remove_file(fixture.top.join("dir/b")).unwrap(),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (n, change) in changes.iter().enumerate() {
        change();
        let here = describe(&fixture.top);
        assert_eq!(describe(&snapshot(&fixture)), here, "change {n}");
        seen.insert(here);
    }
    assert!(seen.iter().any(|text| text.ends_with("-dirty")) && seen.len() >= 4, "{seen:?}");
}

#[test]
fn a_clean_tree_is_clean_inside_and_whole() {
    let fixture = with_history();
    fixture.write("untracked", "x");
    let dir = snapshot(&fixture);
    assert_eq!(status(&dir), "");
    assert_eq!(git(&dir, ["rev-parse", "HEAD"]), fixture.git(["rev-parse", "HEAD"]));
    assert_eq!(git(&dir, ["rev-list", "--count", "HEAD"]), fixture.git(["rev-list", "--count", "HEAD"]));
    let archive = command(&dir).args(["archive", "HEAD"]).output().unwrap();
    assert_eq!(archive.stdout, command(&fixture.top).args(["archive", "HEAD"]).output().unwrap().stdout);
    std::fs::write(dir.join("a"), "written by a step").unwrap();
    assert_eq!(status(&dir), " M a");
}

#[test]
fn nothing_private_is_in_it() {
    let fixture = with_history();
    fixture.git(["remote", "add", "origin", "https://user:password@example.com/x"]);
    fixture.git(["config", "http.extraHeader", "Authorization: secret"]);
    fixture.write("a", "stashed");
    fixture.git(["stash", "-q"]);
    let secret = fixture.git(["rev-parse", "elsewhere:secret"]);
    let dir = snapshot(&fixture);
    let refs = git(&dir, ["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/tags/light-2\nrefs/tags/v1.0");
    let config = std::fs::read_to_string(dir.join(".git/config")).unwrap();
    assert_eq!(config, "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n");
    let mut names: Vec<_> = std::fs::read_dir(dir.join(".git"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["HEAD", "config", "index", "objects", "packed-refs", "refs"]);
    assert!(!command(&dir).args(["cat-file", "-e", &secret]).output().unwrap().status.success());
    let older = fixture.git(["rev-parse", "HEAD~2:a"]);
    assert!(!command(&dir).args(["cat-file", "-e", &older]).output().unwrap().status.success());
}

#[test]
fn the_digest_follows_head_and_tags_and_nothing_that_only_this_clone_has() {
    let fixture = with_history();
    let digest = |fixture: &Fixture| taken(fixture, &Source::Worktree, &GlobSet::empty()).sha256;
    let first = digest(&fixture);
    let other = Fixture::new();
    other.git(["fetch", "-q", "--tags", fixture.top.to_str().unwrap(), "main"]);
    other.git(["switch", "-q", "-c", "another-name", "FETCH_HEAD"]);
    other.git(["gc", "-q"]);
    assert_eq!(digest(&other), first);
    fixture.write("a", "edited");
    let unstaged = digest(&fixture);
    fixture.git(["add", "a"]);
    assert_eq!(digest(&fixture), unstaged);
    fixture.git(["checkout", "-q", "HEAD", "--", "a"]);
    assert_eq!(digest(&fixture), first);
    fixture.git(["tag", "v1.1"]);
    assert_ne!(digest(&fixture), first);
}

#[test]
fn index_and_commit_have_the_head_that_they_are_of() {
    let fixture = with_history();
    let before = fixture.git(["rev-parse", "HEAD~"]);
    fixture.write("a", "staged");
    fixture.git(["add", "a"]);
    fixture.write("a", "on disk");
    let commit = taken(&fixture, &Source::Commit("HEAD~".into()), &GlobSet::empty());
    assert_eq!(commit.head.as_deref(), Some(&*before));
    let dir = unpacked(&fixture, &commit);
    assert_eq!((status(&dir), git(&dir, ["rev-parse", "HEAD"])), (String::new(), before));
    let dir = unpacked(&fixture, &taken(&fixture, &Source::Index { index_file: None }, &GlobSet::empty()));
    assert_eq!(status(&dir), " M a");
    assert_eq!(git(&dir, ["rev-parse", "HEAD"]), fixture.git(["rev-parse", "HEAD"]));
}

#[test]
fn what_is_excluded_is_not_missed() {
    let fixture = with_history();
    let globs = GlobSetBuilder::new().add(Glob::new("dir").unwrap()).build().unwrap();
    let dir = unpacked(&fixture, &taken(&fixture, &Source::Worktree, &globs));
    assert!(!dir.join("dir").exists());
    assert_eq!((status(&dir), describe(&dir)), (String::new(), describe(&fixture.top)));
}

#[test]
fn submodules_do_not_make_the_tree_dirty() {
    let inner = Fixture::with(&[("b", "1")]);
    let fixture = with_history();
    fixture.git(["submodule", "--quiet", "add", inner.top.to_str().unwrap(), "sub"]);
    fixture.commit("sub");
    let dir = snapshot(&fixture);
    assert!(dir.join("sub/b").exists());
    assert_eq!((status(&dir), describe(&dir)), (String::new(), describe(&fixture.top)));
    fixture.git(["submodule", "--quiet", "deinit", "--force", "sub"]);
    let dir = snapshot(&fixture);
    assert_eq!((status(&dir), describe(&dir)), (String::new(), describe(&fixture.top)));
}

#[test]
fn a_folder_below_the_top_level_has_the_same_head_and_describes_itself() {
    let fixture = with_history();
    let root = fixture.top.join("dir");
    for source in [Source::Worktree, Source::Commit("HEAD".into()), Source::Index { index_file: None }] {
        let to = fixture.dir.path().join("s.tar");
        let taken = take(&repo_at(&fixture, &root), &source, &GlobSet::empty(), &to).unwrap();
        let dir = unpacked(&fixture, &taken);
        assert!(dir.join("b").exists() && !dir.join("a").exists());
        assert_eq!(git(&dir, ["rev-parse", "HEAD"]), fixture.git(["rev-parse", "HEAD"]));
        assert_eq!((status(&dir), describe(&dir)), (String::new(), describe(&fixture.top)));
        assert_eq!(git(&dir, ["ls-tree", "--name-only", "HEAD"]), "b");
    }
}

#[test]
fn before_the_first_commit_there_is_a_repository_too() {
    let fixture = Fixture::new();
    fixture.write("a", "1");
    fixture.git(["add", "a"]);
    let dir = snapshot(&fixture);
    assert_eq!(status(&dir), "A  a");
}

#[test]
fn a_shallow_clone_stays_one() {
    let fixture = with_history();
    let clone = Fixture::new();
    let url = format!("file://{}", fixture.top.display());
    clone.git(["fetch", "-q", "--depth=2", &url, "main"]);
    clone.git(["switch", "-q", "-c", "main2", "FETCH_HEAD"]);
    let dir = snapshot(&clone);
    assert_eq!(git(&dir, ["rev-list", "--count", "HEAD"]), clone.git(["rev-list", "--count", "HEAD"]));
    assert_eq!((status(&dir), git(&dir, ["rev-parse", "--is-shallow-repository"])), (String::new(), "true".into()));
}
