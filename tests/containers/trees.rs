//! What a step sees of the tree, and of what the steps before it did to it: the same as in venv mode, however large, deep
//! or oddly named it is.

use crate::harness::Project;
use crate::shared::{leaves_nothing, project};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Says everything that there is in the tree, but for what git and the steps' own output are: names, kinds, modes and
/// contents. Descends by directory, so that no path is too long.
const DIGEST: &str = "import hashlib, os, stat
whole, count, longest = hashlib.sha256(), 0, 0
def walk(at, path):
    global count, longest
    for name in sorted(os.fsencode(name) for name in os.listdir(at)):
        if not path and name in (b'.git', b'artifacts'):
            continue
        meta = os.stat(name, dir_fd=at, follow_symlinks=False)
        said = b''
        if stat.S_ISDIR(meta.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
            walk(below, path + name + b'/')
            os.close(below)
        elif stat.S_ISLNK(meta.st_mode):
            said = os.readlink(name, dir_fd=at)
        else:
            with open(os.open(name, os.O_RDONLY, dir_fd=at), 'rb') as file:
                said = hashlib.file_digest(file, 'sha256').digest()
        kind = b'%o %d ' % (meta.st_mode, int(meta.st_mtime))
        whole.update(path + name + b'\\0' + kind + said + b'\\0')
        count, longest = count + 1, max(longest, len(path + name))
walk(os.open('.', os.O_RDONLY), b'')
print(whole.hexdigest(), count, longest)
";

/// The same repository, and what its steps' logs say, in venv mode and in a container.
fn in_both(project: &Project, steps: &[&str]) -> Vec<String> {
    let mut seen = Vec::new();
    for arguments in [&["run"][..], &["run", "--container"]] {
        project.ft(arguments).leaves(0);
        let kind = project.report();
        assert_eq!(kind.0["environment"]["container"].is_null(), arguments.len() == 1);
        seen.push(steps.iter().map(|step| project.read(&format!("artifacts/logs/{step}.log"))).collect::<Vec<_>>());
    }
    leaves_nothing(project);
    let container = seen.pop().unwrap();
    assert_eq!(container, seen.pop().unwrap());
    container
}

fn step(code: &str, needs: &[&str]) -> serde_json::Value {
    json!({"command": "python", "args": ["-c", code], "gate": "lint", "needs": needs, "timeout_sec": 300})
}

#[test]
fn a_large_tree_is_the_same_tree_in_a_container() {
    let project = project(&[]);
    project.lock(|lock| {
        lock["tools"] = json!({"digest": step(DIGEST, &[])});
        lock["plugins"] = json!([]);
    });
    for folder in 0..100 {
        let folder = project.path(&format!("many/{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..100 {
            fs::write(folder.join(format!("{file}.txt")), format!("{file}\n")).unwrap();
        }
    }
    let mut large = b"0123456789abcdef".repeat(200 << 16);
    for (at, piece) in large.chunks_mut(1 << 20).enumerate() {
        piece[at] = b'x';
    }
    project.write("large.bin", large);
    // Its last part is a file: 3,000 characters from the root.
    let deep = vec!["d".repeat(99); 29].join("/");
    project.write(&format!("{deep}/{}", "f".repeat(100)), "deep");
    for name in
        ["ünï ©ode/日本語.txt", "e\u{301} combined", "🦀", "a\nb\tc", " leading", "-dash", "back\\slash", "quo'te\""]
    {
        project.write(&format!("names/{name}"), name);
    }
    fs::write(
        Path::new(&project.path("names"))
            .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"latin\xe9")),
        "x",
    )
    .unwrap();
    project.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(project.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    for (target, link) in
        [("run.sh", "to-file"), ("many/7", "to-folder"), ("nowhere", "to-nothing"), ("../../../etc/passwd", "out")]
    {
        symlink(target, project.path(link)).unwrap();
    }
    project.commit();
    let said = in_both(&project, &["digest"]);
    let words: Vec<&str> = said[0].split_whitespace().collect();
    assert!(words[1].parse::<usize>().unwrap() > 10_100, "{said:?}");
    assert_eq!(words[2], "3000", "{said:?}");
}

#[test]
fn a_step_sees_what_those_before_it_changed() {
    let project = project(&[]);
    let first = "import os, shutil
os.mkdir('made'); open('made/one', 'w').write('one'); os.symlink('one', 'made/link')
os.remove('gone.txt'); shutil.rmtree('folder'); open('folder', 'w').write('a file now')
os.remove('file'); os.mkdir('file'); open('file/inside', 'w').write('a folder now')
os.chmod('mode.sh', 0o755); shutil.move('old', 'new'); open('longer', 'a').write(' and more')
os.mkdir('empty')
";
    let second = "import os
assert open('made/one').read() == 'one'
os.remove('made/one'); open('made/two', 'w').write('two'); open('gone.txt', 'w').write('back')
open('new/x', 'a').write(' again'); os.rmdir('empty')
";
    let stranger = "import os
assert os.path.exists('gone.txt') and not os.path.exists('made')
";
    project.lock(|lock| {
        lock["tools"] = json!({
            "first": step(first, &[]),
            "after-first": step(DIGEST, &["first"]),
            "second": step(second, &["first"]),
            "after-both": step(DIGEST, &["first", "second"]),
            "stranger": step(&format!("{stranger}{DIGEST}"), &[]),
        });
        lock["plugins"] = json!([]);
    });
    for (path, text) in [
        ("gone.txt", "x"),
        ("folder/a", "a"),
        ("folder/b/c", "c"),
        ("file", "x"),
        ("mode.sh", "x"),
        ("old/x", "x"),
        ("longer", "x"),
    ] {
        project.write(path, text);
    }
    project.commit();
    let mtime = "b'%o %d ' % (meta.st_mode, int(meta.st_mtime))";
    project.lock(|lock| {
        for (_, tool) in lock["tools"].as_object_mut().unwrap() {
            let text = tool["args"][1].as_str().unwrap().replace(mtime, "b'%o ' % meta.st_mode");
            tool["args"][1] = text.into();
        }
    });
    project.commit();
    let said = in_both(&project, &["after-first", "after-both", "stranger"]);
    assert!(said[0] != said[1] && said[0] != said[2] && said[1] != said[2], "{said:?}");
}

#[test]
fn the_wheel_that_was_built_is_what_is_imported() {
    let project = project(&[]);
    project.lock(|lock| {
        lock["build"] = true.into();
        lock["plugins"] = json!([]);
        lock["tools"] = json!({});
    });
    project.commit();
    project.ft(&["run", "--container"]).leaves(0);
    let report = project.report();
    for step in ["build", "import"] {
        assert_eq!(report.step(step)["state"], "good");
    }
    // A module of the tree that the wheel does not have is not there.
    project.write("hidden.py", "").lock(|lock| lock["import_names"] = json!(["demo", "hidden"])).commit();
    for arguments in [&["run"][..], &["run", "--container"]] {
        project.ft(arguments).leaves(55);
        let report = project.report();
        assert_eq!(
            (&report.step("build")["state"], &report.step("import")["state"]),
            (&json!("good"), &json!("failed"))
        );
        assert!(project.read("artifacts/logs/import.log").contains("No module named 'hidden'"));
    }
    leaves_nothing(&project);
}
