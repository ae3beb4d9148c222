//! Real engines that die, fill up and sit behind TLS; a real registry that is cut off.

use crate::images::{archive, forget};
use crate::private::{Cutter, Private, Registry, free_port};
use crate::real;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, PushImageOptions, StartContainerOptions, TagImageOptions};
use firsttry::engine::{Engine, EngineError, Labels, Owner, Where};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

async fn at(host: &str) -> Engine {
    Engine::connect(&Where { host: Some(host.to_owned()), ..Where::default() }).await.unwrap()
}

/// A program that waits, whatever the image has.
fn waiter() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("wait.c"), dir.path().join("wait"));
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n").unwrap();
    let built = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
    std::fs::read(program).unwrap()
}

#[tokio::test]
async fn an_engine_that_is_killed_is_lost_and_after_its_restart_the_dead_are_swept() {
    let mut private = Private::start();
    let engine = at(&private.host()).await;
    assert_ne!(engine.facts().id, real().await.facts().id, "an engine of its own");
    let (bytes, _) = archive("ft-engine-test/wait:1", &[("wait", &waiter())]);
    engine.load(Cursor::new(bytes)).await.unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = Owner { pid: child.id(), started: 1, ..Owner::this() };
    child.wait().unwrap();
    let start = async |owner: Owner, run: &str| {
        let labels = Labels { run: run.into(), owner, deadline: engine.now() + 600, repository: "/r".into() };
        let body = ContainerCreateBody {
            image: Some("ft-engine-test/wait:1".to_owned()),
            cmd: Some(vec!["/wait".to_owned()]),
            labels: Some(labels.to_map()),
            host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..Default::default() }),
            ..Default::default()
        };
        let id = engine.docker().create_container(None::<CreateContainerOptions>, body).await.unwrap().id;
        engine.docker().start_container(&id, None::<StartContainerOptions>).await.unwrap();
        id
    };
    let gone = start(dead, "dead").await;
    let live = start(Owner::this(), "live").await;

    private.kill();
    let error = engine.sweep(&Owner::this()).await.unwrap_err();
    assert!(matches!(error, EngineError::Lost { .. }) && error.exit().0 == 69, "{error:?}");
    assert!(
        error.to_string().contains("Connection refused") && error.to_string().contains("listing containers"),
        "{error}"
    );
    let again = Engine::connect(&Where { host: Some(private.host()), ..Where::default() }).await.unwrap_err();
    assert_eq!(again.exit().0, 105, "before a run, the same is a finding: {again}");

    private.restart();
    let swept = engine.sweep(&Owner::this()).await.unwrap();
    assert_eq!((swept.containers, swept.left), (vec!["dead".to_owned()], vec![]));
    assert!(!engine.remove_container(&gone).await.unwrap());
    assert!(engine.remove_container(&live).await.unwrap());
}

#[tokio::test]
async fn an_engine_whose_disk_is_full_says_so_and_has_nothing_half_loaded() {
    let private = Private::start_with(&[], |dir| {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(dir.join("data")).status();
        assert!(mounted.unwrap().success());
    });
    let engine = at(&private.host()).await;
    let (bytes, id) = archive("ft-engine-test/big:1", &[("big", &vec![7; 40 << 20])]);
    let error = engine.load(Cursor::new(bytes.clone())).await.unwrap_err();
    assert!(error.to_string().contains("no space left on device") && error.exit().0 == 69, "{error}");
    assert!(error.hint().contains("make room"), "{}", error.hint());
    assert!(engine.image(&id).await.unwrap().is_none());
    let grown = Command::new("mount").args(["-o", "remount,size=400m"]).arg(private.dir().join("data")).status();
    assert!(grown.unwrap().success());
    engine.load(Cursor::new(bytes)).await.unwrap();
    assert_eq!(engine.image("ft-engine-test/big:1").await.unwrap().unwrap().id, Some(id));
}

/// Pushes an image with one incompressible layer, and gives its reference by digest.
async fn pushed(engine: &Engine, registry: u16, name: &str) -> (String, String) {
    // The same on every run, and no two pieces of it alike.
    let layer: Vec<u8> = (0..200_000_u32).flat_map(|n| Sha256::digest(n.to_le_bytes())).collect();
    let local = format!("ft-engine-test/{name}:1");
    let (bytes, id) = archive(&local, &[(name, &layer)]);
    engine.load(Cursor::new(bytes)).await.unwrap();
    let repository = format!("127.0.0.1:{registry}/{name}");
    let tag = TagImageOptions { repo: Some(repository.clone()), tag: Some("1".to_owned()) };
    engine.docker().tag_image(&local, Some(tag)).await.unwrap();
    let options = PushImageOptions { tag: Some("1".to_owned()), ..Default::default() };
    let docker = engine.patient();
    let mut stream = docker.push_image(&repository, Some(options), None);
    while let Some(said) = stream.next().await {
        said.unwrap();
    }
    let digests = engine.image(&local).await.unwrap().unwrap().repo_digests.unwrap();
    let reference = digests.into_iter().find(|it| it.starts_with(&repository)).unwrap();
    forget(engine, &local).await;
    forget(engine, &format!("{repository}:1")).await;
    forget(engine, &reference).await;
    assert!(engine.image(&id).await.unwrap().is_none());
    (reference, id)
}

#[tokio::test]
async fn an_image_comes_from_a_registry_by_its_digest_layer_by_layer() {
    let registry = Registry::start();
    let engine = real().await;
    let (reference, id) = pushed(&engine, registry.port, "pull").await;
    let mut seen = Vec::new();
    let image = engine.pull(&reference, None, |progress| seen.push(progress)).await.unwrap();
    assert_eq!(image.id.as_deref(), Some(id.as_str()));
    assert!(image.repo_digests.unwrap().contains(&reference));
    let done = seen.iter().find(|it| it.phase == "Pull complete").expect("its one layer");
    let loading = seen.iter().filter(|it| it.layer == done.layer && it.phase == "Downloading");
    assert!(loading.clone().count() > 0 && loading.clone().all(|it| it.total.is_some()), "{seen:?}");
    let wrong = format!("{}@sha256:{}", reference.split('@').next().unwrap(), "0".repeat(64));
    let error = engine.pull(&wrong, None, |_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }) && error.to_string().contains(&wrong), "{error:?}");
    forget(&engine, &reference).await;
}

#[tokio::test]
async fn a_pull_that_is_cut_in_the_middle_leaves_nothing_and_works_when_it_is_tried_again() {
    let registry = Registry::start();
    let cutter = Cutter::start(registry.port);
    let private = Private::start();
    let engine = at(&private.host()).await;
    let (reference, id) = pushed(&engine, cutter.port, "cut").await;
    cutter.allow(2 << 20);
    let error = engine.pull(&reference, None, |_| {}).await.unwrap_err();
    assert_eq!(error.exit().0, 69, "{error}");
    assert!(engine.image(&reference).await.unwrap().is_none() && engine.image(&id).await.unwrap().is_none());
    cutter.allow(usize::MAX);
    assert_eq!(engine.pull(&reference, None, |_| {}).await.unwrap().id, Some(id));
}

/// A new authority, and an engine's and a client's certificate of it, in these directories.
fn certificates(dir: &Path) {
    let run = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
    std::fs::write(dir.join("server.ext"), extensions).unwrap();
    std::fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    let authority = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    run(&[&authority[..], &["-subj", "/CN=ft tests", "-keyout", "ca.key", "-out", "ca.pem"]].concat());
    for (name, subject) in [("server", "/CN=engine"), ("client", "/CN=client")] {
        let (key, request, certificate, extension) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        let ask = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        run(&[&ask[..], &["-subj", subject, "-keyout", &key, "-out", &request]].concat());
        let sign =
            ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
        run(&[&sign[..], &["-extfile", &extension, "-out", &certificate]].concat());
    }
}

/// A directory as `DOCKER_CERT_PATH` wants it.
fn material(dir: &Path, files: &[(&str, &Path)]) -> std::path::PathBuf {
    std::fs::create_dir(dir).unwrap();
    for (name, from) in files {
        std::fs::copy(from, dir.join(name)).unwrap();
    }
    dir.to_owned()
}

#[tokio::test]
async fn an_engine_behind_tls_is_reached_by_who_can_prove_it_and_by_nobody_else() {
    let port = free_port();
    let outer = tempfile::tempdir().unwrap();
    let (made, other) = (outer.path().join("made"), outer.path().join("other"));
    for dir in [&made, &other] {
        std::fs::create_dir(dir).unwrap();
        certificates(dir);
    }
    let file = |name: &str| made.join(name);
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let arguments = [
        "--tlsverify".to_owned(),
        option("tlscacert", &file("ca.pem")),
        option("tlscert", &file("server.pem")),
        option("tlskey", &file("server.key")),
        format!("--host=tcp://127.0.0.1:{port}"),
    ];
    let _private = Private::start_with(&arguments, |_| ());

    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let good = material(&outer.path().join("good"), &[("ca.pem", &ca), ("cert.pem", &cert), ("key.pem", &key)]);
    let places = |directory: &Path, verify: bool| Where {
        host: Some(format!("tcp://127.0.0.1:{port}")),
        certificates: Some(directory.to_owned()),
        tls_verify: verify,
        tls: true,
        ..Where::default()
    };
    let engine = Engine::connect(&places(&good, true)).await.unwrap();
    assert_eq!(engine.facts().endpoint, format!("tcp://127.0.0.1:{port}"));
    assert!(engine.image("absent").await.unwrap().is_none());
    // The same as a context, which brings its own files.
    let folder = hex::encode(Sha256::digest("far"));
    let config = outer.path().join("config");
    std::fs::create_dir_all(config.join("contexts/meta").join(&folder)).unwrap();
    std::fs::create_dir_all(config.join("contexts/tls").join(&folder)).unwrap();
    let meta =
        serde_json::json!({ "Name": "far", "Endpoints": { "docker": { "Host": format!("tcp://127.0.0.1:{port}") } } });
    std::fs::write(config.join("contexts/meta").join(&folder).join("meta.json"), meta.to_string()).unwrap();
    let kept = config.join("contexts/tls").join(&folder).join("docker");
    material(&kept, &[("ca.pem", &ca), ("cert.pem", &cert), ("key.pem", &key)]);
    let context = Where { context: Some("far".into()), config: Some(config), ..Where::default() };
    assert_eq!(Engine::connect(&context).await.unwrap().facts().from, "DOCKER_CONTEXT (far)");

    let strange_ca = material(
        &outer.path().join("strange-ca"),
        &[("ca.pem", &other.join("ca.pem")), ("cert.pem", &cert), ("key.pem", &key)],
    );
    let nobody = material(&outer.path().join("nobody"), &[("ca.pem", &ca)]);
    let stranger = material(
        &outer.path().join("stranger"),
        &[("ca.pem", &ca), ("cert.pem", &other.join("client.pem")), ("key.pem", &other.join("client.key"))],
    );
    let half = material(&outer.path().join("half"), &[("ca.pem", &ca), ("cert.pem", &cert)]);
    let empty = material(&outer.path().join("empty"), &[]);
    std::fs::write(empty.join("ca.pem"), "nothing").unwrap();
    let mut named = places(&good, true);
    named.host = Some(format!("tcp://localhost:{port}"));
    let mut plain = places(&good, false);
    plain.tls = false;
    for (case, places, why, fix) in [
        (
            "an authority that did not sign the engine's",
            places(&strange_ca, true),
            "invalid peer certificate",
            "compare ca.pem",
        ),
        ("a name that is not in it", named, "certificate not valid for name", "compare ca.pem"),
        ("no certificate of ours", places(&nobody, true), "ertificate", "cert.pem"),
        ("a certificate of another authority", places(&stranger, true), "ertificate", "cert.pem"),
        ("a key that is missing", places(&half, true), "its key.pem is not", "must hold ca.pem"),
        ("an authority that is none", places(&empty, true), "holds no certificate", "must hold ca.pem"),
        ("no TLS at all", plain, "HTTPS", "DOCKER_TLS_VERIFY=1"),
    ] {
        let error = Engine::connect(&places).await.unwrap_err();
        assert_eq!(error.exit().0, 105, "{case}");
        let (said, hint) = (error.to_string(), error.hint());
        assert!(said.contains(why) && said.contains(&port.to_string()), "{case}: {said}");
        assert!(hint.contains(fix), "{case}: {said}: {hint}");
    }
    // Encryption without knowing whom it is with was asked for: the authority does not count, our own proof does.
    Engine::connect(&places(&strange_ca, false)).await.unwrap();
    assert!(Engine::connect(&places(&nobody, false)).await.is_err());
}
