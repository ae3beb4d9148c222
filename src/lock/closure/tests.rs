use super::*;
use proptest::prelude::*;

const UV_LOCK: &str = include_str!("../fixtures/workspace.uv.lock");
/// What uv itself exports of that lock for the group `dev`, and for the extra `old`.
const EXPORT_DEV: &str = include_str!("../fixtures/workspace.dev.txt");
const EXPORT_OLD: &str = include_str!("../fixtures/workspace.old.txt");

fn uv(groups: &[&str], extras: &[&str]) -> Result<Closure, ClosureError> {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    Closure::from_uv_lock(UV_LOCK, &owned(groups), &owned(extras), None)
}

/// Interpreters of three systems and every Python that the fixture was resolved for.
fn interpreters() -> Vec<MarkerEnv> {
    let pythons = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0", "3.14.0"];
    let of = |python: &str| {
        [
            env_of(python, "posix", "Linux", "linux", "x86_64"),
            env_of(python, "posix", "Darwin", "darwin", "arm64"),
            env_of(python, "nt", "Windows", "win32", "AMD64"),
        ]
    };
    pythons.iter().flat_map(|python| of(python)).map(Option::unwrap).collect()
}

fn linux() -> MarkerEnv {
    linux_env("3.11.7", "x86_64").unwrap()
}

fn names(pinned: &[Pinned]) -> Vec<String> {
    pinned.iter().map(|pinned| format!("{}=={}", pinned.name, pinned.version)).collect()
}

#[test]
fn the_walk_of_uv_lock_selects_what_uv_exports() {
    for (closure, export) in [(uv(&["dev"], &[]), EXPORT_DEV), (uv(&[], &["old"]), EXPORT_OLD)] {
        let (closure, export) = (closure.unwrap(), Closure::from_requirements(export).unwrap());
        for env in interpreters() {
            assert_eq!(
                closure.select(&env),
                export.select(&env),
                "{} {}",
                env.python_full_version(),
                env.sys_platform()
            );
        }
    }
}

#[test]
fn extras_that_exclude_each_other_select_their_own_versions() {
    let idna = |extras: &[&str]| {
        let selected = uv(&[], extras).unwrap().select(&linux()).unwrap();
        selected.into_iter().find(|pinned| pinned.name == "idna").unwrap().version
    };
    assert_eq!((idna(&["old"]).as_str(), idna(&["new"]).as_str()), ("3.4", "3.7"));
}

#[test]
fn groups_and_extras_are_known_even_when_they_are_empty() {
    assert!(uv(&["none", "DEV"], &["empty"]).is_ok());
    let group = uv(&["test"], &[]).unwrap_err();
    assert_eq!(group.to_string(), "uv.lock: no dependency group \"test\"; there is dev, none, types");
    let extra = uv(&[], &["x"]).unwrap_err();
    assert_eq!(extra.to_string(), "uv.lock: the project has no extra \"x\"; there is empty, new, old");
    assert_eq!(group.code(), ParityCode::LOCK_STALE);
}

#[test]
fn a_member_of_the_workspace_is_named_and_not_pinned() {
    let closure = uv(&[], &[]).unwrap();
    let core = Member { name: "core".into(), path: "packages/core".into() };
    assert_eq!(closure.members(&linux()).unwrap(), [core]);
    assert!(!names(&closure.select(&linux()).unwrap()).iter().any(|name| name.starts_with("core")));
    // Its own dependencies are part of the environment.
    assert!(names(&closure.select(&linux()).unwrap()).iter().any(|name| name.starts_with("packaging==")));
    let core = Closure::from_uv_lock(UV_LOCK, &[], &[], Some("Core")).unwrap();
    assert_eq!(names(&core.select(&linux()).unwrap()).len(), 1);
    assert_eq!(
        Closure::from_uv_lock(UV_LOCK, &[], &[], Some("nobody")).unwrap_err(),
        ClosureError::NoProject(Some("nobody".into()))
    );
}

#[test]
fn another_python_than_was_resolved_for_is_refused() {
    let error = uv(&[], &[]).unwrap().select(&linux_env("3.7.16", "x86_64").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "uv.lock was resolved for Python >=3.8, and this is Python 3.7.16");
}

/// The least lock that has the given packages beside a project that depends on `x`.
fn small(packages: &str, head: &str) -> Result<Vec<Pinned>, ClosureError> {
    let text = format!(
        "version = 1\n{head}\n[[package]]\nname = \"me\"\nsource = {{ virtual = \".\" }}\ndependencies = [{{ name = \"x\" }}]\n{packages}"
    );
    Closure::from_uv_lock(&text, &[], &[], None)?.select(&linux())
}

#[test]
fn what_no_index_holds_under_a_hash_is_refused_by_name() {
    let package = |source: &str| format!("[[package]]\nname = \"x\"\nversion = \"1\"\nsource = {{ {source} }}\n");
    let error = small(&package("git = \"https://me:secret@host/x?rev=1#2\""), "").unwrap_err();
    assert_eq!(error.to_string(), "x comes from git (https://host/x?rev=1#2), not from a package index");
    assert_eq!(error.code(), ParityCode::PACKAGE_HASH);
    assert!(matches!(
        small(&package("url = \"https://host/x.whl\""), ""),
        Err(ClosureError::NotFromIndex { kind: "a URL", .. })
    ));
    assert!(matches!(
        small(&package("directory = \"../x\""), ""),
        Err(ClosureError::NotFromIndex { kind: "a path", .. })
    ));
    assert!(matches!(small(&package("registry = \"i\""), ""), Err(ClosureError::Unhashed { .. })));
    assert!(matches!(small("", ""), Err(ClosureError::Missing { .. })));
}

#[test]
fn a_distribution_without_wheels_is_marked() {
    let hash = "a".repeat(64);
    let package = format!(
        "[[package]]\nname = \"x\"\nversion = \"1\"\nsource = {{ registry = \"i\" }}\nsdist = {{ hash = \"sha256:{hash}\" }}\n"
    );
    let pinned = small(&package, "").unwrap();
    assert!(pinned[0].sdist);
    assert_eq!(pinned[0].hashes, [format!("sha256:{hash}")]);
    let error = small(&package, "supported-markers = [\"sys_platform == 'darwin'\"]").unwrap_err();
    assert_eq!(error.to_string(), "uv.lock was not resolved for this platform; it was for sys_platform == 'darwin'");
}

#[test]
fn a_file_that_is_no_uv_lock_is_refused_with_its_line() {
    let of = |text: &str| Closure::from_uv_lock(text, &[], &[], None).unwrap_err().to_string();
    assert_eq!(of("version = 2"), "uv.lock: expected version 1, found 2");
    assert_eq!(of("version = 1"), "uv.lock: no package is the project");
    assert!(
        of("version = 1\n[[package]]\nname = 5\n").starts_with("uv.lock: line 3: "),
        "{}",
        of("version = 1\n[[package]]\nname = 5\n")
    );
    assert!(of("version = 1\nx = [").starts_with("uv.lock: line 2: "));
}

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

#[test]
fn a_requirements_file_is_read_as_pip_reads_it() {
    let text = format!(
        "# made by a tool\r\n--index-url https://user:pw@index.example/simple\n-i x\n\nRuamel.YAML[jinja2]==0.18 ; python_version < \"4\" \\\r\n    --hash={B} \\\n    # via me\n    --hash={A} # why\nwin==1 ; sys_platform == 'win32' --hash {A}\n    # via x\nlast==2!1.0+local.1 --hash={A} --hash=sha512:00\n"
    );
    let pinned = Closure::from_requirements(&text).unwrap().select(&linux()).unwrap();
    assert_eq!(names(&pinned), ["last==2!1.0+local.1", "ruamel-yaml==0.18"]);
    assert_eq!(pinned[1].hashes, [A, B]);
}

#[test]
fn a_requirement_that_names_no_single_hashed_file_set_is_refused_with_its_line() {
    let of = |line: &str| Closure::from_requirements(&format!("# x\n{line}")).unwrap_err();
    assert_eq!(of("click==8.1"), ClosureError::Unhashed { name: "click".into(), version: "8.1".into() });
    assert_eq!(of("click==8.1").code(), ParityCode::PACKAGE_HASH);
    assert_eq!(of("click==8.1 --hash=sha512:00"), of("click==8.1"));
    let said = |line: &str| of(line).to_string();
    assert_eq!(said("click>=8.1"), "line 2: expected one exact version, `name==1.2.3`: click>=8.1");
    assert_eq!(said("click==8.*"), "line 2: expected one exact version, `name==1.2.3`: click==8.*");
    assert_eq!(said("click"), "line 2: expected one exact version, `name==1.2.3`: click");
    assert_eq!(
        said("click==8 --hash=sha256:12"),
        "line 2: a sha256 has 64 hexadecimal digits: click==8 --hash=sha256:12"
    );
    assert_eq!(said("-r other.txt"), "line 2: another file is not part of the closure: -r other.txt");
    assert_eq!(said("--frob"), "line 2: the option --frob is not known here: --frob");
    assert_eq!(said("-e ."), "line 2: an editable has no hash: -e .");
    assert_eq!(
        said("x @ https://me:secret@host/x.whl"),
        "x comes from a URL (https://host/x.whl), not from a package index"
    );
}

#[test]
fn the_first_file_that_names_a_distribution_decides() {
    let first =
        Closure::from_requirements(&format!("a==1 --hash={A}\nb==1 ; sys_platform == 'win32' --hash={A}\n")).unwrap();
    let extra = Closure::from_requirements(&format!("A==2 --hash={B}\nb==2 --hash={B}\nc==2 --hash={B}\n")).unwrap();
    let both = first.with_extra(extra);
    assert_eq!(names(&both.select(&linux()).unwrap()), ["a==1", "c==2"]);
    assert_eq!(both.version_of("B").as_deref(), Some("1"));
    assert_eq!(both.version_of("c").as_deref(), Some("2"));
    assert_eq!(both.version_of("d"), None);
}

#[test]
fn what_only_another_group_reaches_is_not_named() {
    let extra = Closure::from_requirements(&format!("pytest==1 --hash={A}\n")).unwrap();
    let without = uv(&[], &[]).unwrap();
    assert!(without.versions_of("pytest").is_empty());
    assert!(names(&without.with_extra(extra.clone()).select(&linux()).unwrap()).contains(&"pytest==1".to_owned()));
    let with = uv(&["dev"], &[]).unwrap().with_extra(extra).select(&linux()).unwrap();
    assert!(!names(&with).contains(&"pytest==1".to_owned()));
}

#[test]
fn two_versions_of_one_distribution_at_once_are_refused() {
    let closure = Closure::from_requirements(&format!("a==1 --hash={A}\na==2 --hash={A}\n")).unwrap();
    assert!(matches!(closure.select(&linux()), Err(ClosureError::TwoVersions { .. })));
    assert_eq!(closure.versions_of("a"), ["1", "2"]);
    assert_eq!(closure.version_of("a"), None);
}

proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(text in "\\PC{0,80}|[a-z=\\\\\n #;'\"\\[\\]{}-]{0,120}") {
        let _ = Closure::from_requirements(&text);
        let _ = Closure::from_uv_lock(&text, &[], &[], None);
    }

    #[test]
    fn a_uv_lock_with_a_line_taken_out_is_read_or_refused(at in 0usize..700) {
        let text: String = UV_LOCK.lines().enumerate().filter(|(line, _)| *line != at).map(|(_, line)| format!("{line}\n")).collect();
        let selected = Closure::from_uv_lock(&text, &["dev".to_owned()], &[], None).and_then(|lock| lock.select(&linux()));
        prop_assert!(selected.into_iter().flatten().all(|pinned| !pinned.hashes.is_empty()));
    }

    #[test]
    fn what_is_selected_is_sorted_and_names_each_distribution_once(
        rows in prop::collection::vec(("[a-d]", 0..3u8, prop::sample::select(vec!["", " ; sys_platform == 'win32'", " ; python_version >= '3'"])), 0..8)
    ) {
        let text: String = rows.iter().map(|(name, version, marker)| format!("{name}=={version}{marker} --hash={A}\n")).collect();
        if let Ok(pinned) = Closure::from_requirements(&text).unwrap().select(&linux()) {
            prop_assert!(pinned.windows(2).all(|pair| pair[0].name < pair[1].name));
        }
    }
}
