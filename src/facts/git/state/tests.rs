//! Every kind of change on real repositories.

use super::super::discover;
use super::*;
use crate::git::fixture::Fixture;
use std::os::unix::fs::PermissionsExt;

fn state(fixture: &Fixture) -> TreeState {
    std::fs::create_dir_all(fixture.top.join(".firsttry")).unwrap();
    tree_state(&discover(&fixture.top).unwrap(), &Source::Worktree).unwrap()
}

fn key(fixture: &Fixture) -> String {
    state(fixture).key
}

/// Lets every stamp so far settle, and fills the cache.
fn settle(fixture: &Fixture) -> TreeState {
    for _ in 0..100 {
        let state = state(fixture);
        if state.read == 0 {
            return state;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("files are read again and again");
}

#[test]
fn an_unchanged_tree_keeps_its_key_and_is_not_read_again() {
    let fixture = Fixture::with(&[("a", "1"), ("b/c", "2")]);
    let first = state(&fixture);
    assert_eq!((first.files, first.dirty, first.untracked.len()), (2, false, 0));
    assert_eq!(settle(&fixture).key, first.key);
}

#[test]
fn an_edit_of_equal_size_is_seen_however_soon_it_comes() {
    let fixture = Fixture::with(&[("a", "0000")]);
    settle(&fixture);
    let mut before = key(&fixture);
    for n in 1..200 {
        fixture.write("a", format!("{n:04}"));
        let now = key(&fixture);
        assert_ne!(now, before, "edit {n}");
        before = now;
    }
}

#[test]
fn an_edit_whose_time_is_set_back_is_seen() {
    let fixture = Fixture::with(&[("a", "1111")]);
    let before = settle(&fixture);
    let at = fixture.top.join("a");
    let time = std::fs::metadata(&at).unwrap().modified().unwrap();
    fixture.write("a", "2222");
    File::options().write(true).open(&at).unwrap().set_modified(time).unwrap();
    assert_ne!(key(&fixture), before.key);
}

#[test]
fn bytes_name_mode_and_target_are_all_in_the_key() {
    let fixture = Fixture::with(&[("a", "1"), ("b", "2")]);
    std::os::unix::fs::symlink("a", fixture.top.join("link")).unwrap();
    fixture.commit("link");
    let mut keys = vec![settle(&fixture).key];
    let mut after = |change: &dyn Fn()| {
        change();
        let key = key(&fixture);
        assert!(!keys.contains(&key), "change {}", keys.len());
        keys.push(key);
    };
    let top = &fixture.top;
    after(&|| fixture.write("a", "3"));
    after(&|| std::fs::set_permissions(top.join("a"), std::fs::Permissions::from_mode(0o755)).unwrap());
    after(&|| {
        std::fs::remove_file(top.join("link")).unwrap();
        std::os::unix::fs::symlink("b", top.join("link")).unwrap();
    });
    after(&|| {
        std::fs::remove_file(top.join("link")).unwrap();
        fixture.write("link", "b");
    });
    after(&|| std::fs::remove_file(top.join("b")).unwrap());
    after(&|| {
        fixture.git(["mv", "a", "c"]);
    });
    after(&|| {
        fixture.write("new", "");
        fixture.git(["add", "-N", "new"]);
    });
}

#[test]
fn staging_a_change_does_not_move_the_key() {
    let fixture = Fixture::with(&[("a", "1"), ("b", "2")]);
    fixture.write("a", "changed");
    std::fs::set_permissions(fixture.top.join("b"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let unstaged = state(&fixture);
    fixture.git(["add", "-A", "--", "a", "b"]);
    let staged = state(&fixture);
    assert_eq!(unstaged.key, staged.key);
    assert!(unstaged.dirty && staged.dirty);
    assert_eq!(staged.changed_names(), ["a", "b"]);
    fixture.git(["commit", "-q", "-m", "2"]);
    assert_eq!((state(&fixture).key, state(&fixture).dirty), (staged.key, false));
}

#[test]
fn flags_of_the_index_hide_nothing() {
    let fixture = Fixture::with(&[("a", "1"), ("b", "2"), ("c", "3")]);
    fixture.git(["update-index", "--assume-unchanged", "a"]);
    fixture.git(["update-index", "--skip-worktree", "b", "c"]);
    let before = settle(&fixture);
    assert_eq!(before.changed_names(), [""; 0]);
    fixture.write("a", "x");
    fixture.write("b", "y");
    std::fs::remove_file(fixture.top.join("c")).unwrap();
    assert_eq!(fixture.git(["status", "--porcelain", "--untracked-files=no"]), "");
    let after = state(&fixture);
    assert_ne!(after.key, before.key);
    assert_eq!(after.changed_names(), ["a", "b", "c"]);
    assert!(after.dirty);
}

#[test]
fn bytes_that_a_filter_hides_from_git_are_in_the_key() {
    let fixture = Fixture::with(&[(".gitattributes", "*.txt text\n"), ("a.txt", "one\n")]);
    let before = settle(&fixture);
    fixture.write("a.txt", "one\r\n");
    fixture.git(["add", "a.txt"]);
    assert_eq!(fixture.git(["status", "--porcelain", "--untracked-files=no"]), "");
    assert_ne!(key(&fixture), before.key);
}

#[test]
fn untracked_files_are_named_and_have_a_key_of_their_own() {
    let fixture = Fixture::with(&[("a", "1"), (".gitignore", "ignored\n"), ("artifacts/kept", "tracked")]);
    let before = settle(&fixture);
    fixture.write("ignored", "x");
    fixture.write(".venv-parity/x", "ours");
    fixture.write("artifacts/report.json", "ours");
    assert_eq!(settle(&fixture), before);
    fixture.write("dir/new.py", "1");
    fixture.write("other", "1");
    let with = settle(&fixture);
    assert_eq!(with.untracked_names(), ["dir/new.py", "other"]);
    assert_eq!((&with.key, with.dirty), (&before.key, false));
    assert_ne!(with.untracked_key, before.untracked_key);
    fixture.write("other", "2");
    assert_ne!(state(&fixture).untracked_key, with.untracked_key);
    fixture.write("artifacts/kept", "edited");
    assert_ne!(key(&fixture), before.key);
}

#[test]
fn a_file_that_is_added_or_forgotten_moves_the_key() {
    let fixture = Fixture::with(&[("a", "1")]);
    fixture.write("b", "2");
    let before = settle(&fixture);
    fixture.git(["add", "b"]);
    let added = state(&fixture);
    assert_ne!(added.key, before.key);
    fixture.git(["rm", "-q", "--cached", "b"]);
    assert_eq!(state(&fixture).key, before.key);
}

#[test]
fn an_edit_in_a_submodule_is_seen() {
    let inner = Fixture::with(&[("b", "1")]);
    let outer = Fixture::with(&[("a", "1")]);
    outer.git(["submodule", "--quiet", "add", inner.top.to_str().unwrap(), "sub"]);
    outer.commit("sub");
    let before = settle(&outer);
    outer.write("sub/b", "2");
    outer.write("sub/new", "2");
    let after = state(&outer);
    assert_ne!(after.key, before.key);
    assert_eq!(after.changed_names(), ["sub"]);
    assert_eq!(after.untracked_names(), ["sub/"]);
}

#[test]
fn below_the_top_level_only_the_folder_of_the_lock_counts() {
    let fixture = Fixture::with(&[("one/ci/parity.lock.json", "{}"), ("one/a", "1"), ("two/b", "1")]);
    let one = fixture.top.join("one");
    let state = || {
        let repo = discover(&one).unwrap();
        std::fs::create_dir_all(repo.state_dir()).unwrap();
        tree_state(&repo, &Source::Worktree).unwrap()
    };
    let before = state();
    fixture.write("two/b", "2");
    fixture.write("two/new", "2");
    assert_eq!((&state().key, state().dirty, state().untracked.len()), (&before.key, false, 0));
    fixture.write("one/a", "2");
    fixture.write("one/x y", "2");
    assert_eq!((state().changed_names(), state().untracked_names()), (vec!["a".to_owned()], vec!["x y".to_owned()]));
}

#[test]
fn a_cache_that_was_damaged_is_no_cache() {
    let fixture = Fixture::with(&[("a", "1")]);
    let before = settle(&fixture);
    let place = fixture.top.join(".firsttry/tree-cache");
    let mut bytes = std::fs::read(&place).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&place, &bytes).unwrap();
    let after = state(&fixture);
    assert_eq!((after.key, after.read), (before.key, 1));
}

#[test]
fn index_and_commit_have_keys_that_follow_their_content() {
    let fixture = Fixture::with(&[("a", "1")]);
    let repo = discover(&fixture.top).unwrap();
    let index = || tree_state(&repo, &Source::Index { index_file: None }).unwrap();
    let commit = |name: &str| tree_state(&repo, &Source::Commit(name.into())).unwrap().key;
    let (before, first) = (index(), commit("HEAD"));
    fixture.write("a", "2");
    assert_eq!(index(), before);
    fixture.git(["add", "a"]);
    assert_ne!(index().key, before.key);
    fixture.commit("2");
    assert_ne!(commit("HEAD"), first);
    assert_eq!(commit("HEAD~"), first);
    assert!(tree_state(&repo, &Source::Commit("nothing".into())).is_err());
}

#[test]
fn a_tree_without_a_commit_has_a_state() {
    let fixture = Fixture::new();
    fixture.write("a", "1");
    assert_eq!(state(&fixture).untracked_names(), ["a"]);
    fixture.git(["add", "a"]);
    assert_eq!(state(&fixture).changed_names(), ["a"]);
}

#[test]
fn a_file_behind_a_folder_that_became_a_link_is_gone() {
    let fixture = Fixture::with(&[("dir/a", "1"), ("b", "1")]);
    let before = settle(&fixture);
    std::fs::rename(fixture.top.join("dir"), fixture.dir.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(fixture.dir.path().join("moved"), fixture.top.join("dir")).unwrap();
    let after = state(&fixture);
    assert_ne!(after.key, before.key);
    assert_eq!((after.changed_names(), after.untracked_names()), (vec!["dir/a".to_owned()], vec!["dir".to_owned()]));
}
