//! Hostile tars, and honest ones.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const LIMITS: Limits = Limits { entries: 100, bytes: 10_000 };

/// One entry as bytes, whatever its name and kind.
fn entry(name: &[u8], kind: EntryType, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, 0o644, content.as_bytes())
}

fn received(entries: &[Vec<u8>]) -> (tempfile::TempDir, Result<Received, ArtifactError>) {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    let tar = dir.path().join("a.tar");
    std::fs::write(&tar, bytes).unwrap();
    let result = receive(&tar, &dir.path().join("into"), &LIMITS);
    (dir, result)
}

#[test]
fn files_come_back_with_their_digest_and_a_plain_mode() {
    let (dir, received) = received(&[
        entry(b"work/", EntryType::Directory, 0o700, b""),
        file("work/artifacts/a.xml", "abc"),
        entry(b"work/run", EntryType::Regular, 0o6711, b"x"),
        entry(b"out/pytest.json", EntryType::Regular, 0o600, b"{}"),
    ]);
    let received = received.unwrap();
    assert_eq!(received.refused, []);
    let paths: Vec<_> = received.files.iter().map(|file| (&*file.path, file.bytes)).collect();
    assert_eq!(paths, [("work/artifacts/a.xml", 3), ("work/run", 1), ("out/pytest.json", 2)]);
    assert_eq!(received.files[0].sha256, hex::encode(Sha256::digest("abc")));
    let mode = |path| std::fs::metadata(dir.path().join("into").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("work/run"), mode("out/pytest.json")), (0o755, 0o644));
}

#[test]
fn what_is_no_file_below_work_or_out_is_refused_by_name_and_the_rest_comes_back() {
    let hostile: &[(&[u8], EntryType, &str)] = &[
        (b"work/link", EntryType::Symlink, "a symbolic link"),
        (b"work/hard", EntryType::Link, "a hard link"),
        (b"work/null", EntryType::Char, "a device"),
        (b"work/sda", EntryType::Block, "a device"),
        (b"work/pipe", EntryType::Fifo, "a FIFO"),
        (b"work/sparse", EntryType::GNUSparse, "a sparse file"),
        (b"work/odd", EntryType::new(b'Z'), "neither a file nor a directory"),
        (b"/etc/passwd", EntryType::Regular, "an absolute name"),
        (b"work/../../x", EntryType::Regular, "a name that leads to a parent"),
        (b"../x", EntryType::Regular, "a name that leads to a parent"),
        (b"work/./x", EntryType::Regular, "a name with an empty, `.` or over-long step"),
        (b"work//x", EntryType::Regular, "a name with an empty, `.` or over-long step"),
        (b"work/x/", EntryType::Regular, "a name with an empty, `.` or over-long step"),
        (b"work", EntryType::Regular, "neither below work/ nor below out/"),
        (b"elsewhere/x", EntryType::Directory, "neither below work/ nor below out/"),
        (b"", EntryType::Regular, "a name with an empty, `.` or over-long step"),
        (b"work/a\nb", EntryType::Regular, "a control character in its name"),
        (b"work/\x1b[2J", EntryType::Regular, "a control character in its name"),
        (b"work/\xff", EntryType::Regular, "a name that is not UTF-8"),
    ];
    for (name, kind, why) in hostile {
        let (dir, received) = received(&[entry(name, *kind, 0o644, b"evil"), file("work/good", "good")]);
        let received = received.unwrap();
        assert_eq!(received.refused, [(crate::repo::shown(name), (*why).to_owned())]);
        assert_eq!(received.files.len(), 1, "{}", crate::repo::shown(name));
        assert_eq!(std::fs::read(dir.path().join("into/work/good")).unwrap(), b"good");
        assert!(!dir.path().join("x").exists());
    }
}

#[test]
fn a_second_entry_of_a_name_never_replaces_the_first() {
    let (dir, received) = received(&[
        file("work/a", "first"),
        file("work/a", "second"),
        entry(b"work/a", EntryType::Directory, 0o755, b""),
        file("work/a/below", "x"),
        file("work/dir/file", "kept"),
        file("work/dir", "x"),
    ]);
    let why: Vec<_> = received.unwrap().refused.into_iter().map(|(path, why)| format!("{path}: {why}")).collect();
    assert_eq!(
        why,
        [
            "work/a: the same name a second time",
            "work/a: the same name a second time",
            "work/a/below: below a file",
            "work/dir: the same name a second time"
        ]
    );
    assert_eq!(std::fs::read(dir.path().join("into/work/a")).unwrap(), b"first");
    assert_eq!(std::fs::read(dir.path().join("into/work/dir/file")).unwrap(), b"kept");
}

#[test]
fn nothing_goes_through_a_link_that_stands_in_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (into, outside) = (dir.path().join("into"), dir.path().join("outside"));
    std::fs::create_dir(&into).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, into.join("work")).unwrap();
    let tar = dir.path().join("a.tar");
    std::fs::write(&tar, [file("work/x", "evil"), vec![0; 1024]].concat()).unwrap();
    assert!(matches!(receive(&tar, &into, &LIMITS), Err(ArtifactError::Io { .. })));
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
}

#[test]
fn a_file_over_the_budget_is_refused_and_smaller_ones_still_come() {
    let (_dir, received) = received(&[file("work/large", &"x".repeat(20_000)), file("work/small", "x")]);
    let received = received.unwrap();
    assert_eq!(received.files.len(), 1);
    assert_eq!(received.refused.len(), 1);
    assert!(received.refused[0].1.starts_with("20000 bytes are more than"));
}

#[test]
fn a_tebibyte_that_only_the_header_promises_is_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = Header::new_gnu();
    header.set_path("work/huge").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(1 << 40);
    header.set_cksum();
    let tar = dir.path().join("a.tar");
    std::fs::write(&tar, header.as_bytes()).unwrap();
    let error = receive(&tar, &dir.path().join("into"), &LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "artifact tar: it ends too early");
    assert!(!dir.path().join("into/work").exists());
}

#[test]
fn reading_stops_after_the_last_entry_that_is_allowed() {
    let many: Vec<_> = (0..150).map(|n| file(&format!("work/{n}"), "x")).collect();
    let (_dir, received) = received(&many);
    let received = received.unwrap();
    assert_eq!(received.files.len(), 100);
    assert_eq!(received.refused, [(String::new(), "more than 100 entries; the rest was not read".to_owned())]);
}

#[test]
fn long_names_come_back_and_endless_ones_do_not() {
    let long = format!("work/{}/{}", "d".repeat(200), "f".repeat(200));
    let mut name = long.clone().into_bytes();
    name.push(0);
    let bomb = vec![b'a'; 5000];
    let (dir, received) = received(&[
        entry(b"././@LongLink", EntryType::GNULongName, 0o644, &name),
        file("work/cut", "long"),
        entry(b"././@LongLink", EntryType::GNULongName, 0o644, &bomb),
        file("work/bomb", "x"),
        entry(b"pax", EntryType::XHeader, 0o644, b"20 path=/etc/passwd\n"),
        file("work/pax", "x"),
        file("work/plain", "x"),
    ]);
    let received = received.unwrap();
    assert_eq!(std::fs::read(dir.path().join("into").join(&long)).unwrap(), b"long");
    assert_eq!(received.files.iter().map(|file| &*file.path).collect::<Vec<_>>(), [&*long, "work/plain"]);
    let why: Vec<_> = received.refused.iter().map(|(_, why)| &**why).collect();
    assert_eq!(why, ["a name that is too long", "a pax header"]);
}

#[test]
fn names_that_differ_in_case_only_are_noted() {
    let (_dir, received) = received(&[file("work/Readme", "a"), file("work/README", "b")]);
    assert_eq!(received.unwrap().notes, ["work/README: differs from work/Readme only in case"]);
}

#[test]
fn a_tar_that_is_cut_or_forged_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("a.tar");
    let whole = file("work/a", "abc");
    for (bytes, why) in [
        (&whole[..600], "it ends too early"),
        (&whole[..], "it ends too early"),
        (&[b'x'; 1024][..], "a header whose checksum is wrong"),
    ] {
        std::fs::write(&tar, bytes).unwrap();
        let into = tempfile::tempdir().unwrap();
        assert_eq!(receive(&tar, into.path(), &LIMITS).unwrap_err().to_string(), format!("artifact tar: {why}"));
    }
}

/// Everything below a directory, links not followed.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            all.extend(tree(&path));
        }
        all.push(path);
    }
    all
}

proptest! {
    #[test]
    fn whatever_the_entries_are_only_plain_files_below_the_directory_appear(
        entries in proptest::collection::vec(
            (
                prop_oneof![
                    "(work|out|\\.\\.|/|etc)(/(a|b|\\.\\.|\\.|)){0,4}/?".prop_map(String::into_bytes),
                    proptest::collection::vec(any::<u8>(), 0..30),
                ],
                prop::sample::select(b"0012345677LKSxgDZ\0".to_vec()),
                any::<u32>(),
                proptest::collection::vec(any::<u8>(), 0..600),
            ),
            0..12,
        )
    ) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, kind, mode, content)| entry(name, EntryType::new(*kind), mode & 0o7777, content))
            .collect();
        let (dir, result) = received(&entries);
        let here: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert!(here.iter().all(|name| name == "a.tar" || name == "into"), "{here:?}");
        for path in tree(&dir.path().join("into")) {
            let meta = path.symlink_metadata().unwrap();
            prop_assert!(meta.is_dir() || meta.is_file());
            prop_assert_eq!(meta.permissions().mode() & 0o7000, 0);
        }
        if let Ok(received) = result {
            for file in &received.files {
                let bytes = std::fs::read(dir.path().join("into").join(&file.path)).unwrap();
                prop_assert_eq!(hex::encode(Sha256::digest(&bytes)), &*file.sha256);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("a.tar");
        std::fs::write(&tar, bytes).unwrap();
        let _ = receive(&tar, &dir.path().join("into"), &LIMITS);
    }
}
