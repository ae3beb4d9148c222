//! Publishing twice, with files of the user's in every place.

use super::*;
use crate::git::fixture::Fixture;

struct World {
    fixture: Fixture,
    lock: RunLock,
    repo: Repo,
}

impl World {
    fn new(files: &[(&str, &str)]) -> World {
        let fixture = Fixture::with(files);
        let repo = Repo {
            root: fixture.top.clone(),
            top: fixture.top.clone(),
            git_dir: fixture.top.join(".git"),
            common_dir: fixture.top.join(".git"),
            head: None,
            object_format: "sha1".into(),
        };
        let lock = RunLock::wait(&repo.state_dir(), "now").unwrap();
        World { fixture, lock, repo }
    }

    fn publish(&self, files: &[(&str, &str)]) -> Published {
        self.exchange(files, publish)
    }

    fn exchange(
        &self,
        files: &[(&str, &str)],
        how: fn(&RunLock, &Repo, &[Item]) -> Result<Published, ArtifactError>,
    ) -> Published {
        let run = tempfile::tempdir().unwrap();
        let items: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(n, (to, text))| {
                let from = run.path().join(n.to_string());
                std::fs::write(&from, text).unwrap();
                Item { from, to: (*to).to_owned() }
            })
            .collect();
        how(&self.lock, &self.repo, &items).unwrap()
    }

    /// Everything below `artifacts/`, with content.
    fn there(&self) -> BTreeMap<String, String> {
        fn walk(dir: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, &format!("{name}/"), all);
                } else {
                    all.insert(name, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.repo.root.join("artifacts"), "", &mut all);
        all
    }
}

fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn the_next_run_replaces_what_the_last_one_published_and_nothing_else() {
    let world = World::new(&[("a", "")]);
    world.fixture.write("artifacts/notes.txt", "mine");
    world.publish(&[("report.json", "1"), ("logs/ruff.log", "1"), ("logs/old/x.log", "1")]);
    let second = world.publish(&[("report.json", "2"), ("new/coverage.xml", "2")]);
    assert_eq!(world.there(), map(&[("notes.txt", "mine"), ("report.json", "2"), ("new/coverage.xml", "2")]));
    assert!(!world.repo.root.join("artifacts/logs").exists());
    assert_eq!(second.removed, ["logs/old/x.log", "logs/ruff.log"]);
    assert_eq!(second.reported, []);
}

#[test]
fn a_file_of_the_users_that_is_in_the_way_is_kept_beside() {
    let world = World::new(&[("a", "")]);
    world.fixture.write("artifacts/report.json", "mine");
    world.fixture.write("artifacts/report.json.yours", "mine too");
    let done = world.publish(&[("report.json", "1")]);
    assert_eq!(done.reported, [("report.json".to_owned(), "was not ours; it is now report.json.yours-2".to_owned())]);
    assert_eq!(
        world.there(),
        map(&[("report.json", "1"), ("report.json.yours", "mine too"), ("report.json.yours-2", "mine")])
    );
}

#[test]
fn a_published_file_that_was_edited_is_the_users_now() {
    let world = World::new(&[("a", "")]);
    world.publish(&[("report.json", "1"), ("log", "1")]);
    world.fixture.write("artifacts/report.json", "edited");
    world.fixture.write("artifacts/log", "edited");
    let done = world.publish(&[("report.json", "2")]);
    assert_eq!(world.there(), map(&[("report.json", "2"), ("report.json.yours", "edited"), ("log", "edited")]));
    assert_eq!(done.reported.len(), 2);
}

#[test]
fn a_tracked_file_is_never_touched() {
    let world = World::new(&[("artifacts/report.json", "committed"), ("artifacts/gone", "committed")]);
    let done = world.publish(&[("report.json", "1"), ("other", "1")]);
    assert_eq!(done.written, ["other"]);
    assert_eq!(done.reported[0].0, "report.json");
    world.publish(&[]);
    assert_eq!(world.there(), map(&[("report.json", "committed"), ("gone", "committed")]));
}

#[test]
fn links_are_never_written_through() {
    let world = World::new(&[("a", "")]);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), "outside").unwrap();
    let artifacts = world.repo.root.join("artifacts");
    std::fs::create_dir(&artifacts).unwrap();
    std::os::unix::fs::symlink(outside.path(), artifacts.join("logs")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("x"), artifacts.join("report.json")).unwrap();
    let done = world.publish(&[("logs/x", "evil"), ("report.json", "1")]);
    assert_eq!(std::fs::read_to_string(outside.path().join("x")).unwrap(), "outside");
    assert_eq!(done.written, ["report.json"]);
    assert_eq!(done.reported.len(), 2);
    assert!(artifacts.join("report.json").symlink_metadata().unwrap().is_file());
    assert!(artifacts.join("report.json.yours").symlink_metadata().unwrap().is_symlink());

    std::fs::remove_dir_all(&artifacts).unwrap();
    std::os::unix::fs::symlink(outside.path(), &artifacts).unwrap();
    let error = publish(&world.lock, &world.repo, &[]).unwrap_err();
    assert!(matches!(error, ArtifactError::NoFolder(_)), "{error}");
}

#[test]
fn what_a_killed_runner_half_published_is_still_known_as_ours() {
    let world = World::new(&[("a", "")]);
    world.publish(&[("report.json", "1")]);
    // Killed between the first list and the last: the list holds both, the folder something of either.
    let place = world.repo.state_dir().join("published.json");
    let mut both = load(&place);
    both.files.entry("report.json".into()).or_default().insert(hex::encode(Sha256::digest("2")));
    both.files.entry("coverage.xml".into()).or_default().insert(hex::encode(Sha256::digest("2")));
    save(&place, &both).unwrap();
    world.fixture.write("artifacts/report.json", "2");
    world.fixture.write("artifacts/coverage.xml", "2");
    world.fixture.write("artifacts/.ft-new/0", "2");
    let done = world.publish(&[("report.json", "3")]);
    assert_eq!(world.there(), map(&[("report.json", "3")]));
    assert_eq!(done.reported, []);
}

#[test]
fn a_list_that_is_lost_makes_no_file_disappear() {
    let world = World::new(&[("a", "")]);
    world.publish(&[("report.json", "1"), ("log", "1")]);
    std::fs::write(world.repo.state_dir().join("published.json"), "{").unwrap();
    world.publish(&[("report.json", "2")]);
    assert_eq!(world.there(), map(&[("report.json", "2"), ("report.json.yours", "1"), ("log", "1")]));
}

#[test]
fn of_two_files_with_one_name_the_later_is_published() {
    let world = World::new(&[("a", "")]);
    world.publish(&[("x", "1"), ("x", "2"), ("y", "3")]);
    assert_eq!(world.there(), map(&[("x", "2"), ("y", "3")]));
}

#[test]
fn of_two_steps_that_leave_one_path_the_later_wins_and_both_are_named() {
    let file = |path: &str, sha256: &str| ReceivedFile { path: path.into(), bytes: 1, sha256: sha256.into() };
    let (one, two) = ([file("work/a", "1"), file("work/same", "1")], [file("work/a", "2"), file("work/same", "1")]);
    let (files, shadowed) = merge([("ruff", &one[..]), ("mypy", &two[..])]);
    let files: Vec<_> = files.into_iter().map(|(step, file)| (step, &*file.path, &*file.sha256)).collect();
    assert_eq!(files, [("mypy", "work/a", "2"), ("mypy", "work/same", "1")]);
    assert_eq!(shadowed, [Shadowed { path: "work/a".into(), earlier: "ruff".into(), later: "mypy".into() }]);
}

#[test]
fn what_came_back_is_published_below_artifacts() {
    assert_eq!(published_name("work/artifacts/a/b.xml"), Some("a/b.xml"));
    assert_eq!(published_name("work/dist/x.whl"), Some("dist/x.whl"));
    assert_eq!(published_name("out/pytest.json"), None);
}

#[test]
fn what_ft_makes_stays_out_of_git_status() {
    let world = World::new(&[("sub/a", "")]);
    for root in [world.fixture.top.clone(), world.fixture.top.join("sub")] {
        let repo = Repo { root: root.clone(), ..world.repo.clone() };
        std::fs::create_dir_all(root.join(".firsttry")).unwrap();
        std::fs::create_dir_all(root.join("artifacts")).unwrap();
        for name in [".firsttry/x", "artifacts/x", ".venv-parity"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        assert_ne!(world.fixture.git(["status", "--porcelain"]), "");
        exclude_from_status(&repo).unwrap();
        let once = std::fs::read(repo.common_dir.join("info/exclude")).unwrap();
        exclude_from_status(&repo).unwrap();
        assert_eq!(std::fs::read(repo.common_dir.join("info/exclude")).unwrap(), once);
        assert_eq!(world.fixture.git(["status", "--porcelain"]), "");
    }
}

#[test]
fn artifacts_that_git_tracks_are_not_hidden() {
    let world = World::new(&[("artifacts/kept", "")]);
    exclude_from_status(&world.repo).unwrap();
    world.fixture.write("artifacts/new", "");
    assert_eq!(world.fixture.git(["status", "--porcelain"]), "?? artifacts/new");
}

#[test]
fn an_update_replaces_one_file_and_the_next_run_knows_it_as_ours() {
    let world = World::new(&[("a", "")]);
    world.publish(&[("report.json", "1"), ("coverage.xml", "1")]);
    let done = world.exchange(&[("report.json", "2")], |lock, repo, items| update(lock, repo, items, None));
    assert_eq!((done.removed.len(), done.reported.len()), (0, 0));
    assert_eq!(world.there(), map(&[("report.json", "2"), ("coverage.xml", "1")]));
    let done = world.publish(&[("report.json", "3")]);
    assert_eq!((done.removed, done.reported), (vec!["coverage.xml".to_owned()], Vec::new()));
    assert_eq!(world.there(), map(&[("report.json", "3")]));
}
