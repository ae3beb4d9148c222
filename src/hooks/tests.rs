//! Real commits and pushes, with an `ft` that writes down how it was called.

use super::*;
use crate::git::fixture::{Fixture, command, git};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

/// A repository with a remote, and an `ft` in `bin` that appends its arguments and input to `calls`.
struct World {
    fixture: Fixture,
    base: PathBuf,
}

fn script(at: &Path, text: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl World {
    fn new() -> World {
        let fixture = Fixture::with(&[("a", "1")]);
        let base = fixture.dir.path().canonicalize().unwrap();
        git(&base, ["init", "-q", "--bare", "remote"]);
        fixture.git(["remote", "add", "origin", base.join("remote").to_str().unwrap()]);
        let world = World { fixture, base };
        world.write_ft(0);
        world
    }

    fn write_ft(&self, status: u8) {
        let calls = self.base.join("calls");
        let text = format!(
            "#!/bin/sh\necho \"ft $*\" >>'{0}'\n[ \"$1\" = pre-push ] && sed 's/^/< /' >>'{0}'\nexit {status}\n",
            calls.display()
        );
        script(&self.base.join("bin/ft"), &text);
    }

    fn repo(&self) -> Repo {
        self.repo_at(&self.fixture.top)
    }

    fn repo_at(&self, top: &Path) -> Repo {
        let absolute = |what| top.join(git(top, ["rev-parse", what])).canonicalize().unwrap();
        Repo {
            root: top.to_owned(),
            top: top.to_owned(),
            git_dir: absolute("--git-dir"),
            common_dir: absolute("--git-common-dir"),
            head: None,
            object_format: "sha1".into(),
        }
    }

    fn install(&self) -> Report {
        install(&self.repo(), Path::new("/nowhere/ft")).unwrap()
    }

    /// A git command as a person with our `ft` in PATH would run it.
    fn run(&self, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.base.join("bin").display());
        command(dir)
            .args(args)
            .env("PATH", path)
            .env("HOME", &self.base)
            .env_remove("SKIP_FT")
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }

    fn commit_in(&self, dir: &Path, env: &[(&str, &str)]) -> Output {
        self.run(dir, &["commit", "-q", "--allow-empty", "-m", "more"], env)
    }

    fn commit(&self) -> Output {
        self.commit_in(&self.fixture.top, &[])
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.base.join("calls")).unwrap_or_default()
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_commit_and_a_push_call_ft() {
    let world = World::new();
    let report = world.install();
    assert_eq!(report.hooks.iter().map(|(_, did)| *did).collect::<Vec<_>>(), [Did::Wrote, Did::Wrote]);
    succeeded(&world.commit());
    let head = world.fixture.git(["rev-parse", "HEAD"]);
    succeeded(&world.run(&world.fixture.top, &["push", "-q", "origin", "main"], &[]));
    let zero = "0".repeat(40);
    let remote = world.base.join("remote");
    assert_eq!(
        world.calls(),
        format!(
            "ft pre-commit\nft pre-push origin {}\n< refs/heads/main {head} refs/heads/main {zero}\n",
            remote.display()
        )
    );
}

#[test]
fn what_ft_answers_decides() {
    let world = World::new();
    world.install();
    world.write_ft(101);
    assert!(!world.commit().status.success());
    assert!(!world.run(&world.fixture.top, &["push", "-q", "origin", "main"], &[]).status.success());
    assert_eq!(git(&world.base.join("remote"), ["for-each-ref"]), "");
}

#[test]
fn skip_ft_skips_with_one_line() {
    let world = World::new();
    world.install();
    world.write_ft(1);
    let done = world.commit_in(&world.fixture.top, &[("SKIP_FT", "1")]);
    succeeded(&done);
    assert_eq!(String::from_utf8_lossy(&done.stderr), "ft: pre-commit skipped, because SKIP_FT=1 is set\n");
    assert_eq!(world.calls(), "");
}

#[test]
fn without_ft_a_commit_goes_with_a_warning_and_a_push_does_not() {
    let world = World::new();
    world.install();
    std::fs::remove_file(world.base.join("bin/ft")).unwrap();
    let commit = world.commit();
    succeeded(&commit);
    let said = String::from_utf8_lossy(&commit.stderr).into_owned();
    assert_eq!(said.lines().count(), 1);
    assert!(said.contains("cargo install firsttry"), "{said}");
    let push = world.run(&world.fixture.top, &["push", "-q", "origin", "main"], &[]);
    assert!(!push.status.success());
    assert!(String::from_utf8_lossy(&push.stderr).starts_with("ft: not found, so nothing was checked"));
}

#[test]
fn ft_is_found_where_cargo_puts_it_and_where_it_was_at_install() {
    let world = World::new();
    let ft = world.base.join("bin/ft");
    let moved = world.base.join("it's here/ft");
    install(&world.repo(), &moved).unwrap();
    for place in [moved, world.base.join(".local/bin/ft"), world.base.join(".cargo/bin/ft")] {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::rename(&ft, &place).unwrap();
        succeeded(&world.commit());
        std::fs::rename(&place, &ft).unwrap();
    }
    assert_eq!(world.calls(), "ft pre-commit\n".repeat(3));
}

#[test]
fn a_hook_that_is_there_is_called_first_and_may_refuse() {
    let world = World::new();
    let hooks = world.fixture.top.join(".git/hooks");
    let log = world.base.join("calls");
    let own = |status| {
        format!(
            "#!/bin/sh\necho \"own ${{0##*/}} $*\" >>'{0}'\nsed 's/^/own< /' >>'{0}'\nexit {status}\n",
            log.display()
        )
    };
    script(&hooks.join("pre-commit"), &own(0));
    script(&hooks.join("pre-push"), &own(0));
    let report = world.install();
    assert_eq!(report.hooks.iter().map(|(_, did)| *did).collect::<Vec<_>>(), [Did::WroteBeside, Did::WroteBeside]);
    succeeded(&world.commit());
    succeeded(&world.run(&world.fixture.top, &["push", "-q", "origin", "main"], &[]));
    let calls = world.calls();
    let lines: Vec<_> = calls.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        ["own pre-commit", "ft pre-commit", "own pre-push", "own< refs/heads/main", "ft pre-push", "< refs/heads/main"]
    );

    uninstall(&world.repo()).unwrap();
    script(&hooks.join("pre-commit"), &own(3));
    world.install();
    std::fs::remove_file(&log).unwrap();
    assert!(!world.commit().status.success());
    assert_eq!(world.calls(), "own pre-commit \n");
}

#[test]
fn a_hook_in_another_language_and_one_that_may_not_run_are_kept() {
    let world = World::new();
    let hooks = world.fixture.top.join(".git/hooks");
    let log = world.base.join("calls");
    script(
        &hooks.join("pre-commit"),
        &format!("#!/usr/bin/perl\nopen(F, '>>', '{}'); print F \"perl\\n\";\n", log.display()),
    );
    std::fs::write(hooks.join("pre-push"), "#!/bin/sh\nexit 9\n").unwrap();
    world.install();
    succeeded(&world.commit());
    succeeded(&world.run(&world.fixture.top, &["push", "-q", "origin", "main"], &[]));
    assert!(world.calls().starts_with("perl\nft pre-commit\nft pre-push"), "{}", world.calls());
}

#[test]
fn uninstall_restores_what_was_there_to_the_byte() {
    let world = World::new();
    let hooks = world.fixture.top.join(".git/hooks");
    std::fs::remove_dir_all(&hooks).unwrap();
    std::fs::create_dir(&hooks).unwrap();
    std::fs::write(hooks.join("pre-commit"), b"\x7fELF\x00\xff").unwrap();
    std::fs::set_permissions(hooks.join("pre-commit"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("../somewhere/else", hooks.join("pre-push")).unwrap();
    let look = || {
        let mut all: Vec<_> = std::fs::read_dir(&hooks)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                (
                    path.clone(),
                    meta.permissions().mode(),
                    std::fs::read_link(&path).ok(),
                    std::fs::read(&path).ok(),
                    meta.modified().unwrap(),
                )
            })
            .collect();
        all.sort();
        all
    };
    let before = look();
    world.install();
    world.install();
    assert_ne!(look(), before);
    let report = uninstall(&world.repo()).unwrap();
    assert_eq!(report.hooks.iter().map(|(_, did)| *did).collect::<Vec<_>>(), [Did::Restored, Did::Restored]);
    assert_eq!(look(), before);
}

#[test]
fn installing_twice_changes_nothing() {
    let world = World::new();
    world.install();
    let report = world.install();
    assert_eq!(report.hooks.iter().map(|(_, did)| *did).collect::<Vec<_>>(), [Did::Nothing, Did::Nothing]);
    let status = status(&world.repo()).unwrap();
    assert_eq!(status.hooks[0].1, State::Installed { chained: false });
    let again = install(&world.repo(), Path::new("/other/ft")).unwrap();
    assert_eq!(again.hooks[0].1, Did::Updated);
    uninstall(&world.repo()).unwrap();
    assert_eq!(super::status(&world.repo()).unwrap().hooks[0].1, State::Absent);
}

#[test]
fn a_tool_that_puts_its_own_hook_over_ours_is_noticed_and_then_called() {
    let world = World::new();
    let hook = world.fixture.top.join(".git/hooks/pre-commit");
    script(&hook, "#!/bin/sh\n# first\n");
    world.install();
    script(&hook, "#!/bin/sh\n# second\n");
    assert_eq!(status(&world.repo()).unwrap().hooks[0].1, State::Replaced);
    assert_eq!(world.install().hooks[0].1, Did::WroteBeside);
    assert_eq!(std::fs::read_to_string(kept_as(&hook)).unwrap(), "#!/bin/sh\n# second\n");
    assert!(hook.with_file_name("pre-commit.ft-original-2").exists(), "the first one is not lost");
    succeeded(&world.commit());
    assert_eq!(world.calls(), "ft pre-commit\n");
}

#[test]
fn a_tool_that_calls_ours_as_its_predecessor_is_left_alone() {
    let world = World::new();
    world.install();
    let hook = world.fixture.top.join(".git/hooks/pre-commit");
    // As pre-commit does it.
    std::fs::rename(&hook, hook.with_file_name("pre-commit.legacy")).unwrap();
    script(&hook, "#!/bin/sh\n\"$0.legacy\" \"$@\"\n");
    assert_eq!(status(&world.repo()).unwrap().hooks[0].1, State::CallsFt);
    assert_eq!(world.install().hooks[0].1, Did::Nothing);
    succeeded(&world.commit());
    assert_eq!(world.calls(), "ft pre-commit\n");
}

#[test]
fn two_tools_that_call_each_other_do_not_go_in_circles() {
    let world = World::new();
    let hook = world.fixture.top.join(".git/hooks/pre-commit");
    script(&hook, "#!/bin/sh\nexec .git/hooks/pre-commit\n");
    world.install();
    succeeded(&world.commit());
    assert_eq!(world.calls(), "ft pre-commit\n");
}

#[test]
fn husky_finds_its_own_script() {
    let world = World::new();
    let top = &world.fixture.top;
    let log = world.base.join("calls");
    // As husky 9 lays it out.
    script(&top.join(".husky/_/pre-commit"), "#!/usr/bin/env sh\n. \"$(dirname \"$0\")/h\"\n");
    std::fs::write(
        top.join(".husky/_/h"),
        "n=$(basename \"$0\")\ns=$(dirname \"$(dirname \"$0\")\")/$n\n[ ! -f \"$s\" ] && exit 0\nsh -e \"$s\" \"$@\"\nexit $?\n",
    )
    .unwrap();
    std::fs::write(top.join(".husky/_/.gitignore"), "*").unwrap();
    std::fs::write(top.join(".husky/pre-commit"), format!("echo husky >>'{}'\n", log.display())).unwrap();
    world.fixture.git(["config", "core.hooksPath", ".husky/_"]);
    let report = world.install();
    assert_eq!(report.dir, top.join(".husky/_"));
    succeeded(&world.commit());
    assert_eq!(world.calls(), "husky\nft pre-commit\n");
}

#[test]
fn a_hook_file_that_git_tracks_stays_as_it_is() {
    let world = World::new();
    let hook = world.fixture.top.join(".githooks/pre-commit");
    script(&hook, "#!/bin/sh\n");
    world.fixture.git(["add", "-A"]);
    world.fixture.git(["config", "core.hooksPath", ".githooks"]);
    let report = world.install();
    assert_eq!(report.hooks, [(hook.clone(), Did::LeftTracked), (hook.with_file_name("pre-push"), Did::Wrote)]);
    assert_eq!(std::fs::read_to_string(&hook).unwrap(), "#!/bin/sh\n");
    assert_eq!(world.fixture.git(["status", "--porcelain"]), "A  .githooks/pre-commit");
    script(&hook, "#!/bin/sh\nft pre-commit \"$@\"\n");
    assert_eq!(status(&world.repo()).unwrap().hooks[0].1, State::CallsFt);
}

#[test]
fn a_githooks_folder_that_git_does_not_use_is_not_used() {
    let world = World::new();
    std::fs::create_dir(world.fixture.top.join(".githooks")).unwrap();
    assert_eq!(world.install().dir, world.fixture.top.join(".git/hooks"));
}

#[test]
fn linked_worktrees_share_the_hooks_unless_one_has_its_own() {
    let world = World::new();
    let linked = world.base.join("linked");
    world.fixture.git(["worktree", "add", "-q", linked.to_str().unwrap()]);
    let repo = world.repo_at(&linked);
    assert_eq!(install(&repo, Path::new("/nowhere/ft")).unwrap().dir, world.fixture.top.join(".git/hooks"));
    succeeded(&world.commit_in(&linked, &[]));
    succeeded(&world.commit());
    assert_eq!(world.calls(), "ft pre-commit\n".repeat(2));

    world.fixture.git(["config", "extensions.worktreeConfig", "true"]);
    git(&linked, ["config", "--worktree", "core.hooksPath", "own hooks"]);
    assert_eq!(install(&repo, Path::new("/nowhere/ft")).unwrap().dir, linked.join("own hooks"));
    succeeded(&world.commit_in(&linked, &[]));
    assert_eq!(world.calls(), "ft pre-commit\n".repeat(3));
}

#[test]
fn a_submodule_has_hooks_of_its_own() {
    let world = World::new();
    let inner = Fixture::with(&[("b", "")]);
    world.fixture.git(["submodule", "--quiet", "add", inner.top.to_str().unwrap(), "sub"]);
    let sub = world.fixture.top.join("sub");
    let report = install(&world.repo_at(&sub), Path::new("/nowhere/ft")).unwrap();
    assert_eq!(report.dir, world.fixture.top.join(".git/modules/sub/hooks"));
    succeeded(&world.commit_in(&sub, &[]));
    assert_eq!(world.calls(), "ft pre-commit\n");
}

#[test]
fn a_folder_of_others_is_never_written_to() {
    let world = World::new();
    let outside = world.base.join("company");
    std::fs::create_dir(&outside).unwrap();
    world.fixture.git(["config", "core.hooksPath", outside.to_str().unwrap()]);
    let error = install(&world.repo(), Path::new("/nowhere/ft")).unwrap_err();
    assert!(matches!(error, HookError::Outside(_)), "{error}");
    assert!(error.hint().is_some());

    world.fixture.git(["config", "--unset", "core.hooksPath"]);
    std::fs::remove_dir_all(world.fixture.top.join(".git/hooks")).unwrap();
    std::os::unix::fs::symlink(&outside, world.fixture.top.join(".git/hooks")).unwrap();
    assert!(matches!(install(&world.repo(), Path::new("/nowhere/ft")), Err(HookError::Outside(_))));
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
}
