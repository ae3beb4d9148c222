use super::*;
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;

fn ids(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn manifest(names: &[&str]) -> Manifest {
    Manifest::of(&BTreeMap::from([("3.11".to_owned(), ids(names))]), "3.11")
}

fn shown(diff: &Diff) -> Vec<String> {
    diff.files.iter().map(ToString::to_string).collect()
}

#[test]
fn the_hash_is_that_of_the_original_tool() {
    // printf 'a::x\nb::y' | sha256sum
    assert_eq!(name_hash(&["b::y", "a::x"]), "4982baa785584b5224f10e535eb3035ab867015d9dc32a542779959826bfa364");
}

#[test]
fn a_manifest_has_a_line_per_file_and_no_total() {
    let text = manifest(&["t/b.py::x", "t/a.py::x[1]", "t/a.py::x[2]", "t/my @tests.py::z"]).render();
    let entries: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(entries.iter().filter(|line| line.is_empty()).count(), 3);
    assert!(entries[1].starts_with("t/a.py 2 "), "{text}");
    assert!(entries[3].starts_with("t/b.py 1 "), "{text}");
    assert!(entries[5].starts_with("t/my%20%40tests.py 1 "), "{text}");
}

#[test]
fn additions_and_removals_are_told_apart() {
    let locked = manifest(&["a.py::x", "a.py::y", "b.py::x", "c.py::x"]);
    let diff = locked.diff("3.11", &ids(&["a.py::x", "a.py::z", "a.py::w", "b.py::x", "d.py::x"]));
    assert_eq!(shown(&diff), ["a.py +2 -1", "c.py -1", "d.py +1"]);
    assert_eq!((diff.added(), diff.removed()), (3, 2));
    assert!(locked.diff("3.11", &ids(&["c.py::x", "b.py::x", "a.py::y", "a.py::x"])).is_empty());
}

#[test]
fn a_test_that_is_collected_twice_counts_twice() {
    let locked = manifest(&["a.py::x", "a.py::x"]);
    assert_eq!(locked.count("3.11"), 2);
    assert_eq!(shown(&locked.diff("3.11", &ids(&["a.py::x"]))), ["a.py -1"]);
}

#[test]
fn another_python_has_lines_where_it_differs() {
    let of_310 = ids(&["a.py::x", "new.py::only310"]);
    let of_311 = ids(&["a.py::x", "b.py::x", "b.py::y"]);
    let locked = Manifest::of(
        &BTreeMap::from([("3.10".to_owned(), of_310.clone()), ("3.11".to_owned(), of_311.clone())]),
        "3.11",
    );
    let text = locked.render();
    assert!(text.contains("\nb.py@3.10 0 - -\n") && text.contains("\nnew.py@3.10 1 "), "{text}");
    assert_eq!(text.matches("a.py").count(), 1);
    assert_eq!(Manifest::parse(&text).unwrap(), locked);
    assert!(locked.diff("3.10", &of_310).is_empty());
    assert!(locked.diff("3.11", &of_311).is_empty());
    assert_eq!(shown(&locked.diff("3.10", &of_311)), ["b.py +2", "new.py -1"]);
    assert_eq!((locked.count("3.10"), locked.count("3.11"), locked.count("3.12")), (2, 3, 3));

    let more = ids(&["a.py::x", "b.py::x", "b.py::y", "b.py::z"]);
    let updated = locked.with("3.11", "3.11", &more);
    assert!(updated.diff("3.11", &more).is_empty() && updated.diff("3.10", &of_310).is_empty());
    let same = updated.with("3.10", "3.11", &more);
    assert!(same.diff("3.10", &more).is_empty() && !same.render().contains('@'));
}

#[test]
fn a_line_that_is_no_entry_is_refused() {
    let of = |line: &str| Manifest::parse(&format!("# head\n{line}\n")).unwrap_err().to_string();
    assert_eq!(of("<<<<<<< HEAD"), "ci/collection.txt:2: a conflict marker of git; run `ft lock --collection`");
    assert_eq!(of("a.py 1"), "ci/collection.txt:2: expected path, count, hash and digits, found 2 fields");
    assert_eq!(
        of("a.py 2 0123456789abcdef 0123"),
        "ci/collection.txt:2: expected four hexadecimal digits for each of 2 tests"
    );
    assert_eq!(of("a.py 1 xyz 0123"), "ci/collection.txt:2: expected a hash of 16 hexadecimal digits, found \"xyz\"");
    assert_eq!(of("%GG 1 0123456789abcdef 0123"), "ci/collection.txt:2: expected a path, found \"%GG\"");
}

#[test]
fn names_that_change_with_the_hash_seed_are_found() {
    assert_eq!(unstable(&ids(&["a::x[1]", "a::y"]), &ids(&["a::y", "a::x[2]"])), ["a::x[1]", "a::x[2]"]);
    assert_eq!(unstable(&ids(&["a", "a"]), &ids(&["a"])), ["a"]);
    assert!(unstable(&ids(&["b", "a"]), &ids(&["a", "b"])).is_empty());
}

#[test]
fn the_attribute_is_added_once_and_the_users_choice_is_kept() {
    assert_eq!(with_git_attribute("").unwrap(), "ci/collection.txt merge=union\n");
    assert_eq!(with_git_attribute("*.png binary").unwrap(), "*.png binary\nci/collection.txt merge=union\n");
    assert_eq!(with_git_attribute("ci/collection.txt -merge\n"), None);
}

/// A repository in which two branches each changed the manifest; `merge` merges them with real git.
struct Branches(tempfile::TempDir);

impl Branches {
    fn of(base: &[&str], one: &[&str], other: &[&str], attribute: bool) -> Branches {
        let repository = Branches(tempfile::tempdir().unwrap());
        std::fs::create_dir(repository.path().join("ci")).unwrap();
        repository.git(&["init", "-q", "-b", "main"]);
        if attribute {
            std::fs::write(repository.path().join(".gitattributes"), with_git_attribute("").unwrap()).unwrap();
        }
        repository.commit(base);
        repository.git(&["checkout", "-q", "-b", "other"]);
        repository.commit(other);
        repository.git(&["checkout", "-q", "main"]);
        repository.commit(one);
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, args: &[&str]) -> bool {
        let config = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let mut git = Command::new("git");
        git.args(config).args(args).current_dir(self.path()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        git.env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap().status.success()
    }

    fn commit(&self, names: &[&str]) {
        std::fs::write(self.path().join(MANIFEST_PATH), manifest(names).render()).unwrap();
        assert!(self.git(&["add", "-A"]) && self.git(&["commit", "-q", "-m", "x"]));
    }

    /// The merged manifest; `None` where git reports a conflict.
    fn merge(&self) -> Option<Manifest> {
        let merged = self.git(&["merge", "-q", "--no-edit", "other"]);
        merged.then(|| Manifest::parse(&std::fs::read_to_string(self.path().join(MANIFEST_PATH)).unwrap()).unwrap())
    }
}

const BASE: [&str; 3] = ["a.py::x", "b.py::x", "c.py::x"];

#[test]
fn branches_that_add_tests_to_neighbouring_files_merge_without_any_attribute() {
    let (one, other) = (["a.py::x", "a.py::1", "b.py::x", "c.py::x"], ["a.py::x", "b.py::x", "b.py::2", "c.py::x"]);
    let merged = Branches::of(&BASE, &one, &other, false).merge().unwrap();
    assert_eq!(merged, manifest(&["a.py::x", "a.py::1", "b.py::x", "b.py::2", "c.py::x"]));
}

#[test]
fn branches_that_add_files_next_to_each_other_merge() {
    let (one, other) =
        ([&BASE[..], &["b1.py::x", "b1.py::y"]].concat(), [&BASE[..], &["b2.py::x", "b3.py::x"]].concat());
    let merged = Branches::of(&BASE, &one, &other, true).merge().unwrap();
    assert_eq!(merged, manifest(&[&BASE[..], &["b1.py::x", "b1.py::y", "b2.py::x", "b3.py::x"]].concat()));
    // The control: without the attribute git can't know.
    assert!(Branches::of(&BASE, &one, &other, false).merge().is_none());
}

#[test]
fn branches_that_add_tests_to_the_same_file_merge_and_lose_nothing() {
    let (one, other) = (["a.py::x", "b.py::x", "b.py::1", "c.py::x"], ["a.py::x", "b.py::x", "b.py::2", "c.py::x"]);
    let merged = Branches::of(&BASE, &one, &other, true).merge().unwrap();
    let both = ids(&["a.py::x", "b.py::x", "b.py::1", "b.py::2", "c.py::x"]);
    let diff = merged.diff("3.11", &both);
    assert!(diff.is_empty());
    assert_eq!(diff.merged, ["b.py"]);
    assert_eq!(merged.count("3.11"), 5);
    // A merge that dropped one branch's test is seen, whichever it was.
    for lost in ["b.py::1", "b.py::2"] {
        let left: Vec<String> = both.iter().filter(|id| *id != lost).cloned().collect();
        assert_eq!(shown(&merged.diff("3.11", &left)), ["b.py -1"]);
    }
    // Written again, it has one line per file.
    let written = merged.with("3.11", "3.11", &both);
    assert_eq!(written.render().matches("b.py").count(), 1);
}

#[test]
fn a_file_that_both_branches_added_and_one_that_both_removed_merge() {
    let one = ["a.py::x", "b.py::x", "n.py::1"];
    let other = ["a.py::x", "b.py::x", "n.py::2"];
    let merged = Branches::of(&BASE, &one, &other, true).merge().unwrap();
    assert!(merged.diff("3.11", &ids(&["a.py::x", "b.py::x", "n.py::1", "n.py::2"])).is_empty());
}

proptest! {
    #[test]
    fn a_manifest_reads_back_what_it_writes(names in prop::collection::vec("[a-c @%#<=\u{e9}\n]{1,3}::[a-c]{1,2}", 0..20)) {
        let locked = Manifest::of(&BTreeMap::from([("3.11".to_owned(), names.clone())]), "3.11");
        let read = Manifest::parse(&locked.render()).unwrap();
        prop_assert_eq!(&read, &locked);
        prop_assert!(read.diff("3.11", &names).is_empty());
    }

    #[test]
    fn a_diff_counts_what_was_added_and_removed(
        before in prop::collection::btree_set("[ab].py::[a-z]", 0..12), after in prop::collection::btree_set("[ab].py::[a-z]", 0..12)
    ) {
        let (before, after): (Vec<_>, Vec<_>) = (before.into_iter().collect(), after.into_iter().collect());
        let diff = Manifest::of(&BTreeMap::from([("3".to_owned(), before.clone())]), "3").diff("3", &after);
        prop_assert_eq!(diff.added(), after.iter().filter(|id| !before.contains(id)).count() as u64);
        prop_assert_eq!(diff.removed(), before.iter().filter(|id| !after.contains(id)).count() as u64);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}|[a-f0-9@%# \n-]{0,80}") {
        let _ = Manifest::parse(&text);
    }
}
