//! What a lock text means, and what a bad one is answered: the whole way from bytes to [`Lock`].

use super::*;
use crate::code::ParityCode;
use proptest::prelude::*;

/// The lock of the original tool, as its users have it; only the hashes that were left out are filled in.
const VERSION_1: &str = r#"{"python":"3.11","matrix":{"python":["3.10","3.11"]},"env":{"CI":"true","TZ":"UTC"},"tools":{"ruff":{"version":"0.14.4","args":["check","."],"fresh":true,"timeout_sec":180},"pytest":{"version":"8.4.2","args":["-q","--cov=src/pkg","--cov-report=xml:artifacts/coverage.xml"],"timeout_sec":900}},"plugins":["pytest_cov","pytest_timeout","pytest_xdist"],"thresholds":{"coverage_min":0.75,"bandit_severity_max":"LOW","max_warnings":0,"allow_flaky":false},"pytest_collection":{"expected_count":1077,"name_hash_sha256":"6a153d8d6547bf0354ca40f5090a443599d852f6a7e3ae34b087fa7cc1c99972","allow_uncollected":false},"config_hashes":{"pyproject.toml":"9A421C2A52E04D9373820F6742EFC8434D33B70D0F8B24220169F2D87709C9FB"},"scope":{"full_repo":true,"exclude":[".venv*"]},"network_policy":{"forbid_network":true,"allowed_hosts":["127.0.0.1","localhost"]},"resource_limits":{"cpu_count":2,"mem_mb":4096},"required_artifacts":["artifacts/parity_report.json","artifacts/coverage.xml"],"container":{"image":"python:3.11-slim","force_container":false},"explain":true,"changed_only_policy":{"forbid_in_parity":true,"message":"whole repository"},"cache_policy":{"clear_before_run":true,"caches":[".pytest_cache"]},"project_files":{"pyproject.toml":{"sha256_prefix":"9a421c2a52e04d93"}},"$schema":"https://example.com/x.json","_comment":"single source of truth"}"#;

fn parse(text: &str) -> Result<Lock, LockError> {
    Lock::parse(text.as_bytes()).map(|(lock, _)| lock)
}

fn warnings(text: &str) -> Vec<String> {
    Lock::parse(text.as_bytes()).unwrap().1.iter().map(ToString::to_string).collect()
}

/// A version 2 lock with these members beside the least that one needs.
fn v2(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    let tools = if members.contains("\"tools\"") { "" } else { ",\"tools\":{}" };
    let python =
        if members.contains("\"python\":\"") || members.contains("\"python\":3") { "" } else { ",\"python\":\"3.11\"" };
    format!("{{\"version\":2{python}{tools}{comma}\n{members}}}")
}

/// The refusal of such a lock, without the name of the file.
fn refusal(members: &str) -> String {
    let error = parse(&v2(members)).unwrap_err();
    assert!(!error.hint.is_empty());
    error.to_string().strip_prefix("ci/parity.lock.json:").unwrap().to_owned()
}

#[test]
fn a_version_1_lock_means_what_it_says() {
    let (lock, warnings) = Lock::parse(VERSION_1.as_bytes()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(lock.version, 1);
    assert_eq!(lock.python, "3.11");
    assert_eq!(lock.matrix, ["3.11", "3.10"]);
    assert_eq!(lock.env["TZ"], "UTC");
    assert_eq!(lock.tools.keys().collect::<Vec<_>>(), ["ruff", "pytest"]);
    let pytest = &lock.tools["pytest"];
    assert_eq!(pytest.version.as_deref(), Some("8.4.2"));
    assert_eq!(pytest.package.as_deref(), Some("pytest"));
    assert_eq!((pytest.command.as_str(), pytest.gate), ("pytest", Gate::Tests));
    assert_eq!((pytest.timeout_sec, pytest.grace_sec), (900, 5));
    assert_eq!(lock.thresholds.coverage_min, Some(0.75));
    assert_eq!(lock.thresholds.bandit_severity_max, Some(Severity::Low));
    assert_eq!(lock.thresholds.max_warnings, Some(0));
    assert_eq!(lock.collection.expected_count, Some(1077));
    assert!(lock.collection.name_hash_sha256.as_deref().unwrap().starts_with("6a153d8d"));
    assert!(lock.config_hashes["pyproject.toml"].starts_with("9a421c2a"));
    assert_eq!(lock.project_files["pyproject.toml"], "9a421c2a52e04d93");
    assert_eq!(lock.network, Network::Loopback);
    assert_eq!(lock.limits.mem_mb, Some(4096));
    assert_eq!(lock.container.image.as_deref(), Some("python:3.11-slim"));
    assert!(lock.explain && lock.changed_only_forbidden && !lock.build && lock.environment.is_none());
}

#[test]
fn an_elided_hash_in_a_version_1_lock_is_read_and_matches_nothing() {
    let text = VERSION_1.replace("6a153d8d6547bf0354ca40f5090a443599d852f6a7e3ae34b087fa7cc1c99972", "…");
    assert_eq!(parse(&text).unwrap().collection.name_hash_sha256.as_deref(), Some("…"));
    assert!(warnings(&text)[0].ends_with("not a sha256 of 64 hexadecimal digits; it matches nothing"));
}

#[test]
fn entries_that_say_nothing_are_said() {
    let said = |policy: &str| warnings(&v2(&format!("\"network_policy\":{policy}")));
    assert_eq!(said(r#"{"allowed_hosts":["*.a.org","localhost"],"deny_quietly":["x.a.org"]}"#), [] as [&str; 0]);
    let lines = [
        said(r#"{"allowed_hosts":["x.a.org:443"],"deny_quietly":["*.a.org"]}"#),
        said(r#"{"forbid_network":false,"allowed_hosts":["a.org"],"deny_quietly":["localhost:80"]}"#),
        warnings(&v2(
            r#""tools":{"ruff":{"network":{"allowed_hosts":["a.org"]}}},"network_policy":{"deny_quietly":["a.org"]}"#,
        )),
    ];
    insta::assert_snapshot!(lines.concat().join("\n"));
}

#[test]
fn the_network_of_a_version_1_lock_is_closed_narrow_or_open() {
    let network = |policy: &str| {
        parse(&VERSION_1.replace(r#"{"forbid_network":true,"allowed_hosts":["127.0.0.1","localhost"]}"#, policy))
            .unwrap()
            .network
    };
    assert_eq!(network(r#"{"forbid_network":true}"#), Network::Loopback);
    assert_eq!(network(r#"{"forbid_network":true,"allowed_hosts":["localhost:8000","[::1]"]}"#), Network::Loopback);
    assert_eq!(
        network(r#"{"forbid_network":true,"allowed_hosts":["localhost","Example.com.:443","example.com:443"]}"#),
        Network::Allow(vec!["example.com:443".into()])
    );
    assert_eq!(network(r#"{"forbid_network":false,"allowed_hosts":["127.0.0.1"]}"#), Network::Open);
    assert_eq!(network("{}"), Network::Loopback);
}

#[test]
fn coverage_below_one_half_is_refused_with_its_own_code() {
    for least in ["0.49999999999", "0", "-1", "0.15"] {
        let error = parse(&VERSION_1.replace("0.75", least)).unwrap_err();
        assert_eq!((error.code, error.path_in_file.as_str()), (ParityCode::THRESHOLD_FLOOR, "thresholds.coverage_min"));
    }
    let absent = VERSION_1.replace(r#""coverage_min":0.75,"#, "");
    assert_eq!(parse(&absent).unwrap_err().code, ParityCode::THRESHOLD_FLOOR);
    assert_eq!(parse(&v2("")).unwrap().thresholds.coverage_min, None);
    assert_eq!(parse(&v2(r#""thresholds":{"coverage_min":0.5}"#)).unwrap().thresholds.coverage_min, Some(0.5));
    assert_eq!(
        refusal(r#""thresholds":{"coverage_min":0.4}"#),
        "2:30: thresholds.coverage_min: expected at least 0.5, found 0.4"
    );
    let error = parse(&v2(r#""thresholds":{"coverage_min":80}"#)).unwrap_err();
    assert_eq!(
        (error.code, error.hint.as_str()),
        (ParityCode::LOCK_INVALID, "75 % is written 0.75; this would be 0.8")
    );
}

#[test]
fn a_version_1_lock_is_read_in_spite_of_what_it_does_not_know() {
    let text = VERSION_1.replace(r#""explain":true"#, r#""explain":null,"colour":"red","build":true"#);
    let text = text.replace(r#""ruff":{"version":"0.14.4""#, r#""frob":{"version":"1.0"},"ruff":{"version":"0.14.4""#);
    let lock = parse(&text).unwrap();
    assert!(!lock.build && !lock.explain);
    assert_eq!(lock.tools["frob"].gate, Gate::Lint);
    let said: Vec<_> = warnings(&text).iter().map(|said| said.splitn(4, ':').last().unwrap().to_owned()).collect();
    assert_eq!(
        said,
        [
            " explain: null is read as if the field were absent",
            " colour: unknown field; it is ignored",
            " build: a field of version 2, which this lock is not; it is ignored (add `\"version\": 2`)",
            " tools.frob: what this step checks is not known; it counts as lint",
        ]
    );
}

#[test]
fn a_wrong_shape_says_line_column_path_expectation_and_what_is_there() {
    let error =
        parse("{\n  \"python\": \"3.11\",\n  \"tools\": {\n    \"pytest\": { \"timeout_sec\": \"900\" }\n  }\n}")
            .unwrap_err();
    assert_eq!(
        error.to_string(),
        "ci/parity.lock.json:4:32: tools.pytest.timeout_sec: expected a number of seconds, found the string \"900\""
    );
    for (members, answer) in [
        (r#""tools":[]"#, "2:9: tools: expected an object, found a list"),
        (r#""tools":{"ruff":["0.14.4"]}"#, "2:17: tools.ruff: expected an object, found a list"),
        (r#""thresholds":[0.75]"#, "2:14: thresholds: expected an object, found a list"),
        (r#""python":3.11"#, "2:10: python: expected a string, found the number 3.11"),
        (r#""env":{"A":1}"#, "2:12: env.A: expected a string, found the number 1"),
        (r#""explain":"yes""#, "2:11: explain: expected true or false, found the string \"yes\""),
        (r#""plugins":"x""#, "2:11: plugins: expected a list, found the string \"x\""),
        (r#""plugins":["x",2]"#, "2:16: plugins[1]: expected a string, found the number 2"),
        (r#""explain":null"#, "2:11: explain: expected a value, found null"),
        (
            r#""resource_limits":{"cpu_count":1.5}"#,
            "2:32: resource_limits.cpu_count: expected a whole number, found the number 1.5",
        ),
        (
            r#""cell":{"minimum":"moon"}"#,
            "2:19: cell.minimum: expected one of `here`, `namespaces`, `container`, found the string \"moon\"",
        ),
        (r#""python_match":"major""#, "2:16: python_match: expected `exact` or `minor`, found the string \"major\""),
        (
            r#""project_files":{"a":5}"#,
            "2:22: project_files.a: expected a sha256 prefix in hex, or an object with `sha256_prefix`, found the number 5",
        ),
        (
            r#""tools":{"x":{"gate":"coverage"}}"#,
            "2:22: tools.x.gate: expected `lint`, `types`, `tests`, `security`, `build` or `prepare`, found the string \"coverage\"",
        ),
    ] {
        assert_eq!(refusal(members), answer, "{members}");
    }
}

#[test]
fn a_value_out_of_range_is_refused_at_its_place() {
    for (members, answer) in [
        (
            r#""python":"3""#,
            r#"2:10: python: expected a Python version such as "3.11" or "3.11.7", found the string "3""#,
        ),
        (
            r#""python":"03.11""#,
            r#"2:10: python: expected a Python version such as "3.11" or "3.11.7", found the string "03.11""#,
        ),
        (
            r#""matrix":{"python":["3.1x"]}"#,
            r#"2:21: matrix.python[0]: expected a Python version such as "3.11" or "3.11.7", found the string "3.1x""#,
        ),
        (
            r#""tools":{"ruff":{"timeout_sec":0}}"#,
            "2:32: tools.ruff.timeout_sec: expected a number of seconds from 1 to 604800, found the number 0",
        ),
        (
            r#""tools":{"ruff":{"timeout_sec":-5}}"#,
            "2:32: tools.ruff.timeout_sec: expected a number of seconds, found the number -5",
        ),
        (
            r#""tools":{"ruff":{"timeout_sec":99999999999999999999}}"#,
            "2:32: tools.ruff.timeout_sec: expected a number of seconds, found the number 99999999999999999999",
        ),
        (
            r#""tools":{"ruff":{"timeout_sec":604801}}"#,
            "2:32: tools.ruff.timeout_sec: expected a number of seconds from 1 to 604800, found the number 604801",
        ),
        (
            r#""tools":{"ruff":{"version":"latest"}}"#,
            r#"2:28: tools.ruff.version: expected a version such as "8.4.2", found the string "latest""#,
        ),
        (
            r#""tools":{"ruff":{"cwd":"/"}}"#,
            r#"2:24: tools.ruff.cwd: expected a path relative to the repository, found the string "/""#,
        ),
        (
            r#""tools":{"ruff":{"command":"bin/ruff"}}"#,
            r#"2:28: tools.ruff.command: expected the name of an executable, without `/`, found the string "bin/ruff""#,
        ),
        (
            r#""tools":{"a/b":{}}"#,
            r#"2:10: tools["a/b"]: a step's name has up to 64 letters, digits, `.`, `_` and `-`, a letter or digit first"#,
        ),
        (r#""tools":{"coverage":{}}"#, "2:10: tools.coverage: `coverage` is the name of a gate of `ft` itself"),
        (r#""tools":{"frob":{}}"#, "2:17: tools.frob: missing field `gate`: what this step checks"),
        (r#""env":{"A=B":""}"#, r#"2:8: env["A=B"]: a variable's name is not empty and has no `=` and no NUL"#),
        (r#""env":{"A":"a\u0000b"}"#, "2:12: env.A: a variable's value has no NUL"),
        (
            r#""config_hashes":{"../x":"pending"}"#,
            r#"2:18: config_hashes["../x"]: expected a path inside the repository, without `..`, found "../x""#,
        ),
        (r#""config_hashes":{"a#":"pending"}"#, r#"2:18: config_hashes["a#"]: expected the name of a table after `#`"#),
        (
            r#""config_hashes":{"a":"pending","./a":"pending"}"#,
            r#"2:32: config_hashes["./a"]: this file is named twice"#,
        ),
        (
            r#""config_hashes":{"ci/parity.lock.json":"pending"}"#,
            r#"2:18: config_hashes["ci/parity.lock.json"]: the lock can't hold its own hash"#,
        ),
        (
            r#""config_hashes":{"a":"12"}"#,
            r#"2:22: config_hashes.a: expected a sha256 of 64 hexadecimal digits, or "pending", found the string "12""#,
        ),
        (
            r#""collect":["/etc/*"]"#,
            r#"2:12: collect[0]: expected a glob relative to the repository, found the string "/etc/*""#,
        ),
        (
            r#""collect":["a/../b"]"#,
            r#"2:12: collect[0]: expected a glob inside the repository, without `..`, found the string "a/../b""#,
        ),
        (
            r#""scope":{"exclude":["x["]}"#,
            r#"2:21: scope.exclude[0]: expected a glob (unclosed character class; missing ']'), found the string "x[""#,
        ),
        (
            r#""required_artifacts":["C:\\x"]"#,
            r#"2:23: required_artifacts[0]: expected a path relative to the repository, found the string "C:\\x""#,
        ),
        (
            r#""pytest_collection":{"manifest":"."}"#,
            r#"2:33: pytest_collection.manifest: expected the path of a file, found the string ".""#,
        ),
        (r#""resource_limits":{"pids":0}"#, "2:27: resource_limits.pids: expected at least 1, found the number 0"),
        (
            r#""network_policy":{"allowed_hosts":["a.*.example.com"]}"#,
            r#"2:36: network_policy.allowed_hosts[0]: "a.*.example.com" is not a host: a wildcard stands alone before a domain: `*.example.org` is every name below it"#,
        ),
        (
            r#""network_policy":{"deny_quietly":["https://x"]}"#,
            r#"2:35: network_policy.deny_quietly[0]: "https://x" is not a host: it has a scheme; write the host alone"#,
        ),
        (
            r#""environment":{}"#,
            r#"2:15: environment: missing field `from`: "uv.lock", or "ci/parity.requirements.txt""#,
        ),
        (
            r#""environment":{"from":"../uv.lock"}"#,
            r#"2:23: environment.from: expected a path inside the repository, without `..`, found the string "../uv.lock""#,
        ),
        (
            r#""runner":{"version":"new"}"#,
            r#"2:21: runner.version: expected a version range such as ">=0.1,<0.2", found the string "new""#,
        ),
        (
            r#""import_names":["a-b"]"#,
            r#"2:17: import_names[0]: expected the name of a module, found the string "a-b""#,
        ),
        (
            r#""container":{"image":"x@sha256:12"}"#,
            r#"2:22: container.image: expected a digest: `sha256:` and 64 hexadecimal digits, found the string "x@sha256:12""#,
        ),
        (
            r#""container":{"image":"x:-"}"#,
            "2:22: container.image: expected the name of an image, `name@sha256:...` (a tag is at most 128 letters, digits, `_`, `.` and `-`, and begins with a letter, a digit or `_`), found the string \"x:-\"",
        ),
        (
            r#""container":{"platform":"windows/amd64"}"#,
            "2:25: container.platform: expected a platform such as \"linux/amd64\", found the string \"windows/amd64\"",
        ),
        (
            r#""container":{"images":{"3.11":{"image":"x"}}}"#,
            "2:24: container.images[\"3.11\"]: the image of `python` is `container.image`",
        ),
        (
            r#""container":{"images":{"3.12":{"image":"x"}}}"#,
            "2:24: container.images[\"3.12\"]: \"3.12\" is not in `matrix.python`",
        ),
        (
            r#""matrix":{"python":["3.13"]},"container":{"images":{"3.13":{}}}"#,
            "2:60: container.images[\"3.13\"]: missing field `image`: \"name@sha256:...\", or \"sha256:...\"",
        ),
        (
            r#""matrix":{"python":["3.13"]},"container":{"images":{"3.13":{"image":"x","diff_ids":["y"]}}}"#,
            "2:85: container.images[\"3.13\"].diff_ids[0]: expected a digest: `sha256:` and 64 hexadecimal digits, found the string \"y\"",
        ),
        (
            r#""container":{"force_container":true}"#,
            "2:13: container: `force_container` without `image`: there is nothing to run in",
        ),
        (
            r#""python_locked":{"3.11":"3.12.1"}"#,
            r#"2:25: python_locked["3.11"]: expected a full version of Python 3.11, such as "3.11.7", found the string "3.12.1""#,
        ),
    ] {
        assert_eq!(refusal(members), answer, "{members}");
    }
}

#[test]
fn needs_name_steps_and_have_an_order() {
    let tools = |needs: [&str; 3]| {
        let step =
            |at: usize| format!(r#""{}":{{"gate":"prepare","needs":[{}]}}"#, ["gen", "lint", "unit"][at], needs[at]);
        format!(r#""tools":{{{},{},{}}}"#, step(0), step(1), step(2))
    };
    assert!(parse(&v2(&tools(["", r#""gen""#, r#""gen","lint""#]))).is_ok());
    assert_eq!(
        refusal(&tools([r#""unti""#, "", ""])),
        r#"2:43: tools.gen.needs[0]: no step is called "unti", did you mean unit"#
    );
    assert!(
        refusal(&tools([r#""gen""#, "", ""])).ends_with("tools.gen.needs: the steps wait for each other: gen -> gen")
    );
    assert!(
        refusal(&tools(["", r#""unit","gen""#, r#""lint""#]))
            .ends_with("tools.lint.needs: the steps wait for each other: lint -> unit -> lint")
    );
    assert!(refusal(&tools([r#""build""#, "", ""])).contains("no step is called \"build\""));
    assert!(parse(&v2(&format!("\"build\":true,{}", tools([r#""build""#, "", ""])))).is_ok());
}

#[test]
fn a_step_is_a_package_unless_it_is_a_command_alone() {
    let lock = parse(&v2(
        r#""tools":{"ruff":{},"unit":{"package":"pytest"},"make":{"command":"make","gate":"lint"},"docs":{"command":"sphinx-build","version":"8.1.0","gate":"build","cwd":"./docs/"}}"#,
    ))
    .unwrap();
    let of =
        |name: &str| (lock.tools[name].package.as_deref(), lock.tools[name].command.as_str(), lock.tools[name].gate);
    assert_eq!(of("ruff"), (Some("ruff"), "ruff", Gate::Lint));
    assert_eq!(of("unit"), (Some("pytest"), "pytest", Gate::Tests));
    assert_eq!(of("make"), (None, "make", Gate::Lint));
    assert_eq!(of("docs"), (Some("docs"), "sphinx-build", Gate::Build));
    assert_eq!(lock.tools["docs"].cwd, "docs");
}

#[test]
fn an_unknown_field_of_version_2_is_refused_at_its_key() {
    assert_eq!(
        refusal(r#""tools":{"pytest":{"timeout_secs":9}}"#),
        "2:20: tools.pytest.timeout_secs: unknown field, did you mean timeout_sec"
    );
    assert_eq!(refusal(r#""xyzzy":1"#), "2:1: xyzzy: unknown field");
    assert!(parse(&v2(r#""_comment":1,"$schema":"x","tools":{"_comment":"y","ruff":{"_comment":null}}"#)).is_ok());
}

#[test]
fn text_that_is_no_lock_is_refused_with_its_place() {
    let of = |text: &[u8]| Lock::parse(text).unwrap_err().to_string().replace("ci/parity.lock.json", "");
    assert_eq!(of(b""), ": the file is empty");
    assert_eq!(of(b" \n"), ": the file is empty");
    assert_eq!(of(b"[]"), ":1:1: expected an object, found a list");
    assert_eq!(of(b"nonsense"), ":1:2: not JSON: expected ident");
    assert_eq!(of(b"{\n  \"a\": 1,\n}"), ":3:1: not JSON: trailing comma");
    assert_eq!(of(b"{\n  \"a\": NaN}"), ":2:8: NaN is not JSON");
    assert_eq!(of(b"{\"a\": -Infinity}"), ":1:8: Infinity is not JSON");
    assert_eq!(of(b"{\"a\": 1e999}"), ":1:11: not JSON: number out of range");
    assert_eq!(of(b"{\"a\": 1} x"), ":1:10: not JSON: trailing characters");
    assert_eq!(of(b"{\"a\": \"\xff\"}"), ":1:8: expected UTF-8, found the byte 0xff");
    assert_eq!(of(b"\xef\xbb\xbf{}"), ":1:1: expected JSON in UTF-8 without a byte order mark");
    assert_eq!(of("{\"é\": 1, \"a\": 1,\n \"a\": 2}".as_bytes()), ":2:2: a: this key comes twice in one object");
    assert_eq!(
        of(b"{\"version\":2,\"tools\":{\"x\":{\"env\":{\"A\":\"\",\"A\":\"\"}}}}"),
        ":1:42: tools.x.env.A: this key comes twice in one object"
    );
    assert_eq!(
        of(b"{\"version\":3}"),
        ":1:12: version: expected 1 or 2, found 3, a format that this `ft` does not know"
    );
    assert_eq!(of(b"{\"version\":\"2\"}"), ":1:12: version: expected 1 or 2, found the string \"2\"");
    assert_eq!(of(b"{}"), ":1:1: missing field `python`: the Python of the checks, such as \"3.11\"");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(of(deep.as_bytes()), ":1:128: not JSON: recursion limit exceeded");
    assert_eq!(of(&vec![b' '; MAX_BYTES + 1]), ": larger than 1048576 bytes, which no lock is");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Lock::parse(&text);
    }

    #[test]
    fn a_lock_with_any_byte_changed_is_read_or_refused_with_a_place(at in 0..VERSION_1.len(), byte in any::<u8>()) {
        let mut text = VERSION_1.as_bytes().to_vec();
        text[at] = byte;
        if let Err(error) = Lock::parse(&text) {
            prop_assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
        }
    }

    #[test]
    fn a_lock_with_any_part_cut_out_does_not_panic(from in 0..VERSION_1.len(), len in 0..40usize) {
        let mut text = VERSION_1.as_bytes().to_vec();
        text.drain(from..(from + len).min(VERSION_1.len()));
        let _ = Lock::parse(&text);
    }
}

#[test]
fn an_image_is_pinned_by_manifest_or_by_configuration_and_each_python_has_its_own() {
    let (one, other) = (format!("sha256:{}", "1".repeat(64)), format!("sha256:{}", "2".repeat(64)));
    let text = |config: &str| {
        v2(&format!(
            r#""matrix":{{"python":["3.13"]}},"container":{{"image":"{one}","config_digest":"{config}","images":{{"3.13":{{"image":"localhost:5000/py@{}","platform":"linux/arm64"}}}}}}"#,
            other.to_uppercase().replace("SHA", "sha")
        ))
    };
    let lock = parse(&text(&one)).unwrap();
    assert_eq!(lock.image("3.11").unwrap().image, one);
    let matrix = lock.image("3.13").unwrap();
    assert_eq!((matrix.image, matrix.platform.as_deref()), (format!("localhost:5000/py@{other}"), Some("linux/arm64")));
    assert_eq!(lock.image("3.12"), None);
    let error = parse(&text(&other)).unwrap_err().to_string();
    assert!(error.contains("`image` is the digest of a configuration, and this is another one"), "{error}");
}

#[test]
fn a_version_1_lock_keeps_whatever_it_calls_its_image() {
    let v1 = |image: &str| {
        format!(
            r#"{{"python":"3.11","tools":{{}},"thresholds":{{"coverage_min":0.5}},"container":{{"image":"{image}"}}}}"#
        )
    };
    assert_eq!(parse(&v1("Python:latest")).unwrap().container.image.as_deref(), Some("Python:latest"));
    assert_eq!(parse(&v1("")).unwrap().container.image.as_deref(), Some(""));
}
