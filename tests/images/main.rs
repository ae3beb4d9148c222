//! Images, with the product itself and this machine's engine: built in two places with the same id, loaded, saved, pinned,
//! verified, and refused where they are not what the lock says. An engine is a must: without one these tests fail.

mod harness;
mod registry;

use harness::{Clone, docker, ft, images_make, output};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// A small root file system; the second way of making it differs in all that must not count.
fn root(at: &Path, second: bool) {
    let mut names: Vec<String> = (0..40).map(|number| format!("etc/f{}", number * 7919 % 41)).collect();
    if second {
        names.reverse();
    }
    fs::create_dir_all(at.join("etc")).unwrap();
    for name in &names {
        fs::write(at.join(name), name).unwrap();
    }
    symlink("f0", at.join("etc/link")).unwrap();
    fs::create_dir(at.join("tmp")).unwrap();
    fs::set_permissions(at.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

#[test]
fn built_in_two_places_an_image_has_the_same_id_and_the_archive_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deep = other.path().join("somewhere/else entirely");
    fs::create_dir_all(&deep).unwrap();
    root(&one.path().join("root"), false);
    // Another order of entries, another time, another umask, another zone and language, and another user's place.
    let made = Command::new("sh")
        .args(["-c", "umask 077 && cp -r \"$0\" \"$1\""])
        .arg(one.path().join("root"))
        .arg(deep.join("copy"))
        .status();
    assert!(made.unwrap().success());
    fs::remove_dir_all(deep.join("copy/etc")).unwrap();
    fs::remove_dir(deep.join("copy/tmp")).unwrap();
    root(&deep.join("copy"), true);
    let touched = Command::new("touch").args(["-d", "2033-03-03 03:03:03"]).arg(deep.join("copy/etc/f1")).status();
    assert!(touched.unwrap().success());
    let first = output(ft(one.path()).args(["image", "build", "root", "-o", "image.tar"]));
    let mut second = Command::new("sh");
    second.args(["-c", "umask 077 && exec \"$0\" \"$@\""]).arg(env!("CARGO_BIN_EXE_ft"));
    second.args(["image", "build", "copy", "-o", "other.tar"]).current_dir(&deep);
    second
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "C")
        .env("LANG", "tr_TR.UTF-8")
        .env_remove("SOURCE_DATE_EPOCH");
    let second = output(&mut second);
    assert_eq!(first, second);
    assert!(first.starts_with("sha256:"), "{first}");
    let bytes = fs::read(one.path().join("image.tar")).unwrap();
    assert!(bytes == fs::read(deep.join("other.tar")).unwrap(), "the archives differ");
    // The control: what is in it does count, and so does the epoch.
    fs::write(deep.join("copy/etc/f1"), "changed").unwrap();
    assert_ne!(first, output(ft(&deep).args(["image", "build", "copy", "-o", "other.tar"])));
    let later = output(ft(one.path()).args(["image", "build", "root", "-o", "later.tar", "--epoch", "1700000000"]));
    assert_ne!(first, later);
    let by_variable = output(
        ft(one.path()).args(["image", "build", "root", "-o", "later.tar"]).env("SOURCE_DATE_EPOCH", "1700000000"),
    );
    assert_eq!(later, by_variable);
}

#[test]
fn the_engine_has_the_id_that_was_printed_and_gives_the_same_archive_back() {
    let place = tempfile::tempdir().unwrap();
    root(&place.path().join("root"), false);
    let name = "ft-images/round:1";
    let id = output(ft(place.path()).args(["image", "build", "root", "-o", "a.tar", "--name", name, "--load"]));
    let _gone = harness::Image(id.trim().to_owned());
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", name]), id);
    assert_eq!(output(ft(place.path()).args(["image", "save", name, "-o", "b.tar"])), id);
    let sum = |name: &str| hex::encode(Sha256::digest(fs::read(place.path().join(name)).unwrap()));
    assert_eq!(sum("a.tar"), sum("b.tar"));
    // What the engine itself writes is read, too, and is the same image.
    docker(&["save", "-o", place.path().join("c.tar").to_str().unwrap(), name]);
    assert_eq!(output(ft(place.path()).args(["image", "load", "c.tar"])), id);
    assert_eq!(output(ft(place.path()).args(["image", "build", "c.tar", "-o", "d.tar"])), id);
    assert_eq!(sum("a.tar"), sum("d.tar"));
    assert_eq!(output(ft(place.path()).args(["image", "build", name, "-o", "e.tar"])), id);
    assert_eq!(sum("a.tar"), sum("e.tar"));
}

#[test]
fn pinned_it_is_verified_and_every_other_image_is_refused_by_its_own_message() {
    let clone = Clone::new();
    let dir = clone.path();
    root(&dir.join("root"), false);
    let name = "ft-images/pinned:1";
    let id = output(ft(dir).args(["image", "build", "root", "-o", "a.tar", "--name", name, "--load"]));
    let _gone = harness::Image(id.trim().to_owned());
    let before = fs::read_to_string(dir.join("ci/parity.lock.json")).unwrap();
    output(ft(dir).args(["lock", "--image", name]));
    let lock = fs::read_to_string(dir.join("ci/parity.lock.json")).unwrap();
    let head = before.find("\n}").unwrap();
    assert!(lock.starts_with(&before[..head]), "only what is new was added:\n{lock}");
    assert!(
        lock.contains(&format!("\"image\": \"{}\"", id.trim())) && lock.contains("\"platform\": \"linux/amd64\""),
        "{lock}"
    );
    output(ft(dir).args(["image", "pin", name]));
    assert_eq!(fs::read_to_string(dir.join("ci/parity.lock.json")).unwrap(), lock, "a second time changes nothing");
    for what in [&["image", "verify"][..], &["image", "verify", name], &["image", "verify", "a.tar"]] {
        let said = output(ft(dir).args(what));
        assert!(said.contains("is the image of the lock (config digest)"), "{what:?}: {said}");
    }
    // Other layers under the right name.
    fs::write(dir.join("root/etc/f1"), "other").unwrap();
    let other = output(ft(dir).args(["image", "build", "root", "-o", "b.tar", "--name", name, "--load"]));
    let _other = harness::Image(other.trim().to_owned());
    for what in [name, "b.tar"] {
        clone.refused(&["image", "verify", what], 105, &["PARITY-051", what, "other layers: layer 1 of 1 is sha256:"]);
    }
    // The lock's own image is still found: by its digest, whatever the name leads to now.
    output(ft(dir).args(["image", "verify"]));
    // The same layers under another configuration.
    fs::write(dir.join("root/etc/f1"), "etc/f1").unwrap();
    output(ft(dir).args(["image", "build", "root", "-o", "c.tar", "--env", "A=b"]));
    clone.refused(
        &["image", "verify", "c.tar"],
        105,
        &["PARITY-051", "the layers are those of the lock, the configuration"],
    );
    // Another architecture.
    output(ft(dir).args(["image", "build", "root", "-o", "d.tar", "--platform", "linux/arm64"]));
    clone.refused(
        &["image", "verify", "d.tar"],
        105,
        &["PARITY-051", "the image is for linux/arm64, and the lock says linux/amd64"],
    );
    // A tag, and a name with a port and neither.
    for (image, says) in
        [("x:3.11", "the tag `3.11` can name other bytes"), ("localhost:5000/x", "neither a tag nor a digest")]
    {
        fs::write(
            dir.join("ci/parity.lock.json"),
            lock.replace(&format!("\"image\": \"{}\"", id.trim()), &format!("\"image\": \"{image}\"")),
        )
        .unwrap();
        for what in [
            &["image", "verify"][..],
            &["image", "verify", name],
            &["image", "verify", "a.tar"],
            &["image", "save", "-o", "x.tar"],
        ] {
            clone.refused(what, 102, &["PARITY-014", image, says]);
        }
    }
    // An image that nobody has.
    let nobody = format!("sha256:{}", "0".repeat(64));
    let missing = lock.replace(id.trim(), &nobody);
    fs::write(dir.join("ci/parity.lock.json"), missing).unwrap();
    clone.refused(&["image", "verify"], 105, &["has no image", &nobody, "ft image load FILE"]);
}

#[test]
fn nothing_of_a_broken_archive_reaches_the_engine_and_a_retry_works() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    root(&dir.join("root"), false);
    fs::write(dir.join("root/etc/mark"), "the only image with this").unwrap();
    let id = output(ft(dir).args(["image", "build", "root", "-o", "good.tar", "--name", "ft-images/broken:1"]));
    let good = fs::read(dir.join("good.tar")).unwrap();
    let mark = good.windows(8).position(|bytes| bytes == b"the only").unwrap();
    let mut changed = good.clone();
    changed[mark] ^= 1;
    for (name, bytes, says) in [
        ("changed.tar", changed, "and the archive says sha256:"),
        ("cut.tar", good[..good.len() / 2].to_vec(), "not a whole tar"),
        ("text.tar", b"no tar at all".to_vec(), "not a whole tar"),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
        let out = ft(dir).args(["image", "load", name]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(105), "{name}: {said}");
        assert!(said.contains(says) || said.contains("cut off"), "{name}: {said}");
        assert!(said.contains("nothing of it was used"), "{name}: {said}");
        assert!(
            docker(&["images", "--quiet", "--no-trunc"]).lines().all(|have| have != id.trim()),
            "{name} was loaded"
        );
    }
    let _gone = harness::Image(id.trim().to_owned());
    assert_eq!(output(ft(dir).args(["image", "load", "good.tar", "--as", "ft-images/other:2"])), id);
    assert_eq!(docker(&["image", "inspect", "--format", "{{.RepoTags}}", id.trim()]).trim(), "[ft-images/other:2]");
}

#[test]
fn mistakes_on_the_command_line_say_what_to_do() {
    let clone = Clone::new();
    root(&clone.path().join("root"), false);
    clone.refused(&["image", "build", "Nothing Here", "-o", "x.tar"], 2, &["names no image"]);
    clone.refused(
        &["image", "build", "ft-images/nobody-has-this", "-o", "x.tar"],
        105,
        &["has no image ft-images/nobody-has-this"],
    );
    clone.refused(&["image", "build", "root", "-o", "x.tar", "--name", "A B"], 2, &["can't be the name of an image"]);
    clone.refused(&["image", "build", "root", "-o", "x.tar", "--platform", "here"], 2, &["no platform"]);
    clone.refused(&["image", "build", "root", "-o", "x.tar", "--env", "=x"], 2, &["no variable"]);
    clone.refused(&["image", "build", "root", "-o", "not/there/x.tar"], 69, &["not/there/x.tar"]);
    clone.refused(&["image", "verify", "x:1"], 102, &["the lock names no container image for Python"]);
    clone.refused(&["image", "load", "absent.tar"], 69, &["absent.tar"]);
    clone.refused(&["lock", "--image", "ft-images/nobody-has-this"], 105, &["has no image"]);
    let digest = format!("localhost:1/x@sha256:{}", "0".repeat(64));
    clone.refused(&["--offline", "image", "build", &digest, "-o", "x.tar"], 69, &["offline", "has no image"]);
    // Nobody listens there: the engine's own words.
    clone.refused(&["image", "build", &digest, "-o", "x.tar"], 69, &["pulling localhost:1/x@sha256:"]);
    assert!(!clone.path().join("x.tar").exists());
    let out = ft(clone.path()).args(["image", "verify"]).env("DOCKER_HOST", "unix:///nobody/here").output().unwrap();
    assert_eq!(out.status.code(), Some(102), "the lock comes first");
    let out = ft(clone.path()).args(["image", "pin", "x"]).env("DOCKER_HOST", "unix:///nobody/here").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(105) && said.contains("unix:///nobody/here"), "{said}");
}

/// Two machines: each has a wheel store of its own, and one has an index.
#[test]
fn a_bundle_brings_images_and_wheels_to_a_machine_without_network() {
    let from = Clone::new();
    let (index, wheel) = from.lock_a_wheel();
    root(&from.path().join("root"), false);
    fs::write(from.path().join("root/etc/mark"), "bundle").unwrap();
    let build = ["image", "build", "root", "-o", "a.tar", "--name", "ft-images/bundle:1", "--load"];
    let id = output(ft(from.path()).args(build)).trim().to_owned();
    let gone = harness::Image(id.clone());
    output(ft(from.path()).args(["lock", "--image", "ft-images/bundle:1"]));
    let store = |name: &str| from.path().join(name);
    let at = |clone: &Clone, cache: &Path| {
        let mut command = ft(clone.path());
        command.env("FT_CACHE_DIR", cache).env("FT_UV", "").env("PIP_NO_INDEX", "1");
        command
    };
    from.refused_by(
        &mut at(&from, &store("one")),
        &["image", "save", "--bundle", "b"],
        69,
        &["not in the wheel store: ft-probe==1.0"],
    );
    output(at(&from, &store("one")).args(["env", "build"]).env("PIP_FIND_LINKS", &index));
    output(at(&from, &store("one")).args(["image", "save", "--bundle", "b"]));
    let bytes = fs::read(store("b")).unwrap();
    output(at(&from, &store("one")).args(["image", "save", "--bundle", "b"]));
    assert!(bytes == fs::read(store("b")).unwrap(), "the same bundle has the same bytes");

    // The other machine: a clone of the same lock, an engine without the image, an empty wheel store.
    drop(gone);
    let there = Clone::new();
    for name in ["parity.lock.json", "parity.requirements.txt"] {
        fs::copy(from.path().join("ci").join(name), there.path().join("ci").join(name)).unwrap();
    }
    let other = store("two");
    let offline = ["--offline", "env", "build"];
    there.refused_by(&mut at(&there, &other), &offline, 69, &["ft-probe==1.0"]);
    // On the way in: a changed wheel, a wheel and an image that the lock does not have, a cut file.
    let spoiled = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        fs::write(there.path().join(name), changed).unwrap();
    };
    let find = |needle: &[u8]| bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    spoiled("wheel", &|bytes| bytes[find(&wheel) + 40] ^= 1);
    spoiled("layer", &|bytes| bytes[find(b"etc/f1")] ^= 1);
    spoiled("cut", &|bytes| bytes.truncate(bytes.len() / 2));
    there.refused_by(
        &mut at(&there, &other),
        &["image", "load", "wheel"],
        101,
        &["PARITY-005", "ft_probe-1.0-py3-none-any.whl has sha256"],
    );
    there.refused_by(&mut at(&there, &other), &["image", "load", "layer"], 105, &["nothing of it was used"]);
    there.refused_by(&mut at(&there, &other), &["image", "load", "cut"], 105, &["nothing of it was used"]);
    let lock = fs::read_to_string(there.path().join("ci/parity.lock.json")).unwrap();
    fs::write(there.path().join("b"), &bytes).unwrap();
    fs::write(there.path().join("ci/parity.lock.json"), lock.replace(&id, &format!("sha256:{}", "1".repeat(64))))
        .unwrap();
    there.refused_by(&mut at(&there, &other), &["image", "load", "b"], 105, &["PARITY-051", "the configuration is"]);
    fs::write(there.path().join("ci/parity.lock.json"), &lock).unwrap();
    let requirements = fs::read_to_string(there.path().join("ci/parity.requirements.txt")).unwrap();
    let sha256 = hex::encode(Sha256::digest(&wheel));
    fs::write(there.path().join("ci/parity.requirements.txt"), requirements.replace(&sha256, &"2".repeat(64))).unwrap();
    there.refused_by(&mut at(&there, &other), &["image", "load", "b"], 101, &["PARITY-005", "has no hash of the lock"]);
    fs::write(there.path().join("ci/parity.requirements.txt"), &requirements).unwrap();
    // Nothing of all that was used.
    assert!(docker(&["images", "--all", "--quiet", "--no-trunc"]).lines().all(|have| have != id));
    there.refused_by(&mut at(&there, &other), &offline, 69, &["ft-probe==1.0"]);

    let _gone = harness::Image(id.clone());
    output(at(&there, &other).args(["image", "load", "b"]));
    assert!(output(at(&there, &other).args(["image", "verify"])).contains(&id));
    output(at(&there, &other).args(offline));
}

/// The images that other tests run in: made from the lists of packages of this repository.
#[test]
fn the_recipes_give_images_that_start() {
    for (name, python) in [("py311", "3.11"), ("py313", "3.13")] {
        let id = images_make(name);
        let script = "import ctypes.util, sqlite3, ssl, sys, zoneinfo; print('%d.%d' % sys.version_info[:2], ctypes.util.find_library('c'), sys.modules['ssl'].__cached__.endswith('.pyc'))";
        let said = docker(&["run", "--rm", "--network", "none", "--read-only", &id, "python3", "-c", script]);
        assert_eq!(said.trim(), format!("{python} libc.so.6 True"));
    }
    let musl = images_make("musl");
    let said = docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        &musl,
        "sh",
        "-c",
        "ls /lib/ld-musl-*; ls /tmp /etc/passwd 2>&1; true",
    ]);
    assert!(said.contains("ld-musl-") && said.contains("/tmp: No such file"), "{said}");
    let empty = images_make("empty");
    let out = Command::new("docker").args(["run", "--rm", "--network", "none", &empty, "/bin/sh"]).output().unwrap();
    assert_eq!(out.status.code(), Some(127), "there is nothing in it: {}", String::from_utf8_lossy(&out.stderr));
}
