use super::inputs::{
    ClosureFacts, Command, ContainerFacts, EnvironmentFacts, Facts, MachineFacts, PythonFacts, Request,
};
use super::*;
use crate::code::ParityCode;
use crate::repo::Source;
use crate::step::{Gate, Network, Reader};

const LOCK: &str = r#"{
  "version": 2, "python": "3.11", "python_locked": {"3.11": "3.11.7"},
  "environment": {"from": "ci/parity.requirements.txt"},
  "runner": {"version": ">=0.1,<0.2"},
  "tools": {
    "ruff": {"version": "0.14.4", "args": ["check", "."]},
    "unit": {"package": "pytest", "gate": "tests", "args": ["-q", "--cov=pkg"], "timeout_sec": 9},
    "bandit": {"args": ["-r", "src", "-ll"]}
  },
  "plugins": ["pytest_cov"],
  "thresholds": {"coverage_min": 0.8},
  "config_hashes": {"a.cfg": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "b.cfg": "pending"},
  "build": true, "import_names": ["pkg"],
  "required_artifacts": ["artifacts/coverage.xml", "dist/notes.txt"],
  "network_policy": {"forbid_network": true}
}"#;

fn lock(change: impl FnOnce(&mut serde_json::Value)) -> Lock {
    let mut value: serde_json::Value = serde_json::from_str(LOCK).unwrap();
    change(&mut value);
    Lock::parse(value.to_string().as_bytes()).unwrap().0
}

fn packages() -> BTreeMap<String, String> {
    let list = [
        ("ruff", "0.14.4"),
        ("pytest", "8.4.2"),
        ("bandit", "1.8.6"),
        ("pytest-cov", "6.0"),
        ("coverage", "7.11"),
        ("pytest-xdist", "3.8"),
    ];
    list.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

/// Everything as the lock has it.
fn facts() -> Facts {
    Facts {
        ft_version: "0.1.0".into(),
        repository: "/home/me/pkg".into(),
        python_asked: "3.11".into(),
        python: Some(PythonFacts { version: "3.11.7".into(), exposes: None }),
        closure: ClosureFacts::Ready(packages()),
        hashes: [(
            "a.cfg".to_owned(),
            Ok("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb".to_owned()),
        )]
        .into(),
        environment: Some(EnvironmentFacts { key: "k".into(), packages: packages(), deviations: vec![] }),
        machine: MachineFacts { cpus: 4, ..MachineFacts::default() },
        ..Facts::default()
    }
}

fn request(command: Command) -> Request {
    Request {
        command,
        only: vec![],
        source: Source::Worktree,
        advisory: false,
        fail_fast: false,
        container: false,
        in_place: false,
        no_network: false,
        changed_only: false,
        pytest_addopts: None,
        strict_tree: false,
        update_collection: false,
        hash_seed: None,
        jobs: None,
    }
}

fn codes(lock: &Lock, facts: &Facts, request: &Request) -> Vec<ParityCode> {
    plan(lock, facts, request).1.into_iter().filter(|finding| !finding.warning).map(|finding| finding.code).collect()
}

/// The codes of a run after one thing was changed.
fn run_codes(
    change_lock: impl FnOnce(&mut serde_json::Value),
    change: impl FnOnce(&mut Facts, &mut Request),
) -> Vec<ParityCode> {
    let (mut facts, mut request) = (facts(), request(Command::Run));
    change(&mut facts, &mut request);
    codes(&lock(change_lock), &facts, &request)
}

#[test]
fn a_clone_that_matches_its_lock_has_no_finding() {
    assert_eq!(run_codes(|_| {}, |_, _| {}), []);
}

#[test]
fn every_deviation_has_its_own_code() {
    let fact = |change: fn(&mut Facts)| run_codes(|_| {}, |facts, _| change(facts));
    let ask = |change: fn(&mut Request)| run_codes(|_| {}, |_, request| change(request));
    let version = |facts: &mut Facts, name: &str, version: &str| {
        facts.environment.as_mut().unwrap().packages.insert(name.into(), version.into());
    };
    let cases: Vec<(Vec<ParityCode>, ParityCode)> = vec![
        (run_codes(|_| {}, |f, _| version(f, "ruff", "0.14.5")), ParityCode::TOOL_VERSION),
        (fact(|f| f.python = None), ParityCode::PYTHON_VERSION),
        (fact(|f| f.python.as_mut().unwrap().version = "3.11.8".into()), ParityCode::PYTHON_VERSION),
        (fact(|f| f.environment.as_mut().unwrap().deviations.push("x: changed".into())), ParityCode::ENVIRONMENT_SEAL),
        (
            fact(|f| f.closure = ClosureFacts::Unusable { message: "x".into(), unhashed: true }),
            ParityCode::PACKAGE_HASH,
        ),
        (fact(|f| f.ft_version = "0.2.0".into()), ParityCode::RUNNER_VERSION),
        (fact(|f| f.closure = ClosureFacts::Stale { what: "x".into(), hint: None }), ParityCode::LOCK_STALE),
        (fact(|f| f.hashes = [("a.cfg".to_owned(), Ok("00".to_owned()))].into()), ParityCode::CONFIG_DRIFT),
        (fact(|f| f.hashes = [("a.cfg".to_owned(), Err("gone".to_owned()))].into()), ParityCode::CONFIG_DRIFT),
        (
            fact(|f| {
                f.environment.as_mut().unwrap().packages.remove("pytest-cov");
            }),
            ParityCode::PLUGIN_MISSING,
        ),
        (ask(|r| r.pytest_addopts = Some("-q -k slow".into())), ParityCode::SCOPE_NARROWED),
        (ask(|r| r.only = vec!["ruff".into()]), ParityCode::SCOPE_NARROWED),
        (ask(|r| r.container = true), ParityCode::IMAGE_NOT_PINNED),
        (
            fact(|f| {
                f.machine.no_namespaces = Some(("x".into(), "y".into()));
                f.machine.no_here = Some(("x".into(), "y".into()));
            }),
            ParityCode::POLICY_UNENFORCEABLE,
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, [expected]);
    }
}

#[test]
fn each_step_has_its_network_and_the_caller_can_close_them_all() {
    let lock = lock(|lock| {
        lock["network_policy"] =
            serde_json::json!({"allowed_hosts": ["*.example.org", "A.net.:443"], "deny_quietly": ["x.example.org"]});
        lock["tools"]["ruff"]["network"] = serde_json::json!({"forbid_network": false});
        lock["tools"]["bandit"]["network"] = serde_json::json!({});
    });
    let network = |no_network: bool| {
        let (plan, findings) = plan(&lock, &facts(), &Request { no_network, ..request(Command::Run) });
        assert_eq!(findings, [], "every policy can be had");
        plan.steps.into_iter().map(|step| (step.id, step.network, step.deny_quietly)).collect::<Vec<_>>()
    };
    let common = || Network::Allow(vec!["*.example.org".into(), "a.net:443".into()]);
    let quiet = vec!["x.example.org".to_owned()];
    let wanted = [
        ("build", common()),
        ("import", common()),
        ("ruff", Network::Open),
        ("unit", common()),
        ("bandit", Network::Loopback),
        ("coverage", common()),
    ];
    assert_eq!(network(false), wanted.map(|(step, network)| (step.to_owned(), network, quiet.clone())));
    assert!(network(true).into_iter().all(|(_, network, _)| network == Network::Loopback));
}

#[test]
fn without_namespaces_every_policy_can_be_kept_where_a_cell_can_be_had() {
    let mut facts = facts();
    let open = |place: &str| {
        let place = place.to_owned();
        lock(move |lock| lock.pointer_mut(&place).unwrap()["forbid_network"] = false.into())
    };
    let allow = lock(|lock| lock["tools"]["ruff"]["network"] = serde_json::json!({"allowed_hosts": ["a.net:443"]}));
    let all = open("/network_policy");
    assert_eq!(codes(&all, &facts, &request(Command::Run)), []);
    facts.machine.no_namespaces = Some(("forbidden".into(), "allow them".into()));
    assert_eq!(codes(&lock(|_| {}), &facts, &request(Command::Run)), []);
    // The host relays what is allowed there too.
    for lock in [&all, &allow] {
        assert_eq!(codes(lock, &facts, &request(Command::Run)), []);
    }
    facts.machine.no_here = Some(("no Landlock".into(), "a newer kernel".into()));
    assert_eq!(codes(&all, &facts, &request(Command::Run)).len(), 1);
}

#[test]
fn a_part_of_the_steps_is_never_the_whole_run_however_it_is_named() {
    for only in [&["ruff", "ruff", "ruff", "ruff"][..], &["ruff", "unit", "bandit"]] {
        let asked = Request { only: only.iter().map(|s| (*s).to_owned()).collect(), ..request(Command::Run) };
        assert_eq!(codes(&lock(|_| {}), &facts(), &asked), [ParityCode::SCOPE_NARROWED]);
    }
}

#[test]
fn a_python_of_the_matrix_is_compared_with_what_was_locked_for_it() {
    let lock = lock(|lock| {
        lock["matrix"] = serde_json::json!({"python": ["3.11", "3.12"]});
        lock["python_locked"] = serde_json::json!({"3.11": "3.11.7", "3.12": "3.12.1"});
    });
    let mut facts = facts();
    facts.python_asked = "3.12".into();
    facts.python.as_mut().unwrap().version = "3.12.1".into();
    assert_eq!(codes(&lock, &facts, &request(Command::Run)), []);
    facts.python.as_mut().unwrap().version = "3.12.2".into();
    assert_eq!(codes(&lock, &facts, &request(Command::Run)), [ParityCode::PYTHON_VERSION]);
}

#[test]
fn pytest_is_known_behind_whoever_starts_it() {
    for (command, args) in
        [("python", &["-X", "dev", "-m", "pytest", "-q"][..]), ("coverage", &["run", "-m", "pytest", "-q"])]
    {
        let lock = lock(|lock| {
            lock["tools"]["unit"] =
                serde_json::json!({"package": "pytest", "command": command, "gate": "tests", "args": args});
        });
        let (plan, _) = plan(&lock, &facts(), &request(Command::Run));
        let unit = plan.steps.iter().find(|step| step.id == "unit").unwrap();
        assert_eq!(unit.reader, Reader::Pytest);
        assert_eq!(unit.argv[unit.argv.len() - 4..], ["pytest", "-p", "ft_pytest", "-q"].map(String::from));
    }
}

#[test]
fn a_patch_release_may_differ_where_the_lock_says_so() {
    let lock = lock(|lock| lock["python_match"] = "minor".into());
    let mut facts = facts();
    facts.python.as_mut().unwrap().version = "3.11.9".into();
    assert_eq!(codes(&lock, &facts, &request(Command::Run)), []);
}

#[test]
fn changed_only_has_the_code_that_the_lock_gives_it() {
    let changed = |facts: &mut Facts, request: &mut Request| {
        let _ = facts;
        request.changed_only = true;
    };
    let forbidden =
        |lock: &mut serde_json::Value| lock["changed_only_policy"] = serde_json::json!({"forbid_in_parity": true});
    assert_eq!(run_codes(forbidden, changed), [ParityCode::CHANGED_ONLY]);
    let allowed =
        |lock: &mut serde_json::Value| lock["changed_only_policy"] = serde_json::json!({"forbid_in_parity": false});
    assert_eq!(run_codes(allowed, changed), [ParityCode::SCOPE_NARROWED]);
}

#[test]
fn untracked_files_are_a_warning_by_hand_an_error_in_ci_and_no_matter_of_a_commit() {
    let mut facts = facts();
    facts.untracked = vec!["new.py".into()];
    let by_hand = request(Command::Run);
    let (_, findings) = plan(&lock(|_| {}), &facts, &by_hand);
    assert!(findings.iter().any(|finding| finding.code == ParityCode::TREE_NOT_CI && finding.warning));
    let ci = Request { strict_tree: true, ..by_hand.clone() };
    assert_eq!(codes(&lock(|_| {}), &facts, &ci), [ParityCode::TREE_NOT_CI]);
    let commit = Request { source: Source::Commit("HEAD".into()), ..ci };
    assert_eq!(codes(&lock(|_| {}), &facts, &commit), []);
}

#[test]
fn the_steps_stand_in_plan_order_with_readers_for_what_they_leave() {
    let (plan, _) = plan(&lock(|_| {}), &facts(), &request(Command::Run));
    let steps: Vec<(&str, Gate)> = plan.steps.iter().map(|step| (step.id.as_str(), step.gate)).collect();
    assert_eq!(
        steps,
        [
            ("build", Gate::Build),
            ("import", Gate::Import),
            ("ruff", Gate::Lint),
            ("unit", Gate::Tests),
            ("bandit", Gate::Security),
            ("coverage", Gate::Coverage)
        ]
    );
    assert_eq!(plan.steps[3].argv, ["pytest", "-p", "ft_pytest", "-q", "--cov=pkg"]);
    assert_eq!(plan.steps[3].timeout_ms, 9000);
    assert!(plan.steps[3].collect.contains(&"dist/notes.txt".to_owned()));
    assert_eq!(plan.steps[5].needs, ["unit"]);
    assert!(!plan.steps[1].tree && !plan.steps[1].project, "the import gate sees the wheel alone");
}

#[test]
fn the_callers_environment_is_in_no_step_and_the_locks_own_variables_win() {
    let lock = lock(|lock| {
        lock["env"] = serde_json::json!({"TZ": "Europe/Paris", "A": "1"});
        lock["tools"]["ruff"]["env"] = serde_json::json!({"A": "2"});
    });
    let (plan, _) = plan(&lock, &facts(), &request(Command::Run));
    let ruff = plan.steps.iter().find(|step| step.id == "ruff").unwrap();
    assert_eq!((ruff.env["TZ"].as_str(), ruff.env["A"].as_str()), ("Europe/Paris", "2"));
    assert_eq!(ruff.env["HOME"], "/ft/home");
    assert!(!ruff.env.contains_key("CARGO_MANIFEST_DIR"));
}

#[test]
fn bandits_json_is_written_beside_read_or_asked_for_again() {
    let step = |args: &[&str]| {
        let lock = lock(|lock| lock["tools"]["bandit"]["args"] = serde_json::json!(args));
        let (plan, _) = plan(&lock, &facts(), &request(Command::Run));
        let step = plan.steps.into_iter().find(|step| step.id == "bandit").unwrap();
        (step.argv, step.reader)
    };
    let ours = Reader::Bandit("/ft/out/bandit.json".into());
    let (argv, reader) = step(&["-r", "src", "-ll"]);
    assert_eq!(argv, ["bandit", "-r", "src", "-ll", "-f", "json", "-o", "/ft/out/bandit.json"]);
    assert_eq!(reader, ours);
    let (argv, reader) = step(&["-r", "src", "--format=json", "-o", "artifacts/b.json"]);
    assert_eq!((argv[0].as_str(), reader), ("bandit", Reader::Bandit("artifacts/b.json".into())));
    let (argv, reader) = step(&["-r", "src", "-f", "txt"]);
    assert_eq!((&argv[..2], reader), (&["python".to_owned(), "/ft/lib/ft_bandit.py".to_owned()][..], ours));
}

#[test]
fn a_self_check_collects_without_measuring_or_distributing() {
    let (plan, _) = plan(&lock(|_| {}), &facts(), &request(Command::Check { collect: true }));
    let argv: Vec<&Vec<String>> = plan.steps.iter().map(|step| &step.argv).collect();
    assert_eq!(
        argv,
        [&["pytest", "-p", "ft_pytest", "-q", "--cov=pkg", "--collect-only", "--no-cov", "-n0"]
            .map(String::from)
            .to_vec()]
    );
    assert!(plan.judge.required_artifacts.is_empty());
}

#[test]
fn ft_no_network_forbids_whatever_the_lock_allows() {
    let lock = lock(|lock| lock["network_policy"]["forbid_network"] = false.into());
    let request = Request { no_network: true, ..request(Command::Run) };
    let (plan, findings) = plan(&lock, &facts(), &request);
    assert!(findings.is_empty());
    assert!(plan.steps.iter().all(|step| step.network == Network::Loopback));
}

#[test]
fn the_affinity_of_the_lock_bounds_how_many_steps_run_at_once() {
    let lock = lock(|lock| lock["resource_limits"] = serde_json::json!({"cpu_count": 2}));
    assert_eq!(plan(&lock, &facts(), &request(Command::Run)).0.parallel, 2);
    let one = Request { jobs: Some(1), ..request(Command::Run) };
    assert_eq!(plan(&lock, &facts(), &one).0.parallel, 1);
}

#[test]
fn a_limit_of_disk_that_is_required_is_refused_where_no_engine_holds_it() {
    let lock = lock(|lock| {
        lock["container"] = serde_json::json!({ "image": format!("sha256:{}", "0".repeat(64)) });
        lock["resource_limits"] = serde_json::json!({ "disk_mb": 10, "mem_mb": 100, "required": true });
    });
    let found = |container: bool| {
        let mut facts = facts();
        let held =
            ContainerFacts { limits_missing: vec![("disk".to_owned(), "why".to_owned())], ..ContainerFacts::default() };
        facts.machine.container = container.then_some(held);
        let (_, findings) = plan(&lock, &facts, &Request { container, ..request(Command::Run) });
        assert!(findings.iter().all(|finding| finding.message.ends_with("its limit of disk (why)")), "{findings:?}");
        findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(found(true), [ParityCode::POLICY_UNENFORCEABLE]);
    assert_eq!(found(false), []);
}
