//! What comes back from a cell, and what does not.

use super::harness::Fixture;

#[test]
fn new_and_changed_files_come_back_and_the_rest_stays() {
    let fixture = Fixture::sh(
        "mkdir -p artifacts/deep; echo new > artifacts/deep/new; echo changed > artifacts/changed
         echo out > /ft/out/result; mkdir /ft/out/dir; echo cov > .coverage; echo no > unasked; mkdir -p build/x; echo w > build/x/a.whl",
    )
    .with(|_, m| m.collect = vec![".coverage".into(), "build/**/*.whl".into()]);
    std::fs::create_dir(fixture.tree().join("artifacts")).unwrap();
    for name in ["artifacts/old", "artifacts/changed"] {
        std::fs::write(fixture.tree().join(name), "before").unwrap();
    }
    super::harness::give_to_step(&fixture.tree());
    let ran = fixture.run();
    ran.passed();
    let mut found = ran.artifacts();
    found.sort();
    let found: Vec<(&str, &str)> = found.iter().map(|(n, b)| (n.as_str(), std::str::from_utf8(b).unwrap())).collect();
    assert_eq!(
        found,
        [
            ("out/dir/", ""),
            ("out/result", "out\n"),
            ("work/.coverage", "cov\n"),
            ("work/artifacts/changed", "changed\n"),
            ("work/artifacts/deep/new", "new\n"),
            ("work/build/x/a.whl", "w\n"),
        ]
    );
    assert!(ran.finished().refused.is_empty());
}

#[test]
fn what_is_no_plain_file_is_refused_by_name_and_the_rest_comes_back() {
    let ran = Fixture::python(
        "import os, socket
os.mkdir('artifacts'); os.chdir('artifacts')
open('good', 'w').write('good')
os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'dirlink'); os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
open('hard', 'w').write('x'); os.link('hard', 'hard2')
open('setuid', 'w').write('x'); os.chmod('setuid', 0o4755)
os.truncate(os.open('sparse', os.O_CREAT | os.O_WRONLY), 1 << 40)
open(b'bad\\xff', 'w').write('x')
open('unreadable', 'w').write('x'); os.chmod('unreadable', 0)
os.mkdir('closed'); open('closed/x', 'w'); os.chmod('closed', 0)
open('line\\nbreak', 'w').write('x')
open('zzz', 'w').write('last')",
    )
    .run();
    ran.passed();
    let names: Vec<String> = ran.artifacts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["work/artifacts/good", "work/artifacts/zzz"]);
    for (path, why) in [
        ("link", "symbolic link"),
        ("dirlink", "symbolic link"),
        ("fifo", "named pipe"),
        ("socket", "socket"),
        ("hard", "hard link"),
        ("hard2", "hard link"),
        ("setuid", "setuid"),
        ("sparse", "budget of bytes"),
        ("bad\u{fffd}", "UTF-8"),
        ("line\\nbreak", "control characters"),
        ("unreadable", "Permission denied"),
        ("closed", "Permission denied"),
    ] {
        let refused = ran.refused(&format!("work/artifacts/{path}"));
        assert!(refused.is_some_and(|r| r.contains(why)), "{path}: {refused:?}");
    }
}

#[test]
fn a_place_that_was_replaced_by_a_link_brings_nothing_from_behind_it() {
    let ran =
        Fixture::sh("ln -s /etc artifacts; rm -rf /ft/out/* ; ln -s / /ft/out/root; mkdir -p a/b; ln -s /etc a/b/etc")
            .with(|_, m| m.collect = vec!["a/b/etc/*".into(), "../*".into(), "/etc/*".into(), "**/passwd".into()])
            .run();
    ran.passed();
    assert_eq!(ran.artifacts(), []);
}

#[test]
fn budgets_of_entries_and_bytes_end_the_tar_and_not_the_run() {
    let fixture = Fixture::sh("for i in 1 2 3 4 5; do head -c 1000 /dev/zero > /ft/out/$i; done");
    let ran = fixture.with(|_, m| m.artifact_entries = 3).run();
    assert_eq!(ran.artifacts().len(), 3);
    assert!(ran.refused("out/4").unwrap().contains("entries") && ran.refused("out/5").is_some());
    let ran = Fixture::sh("for i in 1 2 3; do head -c 1000 /dev/zero > /ft/out/$i; done; echo small > /ft/out/4")
        .with(|_, m| m.artifact_bytes = 2500)
        .run();
    let names: Vec<String> = ran.artifacts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["out/1", "out/2", "out/4"]);
    assert!(ran.refused("out/3").unwrap().contains("bytes"));
}

#[test]
fn a_step_that_leaves_very_many_files_does_not_make_the_report_endless() {
    let ran =
        Fixture::python("import os\nos.chdir('/ft/out')\nfor i in range(20000): os.symlink('x', f'{i:05}')").run();
    ran.passed();
    let refused = &ran.finished().refused;
    assert!(refused.len() <= 1001, "{}", refused.len());
    assert!(refused.last().unwrap().1.contains("19000 more"), "{:?}", refused.last());
}

#[test]
fn artifacts_come_back_after_a_failure_and_after_a_timeout() {
    for script in ["echo x > /ft/out/x; exit 3", "echo x > /ft/out/x; sleep 60"] {
        let ran = Fixture::sh(script).with(|_, m| (m.timeout_ms, m.grace_ms) = (400, 100)).run();
        assert_eq!(ran.artifacts(), [("out/x".to_owned(), b"x\n".to_vec())], "{:?}", ran.ended());
    }
}

#[test]
fn large_artifacts_come_back_whole() {
    let fixture = Fixture::sh("head -c 30000000 /dev/urandom > /ft/out/large; sha256sum < /ft/out/large")
        .with(|_, m| m.artifact_bytes = 64 << 20);
    let ran = fixture.run();
    let artifacts = ran.artifacts();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&artifacts[0].1);
    assert_eq!(ran.passed().split(' ').next().unwrap(), hex::encode(digest));
}
