//! What goes in and comes out: pulls, loads, saves, trees.

use crate::script::{Reply, Script, Scripted};
use crate::{connect, real};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, DownloadFromContainerOptions, RemoveImageOptions};
use firsttry::engine::{Engine, EngineError, Progress};
use futures_util::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, Cursor, Read};

const PINNED: &str = "reg/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn docker() -> Script {
    Script::docker("20.10", "1.41", "1.12")
}

/// An engine with these answers to the pull, and then these to the question what it has.
fn pulls(streams: Vec<Reply>, images: Vec<Reply>) -> Scripted {
    let mut script = docker();
    for stream in streams {
        script = script.on("POST /images/create", stream);
    }
    for image in images {
        script = script.on(&format!("GET /images/{PINNED}/json"), image);
    }
    script.start()
}

fn image() -> Reply {
    Reply::json(200, json!({ "Id": "sha256:1", "RepoDigests": [PINNED], "Os": "linux", "Architecture": "amd64" }))
}

fn absent() -> Reply {
    Reply::error(404, "No such image")
}

async fn pull(scripted: &Scripted) -> (Result<String, EngineError>, Vec<Progress>) {
    let engine = connect(scripted).await.unwrap();
    let mut seen = Vec::new();
    let pulled = engine.pull(PINNED, None, |progress| seen.push(progress)).await;
    (pulled.map(|image| image.id.unwrap_or_default()), seen)
}

#[tokio::test]
async fn a_pull_shows_its_layers_and_says_what_the_engine_has_then() {
    let stream = Reply::chunked()
        .chunk("{\"status\":\"Pulling from app\",\"id\":\"latest\"}\r\n")
        .chunk("{\"status\":\"Downloading\",\"progressDetail\":{\"current\":10,\"total\":20},\"id\":\"abc\"}\r\n{\"status\":\"Pull comp")
        .chunk("lete\",\"progressDetail\":{},\"id\":\"abc\"}\r\n")
        .end();
    let scripted = pulls(vec![stream], vec![image()]);
    let (pulled, seen) = pull(&scripted).await;
    assert_eq!(pulled.unwrap(), "sha256:1");
    let progress =
        |layer: &str, phase: &str, done, total| Progress { layer: layer.into(), phase: phase.into(), done, total };
    assert_eq!(
        seen,
        [
            progress("latest", "Pulling from app", None, None),
            progress("abc", "Downloading", Some(10), Some(20)),
            progress("abc", "Pull complete", None, None),
        ]
    );
    let query = &scripted.seen()[2].query;
    assert!(query.contains("fromImage=reg%2Fapp%40sha256%3Aaaaa") && !query.contains("tag=sha"), "{query}");
}

#[tokio::test]
async fn a_pull_that_breaks_off_is_asked_about_and_tried_once_more() {
    let cut = || Reply::chunked().chunk("{\"status\":\"Downloading\",\"id\":\"abc\"}\r\n");
    let whole = || Reply::chunked().chunk("{\"status\":\"Pull complete\",\"id\":\"abc\"}\r\n").end();
    // bollard's decoder makes an error of the last two bytes.
    let orphan = || Reply::chunked().chunk("{\"status\":\"Pull complete\",\"id\":\"abc\"}\r\n\r").end();
    let asked = |scripted: &Scripted| scripted.asked().iter().filter(|what| what.starts_with("POST")).count();
    for (case, streams, images, good, pulls_seen) in [
        ("cut, and nothing is lost", vec![cut()], vec![image()], true, 1),
        ("an orphaned carriage return", vec![orphan()], vec![image()], true, 1),
        ("cut, then whole", vec![cut(), whole()], vec![absent(), image()], true, 2),
        ("closed without a word, then whole", vec![Reply::close(), whole()], vec![absent(), image()], true, 2),
        ("cut for ever", vec![cut()], vec![absent()], false, 2),
        ("done, and not there", vec![whole()], vec![absent()], false, 2),
        ("an empty stream, and not there", vec![Reply::chunked().end()], vec![absent()], false, 2),
    ] {
        let scripted = pulls(streams, images);
        let (pulled, _) = pull(&scripted).await;
        assert_eq!((pulled.is_ok(), asked(&scripted)), (good, pulls_seen), "{case}: {pulled:?}");
        if let Err(error) = pulled {
            assert_eq!(error.exit().0, 69, "{case}");
            assert!(error.to_string().contains(PINNED), "{case}: {error}");
        }
    }
}

#[tokio::test]
async fn an_engines_own_no_to_a_pull_is_final() {
    let detail = "{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}\r\n";
    for (stream, words) in [
        (Reply::chunked().chunk("{\"status\":\"Pulling\"}\r\n").chunk(detail).end(), "manifest unknown"),
        (Reply::chunked().chunk("{\"errorDetail\":{\"code\":1}}\r\n").end(), "without words"),
        (Reply::error(500, "dial tcp: lookup reg: no such host"), "no such host"),
        (Reply::error(404, "pull access denied"), "pull access denied"),
    ] {
        let scripted = pulls(vec![stream], vec![image()]);
        let (pulled, _) = pull(&scripted).await;
        let error = pulled.unwrap_err();
        assert!(matches!(error, EngineError::Refused { .. }) && error.to_string().contains(words), "{error:?}");
        assert_eq!(scripted.asked(), ["POST /images/create"]);
    }
}

#[tokio::test]
async fn nothing_but_a_digest_is_pulled() {
    let scripted = docker().start();
    let engine = connect(&scripted).await.unwrap();
    let short = "reg/app@sha256:aaaa";
    let upper = PINNED.to_uppercase();
    for reference in ["reg/app", "reg/app:1.2", "localhost:5000/app", short, &upper, &PINNED[7..]] {
        let error = engine.pull(reference, None, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("without a digest"), "{reference}: {error}");
    }
    assert_eq!(scripted.asked(), [""; 0]);
}

/// What an engine answers to `load`.
async fn load(reply: Reply, archive: impl Read + Send + 'static) -> (Scripted, Result<Vec<String>, EngineError>) {
    let scripted = docker().on("POST /images/load", reply).start();
    let engine = connect(&scripted).await.unwrap();
    let loaded = engine.load(archive).await;
    (scripted, loaded)
}

#[tokio::test]
async fn a_load_sends_the_archive_and_says_what_the_engine_took() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let said =
        "{\"stream\":\"Loaded image ID: sha256:1\\n\"}\r\n{\"stream\":\"Loaded image: localhost:5000/app:1\\n\"}\r\n";
    let (scripted, loaded) = load(Reply::chunked().chunk(said).end(), Cursor::new(bytes.clone())).await;
    assert_eq!(loaded.unwrap(), ["sha256:1", "localhost:5000/app:1"]);
    assert!(scripted.seen()[2].body == bytes, "every byte arrived, in order");
    let (_, loaded) = load(Reply::chunked().chunk(format!("{said}\r")).end(), Cursor::new(vec![1])).await;
    assert_eq!(loaded.unwrap().len(), 2, "an orphaned carriage return behind a good stream");
}

#[tokio::test]
async fn an_archive_that_is_not_taken_is_an_error_whatever_way_it_is_said() {
    let archive = || Cursor::new(vec![0; 1 << 20]);
    let detail = "{\"errorDetail\":{\"message\":\"unexpected EOF\"},\"error\":\"unexpected EOF\"}\r\n";
    for (reply, words) in [
        (Reply::chunked().chunk(detail).end(), "unexpected EOF"),
        (Reply::chunked().end(), "nothing of an image"),
        (Reply::chunked().chunk("{\"stream\":\"Loading layer\"}\r\n").end(), "nothing of an image"),
        (Reply::error(500, "no space left on device"), "no space left"),
        (Reply::close(), "lost while loading"),
        (Reply::close().unread(), "lost while loading"),
    ] {
        let (_, loaded) = load(reply, archive()).await;
        let error = loaded.unwrap_err();
        assert!(error.to_string().contains(words) && error.exit().0 == 69, "{words}: {error}");
        if words == "no space left" {
            assert!(error.hint().contains("make room"), "{}", error.hint());
        }
    }
    // What breaks here is not the engine's fault, and it must not take half an archive for a whole one.
    struct Bad(usize);
    impl Read for Bad {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 { Err(io::Error::other("the disk is gone")) } else { Ok(buffer.len()) }
        }
    }
    let (scripted, loaded) = load(Reply::chunked().chunk("{\"stream\":\"Loaded image: x\"}\r\n").end(), Bad(0)).await;
    let error = loaded.unwrap_err();
    assert!(
        matches!(error, EngineError::Unsendable { .. }) && error.to_string().contains("the disk is gone"),
        "{error:?}"
    );
    assert!(scripted.seen().iter().all(|seen| seen.body.len() < 4 << 20));
}

#[tokio::test]
async fn an_upload_sends_the_tree_and_an_early_no_is_heard() {
    let tree = vec![7; 2 << 20];
    let upload = async |reply: Reply| {
        let scripted = docker().on("PUT /containers/c/archive", reply).start();
        let engine = connect(&scripted).await.unwrap();
        (engine.upload("c", "/ft/in", Cursor::new(tree.clone())).await, scripted)
    };
    let (sent, scripted) = upload(Reply::json(200, "")).await;
    sent.unwrap();
    assert!(scripted.seen()[2].body == tree && scripted.seen()[2].query.contains("path=%2Fft%2Fin"));
    let (sent, _) = upload(Reply::error(403, "container rootfs is marked read-only")).await;
    assert!(sent.unwrap_err().to_string().contains("marked read-only"));
    let (sent, _) = upload(Reply::error(404, "No such container: c")).await;
    assert!(sent.unwrap_err().is_absent());
    let (sent, _) = upload(Reply::close().unread()).await;
    assert!(matches!(sent.unwrap_err(), EngineError::Lost { .. }));
}

#[tokio::test]
async fn an_archive_that_comes_out_cut_is_an_error() {
    let saved = async |reply: Reply| {
        let scripted = docker().on("GET /images/x/get", reply).start();
        let engine = connect(&scripted).await.unwrap();
        let mut bytes = Vec::new();
        let mut stream = engine.save("x");
        while let Some(piece) = stream.next().await {
            bytes.extend(piece?);
        }
        Ok::<_, EngineError>(bytes)
    };
    assert_eq!(saved(Reply::chunked().chunk("ab").chunk("c").end()).await.unwrap(), b"abc");
    assert!(matches!(saved(Reply::chunked().chunk("ab")).await.unwrap_err(), EngineError::Lost { .. }));
    assert!(saved(Reply::error(404, "No such image: x")).await.unwrap_err().is_absent());
}

/// A docker-archive of one layer with these files; its image is called by `tag`, and its id is returned as well.
pub fn archive(tag: &str, files: &[(&str, &[u8])]) -> (Vec<u8>, String) {
    let tar = |files: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let layer = tar(files);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Labels": { "ft.test": "engine" } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] }
    })
    .to_string();
    let id = hex::encode(Sha256::digest(&config));
    let manifest = json!([{ "Config": format!("{id}.json"), "RepoTags": [tag], "Layers": ["layer.tar"] }]).to_string();
    let name = format!("{id}.json");
    (
        tar(&[(&name, config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]),
        format!("sha256:{id}"),
    )
}

/// Removes an image of these tests, and its containers are gone before.
pub async fn forget(engine: &Engine, name: &str) {
    let options = RemoveImageOptions { force: true, ..Default::default() };
    let _ = engine.docker().remove_image(name, Some(options), None).await;
}

#[tokio::test]
async fn a_real_engine_takes_an_image_gives_it_back_and_refuses_one_that_is_cut() {
    let engine = real().await;
    let tag = "ft-engine-test/load:1";
    let (bytes, id) = archive(tag, &[("bin/thing", b"a file of its own")]);
    assert!(engine.image(&id).await.unwrap().is_none());
    // A layer that is cut short; nothing is left of it that could be used.
    let error = engine.load(Cursor::new(bytes[..bytes.len() / 2].to_vec())).await.unwrap_err();
    assert_eq!(error.exit().0, 69, "{error}");
    assert!(engine.image(&id).await.unwrap().is_none());
    let loaded = engine.load(Cursor::new(bytes)).await.unwrap();
    assert_eq!(loaded, [tag]);
    let image = engine.image(tag).await.unwrap().unwrap();
    assert_eq!(image.id.as_deref(), Some(id.as_str()));
    let mut out = Vec::new();
    let mut stream = engine.save(tag);
    while let Some(piece) = stream.next().await {
        out.extend(piece.unwrap());
    }
    let names: Vec<String> = tar::Archive::new(Cursor::new(out))
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "manifest.json"), "{names:?}");
    forget(&engine, tag).await;
    assert!(engine.image(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_tree_goes_into_the_volume_of_a_created_container_and_into_nothing_else() {
    let engine = real().await;
    let tag = "ft-engine-test/upload:1";
    let (bytes, _) = archive(tag, &[("bin/thing", b"a file")]);
    engine.load(Cursor::new(bytes)).await.unwrap();
    let body = ContainerCreateBody {
        image: Some(tag.to_owned()),
        cmd: Some(vec!["/bin/thing".to_owned()]),
        volumes: Some(vec!["/ft/in".to_owned()]),
        labels: Some(HashMap::from([("ft.test".to_owned(), "engine".to_owned())])),
        host_config: Some(HostConfig { readonly_rootfs: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let created = engine.docker().create_container(None::<CreateContainerOptions>, body).await.unwrap();
    let tree = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(0o444);
        header.set_mtime(1);
        tar.append_data(&mut header, "file", &b"tree"[..]).unwrap();
        tar.into_inner().unwrap()
    };
    engine.upload(&created.id, "/ft/in", Cursor::new(tree.clone())).await.unwrap();
    let error = engine.upload(&created.id, "/bin", Cursor::new(tree.clone())).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    let error = engine.upload(&created.id, "/ft/in", Cursor::new(tree[..300].to_vec())).await.unwrap_err();
    assert_eq!(error.exit().0, 69, "a tree that is cut: {error}");
    let options = DownloadFromContainerOptions { path: "/ft/in/file".to_owned() };
    let mut stream = engine.docker().download_from_container(&created.id, Some(options));
    let mut out = Vec::new();
    while let Some(piece) = stream.next().await {
        out.extend(piece.unwrap());
    }
    let mut text = String::new();
    tar::Archive::new(Cursor::new(out)).entries().unwrap().next().unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "tree");
    assert!(engine.remove_container(&created.id).await.unwrap());
    assert!(!engine.remove_container(&created.id).await.unwrap(), "gone already is no error");
    forget(&engine, tag).await;
}
