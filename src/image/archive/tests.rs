//! Archives that are made the same everywhere, and archives that nobody should believe.

use super::*;
use crate::lock::image::{Digest, ImageName, Platform};
use crate::tar_writer::TarWriter;
use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::TempDir;

const EPOCH: u64 = 1_700_000_000;

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

/// A small root file system; `backwards` makes the same in another order, with other modes, owners' bits and times.
fn root(at: &Path, backwards: bool) {
    let mut make: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| fs::create_dir_all(at.join("usr/bin")).unwrap()),
        Box::new(|| fs::create_dir(at.join("tmp")).unwrap()),
        Box::new(|| fs::write(at.join("b"), "two").unwrap()),
        Box::new(|| fs::write(at.join("a"), "one").unwrap()),
        Box::new(|| fs::write(at.join("a.b"), "").unwrap()),
        Box::new(|| symlink("usr/bin", at.join("bin")).unwrap()),
        Box::new(|| fs::write(at.join("x".repeat(180)), "long").unwrap()),
    ];
    if backwards {
        make.reverse();
    }
    make.iter().for_each(|step| step());
    let sh = at.join("usr/bin/sh");
    fs::write(&sh, "#!").unwrap();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&at.join("tmp"), 0o1777);
    mode(&sh, if backwards { 0o4711 } else { 0o755 });
    mode(&at.join("a"), if backwards { 0o600 } else { 0o664 });
    mode(&at.join("usr"), if backwards { 0o700 } else { 0o775 });
}

struct Made {
    archive: PathBuf,
    ids: Ids,
    layer: LayerFile,
    _folder: TempDir,
}

fn made(backwards: bool, name: Option<&str>) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join(if backwards { "another place" } else { "root" });
    fs::create_dir(&dir).unwrap();
    root(&dir, backwards);
    let layer = layer(&dir, "", EPOCH, &folder.path().join("layer")).unwrap();
    let base = Base::New { platform: amd64(), env: vec!["PATH=/bin".to_owned()] };
    let config = config_of(&base, &[layer.diff_id], EPOCH);
    let name = name.map(|name| name.parse().unwrap());
    let contents =
        Contents { config: &config, layers: std::slice::from_ref(&layer), name: name.as_ref(), platform: &amd64() };
    let archive = folder.path().join("image.tar");
    let ids = write(&contents, fs::File::create(&archive).unwrap()).unwrap();
    Made { archive, ids, layer, _folder: folder }
}

fn open(path: &Path) -> Result<Archive, ArchiveError> {
    Archive::open(path, Limits::default())
}

#[test]
fn order_modes_owners_and_place_leave_no_trace() {
    let (one, other) = (made(false, Some("a/b:1")), made(true, Some("a/b:1")));
    assert_eq!(one.ids, other.ids);
    assert_eq!(fs::read(&one.archive).unwrap(), fs::read(&other.archive).unwrap());
    assert_eq!(one.ids.config, made(false, None).ids.config, "a name is no part of the identity");
}

#[test]
fn a_changed_byte_an_executable_bit_and_a_time_before_the_epoch_do() {
    let digest = |change: &dyn Fn(&Path), epoch: u64| {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("root");
        fs::create_dir(&dir).unwrap();
        root(&dir, false);
        change(&dir);
        layer(&dir, "", epoch, &folder.path().join("layer")).unwrap().diff_id
    };
    let plain = digest(&|_| {}, EPOCH);
    assert_eq!(plain, digest(&|_| {}, EPOCH));
    assert_ne!(plain, digest(&|dir| fs::write(dir.join("a"), "onf").unwrap(), EPOCH));
    let executable = |dir: &Path| fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(plain, digest(&executable, EPOCH));
    let old = |dir: &Path| {
        let file = fs::File::options().write(true).open(dir.join("a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(EPOCH - 1)).unwrap();
    };
    assert_ne!(plain, digest(&old, EPOCH));
    assert_ne!(plain, digest(&|_| {}, EPOCH - 1));
}

#[test]
fn what_was_written_is_read_and_unpacks_to_the_same_layer() {
    let made = made(false, Some("localhost:5000/x"));
    let archive = open(&made.archive).unwrap();
    let name: ImageName = "localhost:5000/x:latest".parse().unwrap();
    let image = archive.choose(Some(&name), Some(&amd64())).unwrap();
    assert_eq!((image.config_digest, image.manifest_digest), (made.ids.config, Some(made.ids.manifest)));
    assert!(archive.choose(Some(&ImageName::Id(made.ids.config)), None).is_ok());
    let into = tempfile::tempdir().unwrap();
    let unpacked = archive.unpack(image, Some(into.path())).unwrap();
    assert_eq!(unpacked.layers[0].diff_id, made.layer.diff_id);
    assert_eq!(fs::read(&unpacked.layers[0].path).unwrap(), fs::read(&made.layer.path).unwrap());
    let text = archive.choose(Some(&"y".parse().unwrap()), None).unwrap_err().to_string();
    assert!(text.contains("holds no image called y; it holds localhost:5000/x:latest (linux/amd64)"), "{text}");
    let other = "linux/arm64".parse().unwrap();
    let text = archive.choose(None, Some(&other)).unwrap_err().to_string();
    assert!(text.contains("holds no image for linux/arm64"), "{text}");
}

#[test]
fn an_image_from_nothing_has_one_empty_layer() {
    let folder = tempfile::tempdir().unwrap();
    let layer = empty_layer(&folder.path().join("layer")).unwrap();
    assert_eq!(layer.diff_id.hex(), "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
    assert_eq!(layer.bytes, 1024);
}

#[test]
fn a_directory_with_a_socket_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    let error = layer(folder.path(), "", EPOCH, &tempfile::tempdir().unwrap().path().join("layer")).unwrap_err();
    assert!(error.to_string().ends_with("/s: a socket, which an image can't hold"), "{error}");
}

#[test]
fn a_layer_below_a_prefix_brings_the_directories_above() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("env");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("seal"), "x").unwrap();
    let layer = layer(&dir, "ft/env", EPOCH, &folder.path().join("layer")).unwrap();
    let mut tar = tar::Archive::new(fs::File::open(layer.path).unwrap());
    let names: Vec<String> =
        tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["ft/", "ft/env/", "ft/env/seal"]);
}

/// A tar with these members.
fn tar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, content) in members {
        tar.file(name.as_bytes(), false, 0, content.len() as u64, content.as_slice()).unwrap();
    }
    tar.finish().unwrap().into
}

fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A docker-archive as engines write it: one layer, the configuration under its digest.
fn docker(layer: &[u8], change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [format!("sha256:{}", sha(layer))]}});
    let config = config.to_string().into_bytes();
    let name = format!("{}.json", sha(&config));
    let manifest = json!([{"Config": name, "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}]);
    let mut members = vec![
        (name, config),
        ("l/layer.tar".to_owned(), layer.to_vec()),
        ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
    ];
    change(&mut members);
    tar_of(&members.iter().map(|(name, content)| (name.as_str(), content.clone())).collect::<Vec<_>>())
}

/// Opens and unpacks, or says why not.
fn taken(bytes: &[u8], limits: Limits) -> Result<Unpacked, ArchiveError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    fs::write(&path, bytes).unwrap();
    let archive = Archive::open(&path, limits)?;
    let image = archive.choose(None, None)?;
    archive.unpack(image, None)
}

fn why(bytes: &[u8]) -> String {
    let error = taken(bytes, Limits::default()).unwrap_err();
    error.to_string().split_once("a.tar: ").unwrap().1.to_owned()
}

fn layer_bytes() -> Vec<u8> {
    tar_of(&[("etc/x", b"content".to_vec())])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let frame = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    // As zstd:chunked writes it: several frames, and one to be skipped.
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    [frame(head), vec![0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2], frame(tail)].concat()
}

/// An OCI layout of one image, its layer stored as `stored`.
fn oci(layer: &[u8], stored: &[u8], nested: bool) -> Vec<u8> {
    let config = json!({"os": "linux", "architecture": "arm64", "variant": "v8", "rootfs": {"diff_ids": [format!("sha256:{}", sha(layer))]}});
    let config = config.to_string().into_bytes();
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len()});
    let manifest = json!({
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", stored)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let beside = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}});
    let inner = json!({"manifests": [entry.clone(), beside]}).to_string().into_bytes();
    if nested {
        entry = descriptor("application/vnd.oci.image.index.v1+json", &inner);
    }
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha(bytes));
    tar_of(&[
        (&blob(&config), config.clone()),
        (&blob(stored), stored.to_vec()),
        (&blob(&manifest), manifest.clone()),
        (&blob(&inner), inner.clone()),
        ("index.json", json!({"manifests": [entry]}).to_string().into_bytes()),
        ("oci-layout", b"{}".to_vec()),
    ])
}

#[test]
fn layers_are_read_however_they_are_compressed() {
    let layer = layer_bytes();
    for stored in [layer.clone(), gzip(&layer), [gzip(&layer[..700]), gzip(&layer[700..])].concat(), zstd(&layer)] {
        for nested in [false, true] {
            let image = taken(&oci(&layer, &stored, nested), Limits::default()).unwrap().image;
            assert_eq!(image.diff_ids[0].hex(), sha(&layer));
            assert_eq!(image.platform.to_string(), "linux/arm64");
        }
        taken(&docker(&layer, |members| members[1].1 = stored), Limits::default()).unwrap();
    }
}

#[test]
fn a_layout_that_is_a_directory_is_read_and_believed_as_little() {
    let (layer, folder) = (layer_bytes(), tempfile::tempdir().unwrap());
    let read = || {
        let archive = Archive::open(folder.path(), Limits::default())?;
        let image = archive.choose(None, None)?;
        archive.unpack(image, None)
    };
    let lay = || tar::Archive::new(&*oci(&layer, &gzip(&layer), true)).unpack(folder.path()).unwrap();
    lay();
    assert_eq!(read().unwrap().image, taken(&oci(&layer, &gzip(&layer), true), Limits::default()).unwrap().image);
    let blob = folder.path().join(format!("blobs/sha256/{}", sha(&gzip(&layer))));
    for (spoil, says) in [
        (&(|| fs::write(&blob, gzip(b"other")).unwrap()) as &dyn Fn(), "the size of blobs/sha256/"),
        (&|| fs::write(&blob, vec![0; gzip(&layer).len()]).unwrap(), "and the archive says sha256:"),
        (&|| fs::remove_file(&blob).unwrap(), "and not there"),
        (&|| symlink("/etc/passwd", folder.path().join("blobs/passwd")).unwrap(), "blobs/passwd: a link"),
    ] {
        spoil();
        let text = read().unwrap_err().to_string();
        assert!(text.contains(says), "{says}: {text}");
        let _ = fs::remove_file(&blob);
        lay();
    }
}

#[test]
fn a_layer_or_a_document_that_is_not_what_is_said_of_it_is_refused() {
    let layer = layer_bytes();
    let other = tar_of(&[("etc/x", b"CONTENT".to_vec())]);
    let says = |text: String, what: &str| assert!(text.contains(what), "{text}");
    says(why(&docker(&layer, |members| members[1].1 = other.clone())), "layer 1 of 1, unpacked, is sha256:");
    says(why(&docker(&layer, |members| members[1].1 = gzip(&other))), "layer 1 of 1, unpacked, is sha256:");
    says(why(&docker(&layer, |members| members[0].1.push(b' '))), "and the archive says sha256:");
    says(
        why(&docker(&layer, |members| drop(members.remove(1)))),
        "l/layer.tar: a layer that is named in the archive and not there",
    );
    says(why(&docker(&layer, |members| drop(members.remove(2)))), "holds no image");
    says(why(&docker(&layer, |members| members[2].1 = b"[{".to_vec())), "manifest.json: EOF while parsing");
    says(
        why(&docker(&layer, |members| members[1].1 = b"x".repeat(2000))),
        "no layer: a header whose checksum is wrong",
    );
    says(why(&docker(&layer, |members| members[1].1 = gzip(&layer)[..40].to_vec())), "l/layer.tar: ");
    // The stored blob, against the manifest.
    let mut bytes = oci(&layer, &gzip(&layer), false);
    let at = bytes.windows(2).position(|two| two == [0x1f, 0x8b]).unwrap();
    bytes[at + 4] ^= 1; // The time in the header of gzip: unpacks to the same.
    says(why(&bytes), "and the archive says sha256:");
}

#[test]
fn layers_that_lead_out_of_their_root_are_refused() {
    let up = |name: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, std::io::empty()).unwrap();
        tar.into_inner().unwrap()
    };
    for name in ["../x", "a/../../x", ".."] {
        assert!(why(&docker(&up(name), |_| {})).contains("an entry whose name leads to a parent"), "{name}");
    }
    assert!(taken(&docker(&up("a/..x/.wh.y"), |_| {}), Limits::default()).is_ok());
}

/// The header of one member, then its content.
fn raw(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn members_that_no_honest_archive_has_are_refused() {
    use tar::EntryType as Kind;
    let good = docker(&layer_bytes(), |_| {});
    for (member, says) in [
        (raw("../x", Kind::Regular, "", b""), "../x: a name that leads to a parent"),
        (raw("a/../../x", Kind::Regular, "", b""), "a name that leads to a parent"),
        (raw("/x", Kind::Regular, "", b""), "/x: an absolute name"),
        (raw("a//b", Kind::Regular, "", b""), "a name with an empty or `.` step"),
        (raw("a\nb", Kind::Regular, "", b""), "or a control character"),
        (raw("manifest.json", Kind::Regular, "", b"[]"), "manifest.json: the same name a second time"),
        (raw("./manifest.json", Kind::Regular, "", b"[]"), "the same name a second time"),
        (raw("x", Kind::Symlink, "/etc/shadow", b""), "x: a link that leads out of the archive"),
        (raw("x", Kind::Symlink, "../etc/shadow", b""), "x: a link that leads out of the archive"),
        (raw("x", Kind::Symlink, "y", b""), "x: a link to what is no file of the archive"),
        (raw("x", Kind::Symlink, "x", b""), "x: a link to what is no file of the archive"),
        (raw("x", Kind::Link, "manifest.json", b""), "x: a hard link"),
        (raw("x", Kind::Char, "", b""), "x: a device"),
        (raw("x", Kind::Fifo, "", b""), "x: a FIFO"),
        (raw("x", Kind::GNUSparse, "", b""), "a sparse file"),
        (raw("x", Kind::XHeader, "", b"22 GNU.sparse.major=1\n"), "a sparse file"),
        (raw("x", Kind::XHeader, "", b"nonsense"), "an extension header that can't be read"),
        (raw("x", Kind::GNULongName, "", &[b'a'; 5000]), "an extension header that is too long"),
    ] {
        let text = why(&[member, good.clone()].concat());
        let text = if text.contains(says) { text } else { format!("{text} <> {says}") };
        assert!(text.contains(says), "{text}");
    }
    // The control: a link as older engines write it for a layer that comes twice.
    let linked = [raw("x", Kind::Symlink, "./l/../manifest.json", b""), good].concat();
    taken(&linked, Limits::default()).unwrap();
}

#[test]
fn budgets_end_what_has_no_end() {
    let layer = tar_of(&[("zeros", vec![0; 1 << 20])]);
    let small = Limits { unpacked: 1 << 16, ..Limits::default() };
    let text = taken(&docker(&layer, |members| members[1].1 = gzip(&layer)), small).unwrap_err().to_string();
    assert!(text.contains("more than the 65536 bytes that an image may have"), "{text}");
    let few = Limits { members: 2, ..Limits::default() };
    assert!(taken(&docker(&layer, |_| {}), few).unwrap_err().to_string().contains("more than 2 members"));
    let short = Limits { json: 10, ..Limits::default() };
    assert!(
        taken(&docker(&layer, |_| {}), short).unwrap_err().to_string().contains("manifest.json: more than 10 bytes")
    );
    let crowded = tar_of(&[("a", vec![]), ("b", vec![])]);
    let one = Limits { entries: 1, ..Limits::default() };
    assert!(
        taken(&docker(&crowded, |_| {}), one).unwrap_err().to_string().contains("more entries than a layer may have")
    );
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let good = docker(&layer_bytes(), |_| {});
    assert!(taken(&good, Limits::default()).is_ok());
    // Behind the first block of the end mark nothing is missing.
    for length in (0..good.len() - 512).step_by(97) {
        assert!(taken(&good[..length], Limits::default()).is_err(), "{length} of {}", good.len());
    }
    let text = why(&gzip(&good));
    assert_eq!(text, "compressed as a whole; unpack it with `gunzip` first");
}

proptest! {
    #[test]
    fn a_changed_byte_is_found_or_changes_nothing_that_counts(at in 0usize..8000, bit in 0u8..8) {
        let layer = layer_bytes();
        let good = docker(&layer, |_| {});
        let (at, mut bytes) = (at % good.len(), good.clone());
        bytes[at] ^= 1 << bit;
        if let Ok(unpacked) = taken(&bytes, Limits::default()) {
            // Names, tags and padding of the archive are no part of the identity.
            prop_assert_eq!(unpacked.image.diff_ids[0].hex(), sha(&layer));
            prop_assert_eq!(unpacked.image.platform, amd64());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = taken(&bytes, Limits::default());
        let _ = taken(&docker(&layer_bytes(), |members| members[1].1 = bytes.clone()), Limits::default());
        let _ = taken(&docker(&layer_bytes(), |members| members[2].1 = bytes), Limits::default());
    }
}

#[test]
fn digests_are_read_as_they_are_written() {
    let digest = Digest(Sha256::digest(b"x").into());
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
}
