//! Pulls by digest, from a real registry on this machine's loopback, which engines talk to without TLS.

use crate::harness::{Clone, Image, docker, ft, images_make, output};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A registry behind a proxy that can cut an answer.
struct Registry {
    process: Child,
    /// Where engines reach it.
    port: u16,
    /// So many bytes of answers pass; then one connection is cut, and all bytes pass. Negative: never.
    cut_after: Arc<AtomicI64>,
    folder: TempDir,
}

impl Registry {
    fn start() -> Registry {
        Registry::with("")
    }

    /// With more in its configuration.
    fn with(more: &str) -> Registry {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/registry");
        let program = output(&mut Command::new(script));
        let folder = tempfile::tempdir().unwrap();
        let behind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = folder.path().join("config.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{behind}\", relativeurls: true}}\n{more}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program.trim());
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(behind).is_err() {
            assert!(Instant::now() < until, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        let cut_after = Arc::new(AtomicI64::new(-1));
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = front.local_addr().unwrap().port();
        let left = Arc::clone(&cut_after);
        std::thread::spawn(move || {
            for client in front.incoming().flatten() {
                let Ok(server) = TcpStream::connect(behind) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(from, to, &AtomicI64::new(-1)));
                let left = Arc::clone(&left);
                std::thread::spawn(move || pass(server, client, &left));
            }
        });
        Registry { process, port, cut_after, folder }
    }

    fn name(&self, rest: &str) -> String {
        format!("localhost:{}/ft-images/{rest}", self.port)
    }

    /// Where the content of a blob is kept.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64) {
    let mut buffer = [0; 1 << 14];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
        if left.load(Ordering::SeqCst) >= 0 && left.fetch_sub(read as i64, Ordering::SeqCst) < read as i64 {
            left.store(-1, Ordering::SeqCst);
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The one layer of the image that a manifest names.
fn layer_of(manifest: &Path) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_pull_by_digest_gives_the_image_of_the_lock_also_when_it_was_cut() {
    let registry = Registry::start();
    let clone = Clone::new();
    let musl = images_make("musl");
    let name = registry.name("musl:1");
    // An image that nobody else has, so that the engine must fetch its layer.
    let root = clone.path().join("root");
    fs::create_dir(&root).unwrap();
    // Nothing that the way to the registry could compress.
    let noise: Vec<u8> = (0..100_000u32).flat_map(|n| <[u8; 32]>::from(Sha256::digest(n.to_be_bytes()))).collect();
    fs::write(root.join("noise"), noise).unwrap();
    let build = ["image", "build", "root", "-o", "a.tar", "--name", &name, "--load"];
    let id = output(ft(clone.path()).args(build)).trim().to_owned();
    assert_ne!(id, musl);
    let gone = Image(id.clone());
    docker(&["push", "--quiet", &name]);
    let digests = docker(&["image", "inspect", "--format", "{{join .RepoDigests \"\\n\"}}", &name]);
    let pinned = digests.lines().find(|known| known.starts_with(&registry.name("musl"))).unwrap().to_owned();
    // Pinned from a registry, the lock has the registry's digest, and the configuration's beside it.
    output(ft(clone.path()).args(["lock", "--image", &name]));
    let lock = fs::read_to_string(clone.path().join("ci/parity.lock.json")).unwrap();
    assert!(
        lock.contains(&format!("\"image\": \"{pinned}\"")) && lock.contains(&format!("\"config_digest\": \"{id}\""))
    );
    drop(gone);
    clone.refused(&["image", "verify"], 105, &["has no image", &pinned]);

    // Other bytes under the layer's digest: nothing comes of it.
    let manifest = pinned.split_once('@').unwrap().1;
    let layer = registry.blob(&layer_of(&registry.blob(manifest)));
    let good = fs::read(&layer).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&layer, bad).unwrap();
    clone.refused(&["image", "build", &pinned, "-o", "b.tar"], 69, &["pulling", &pinned]);
    assert!(docker(&["images", "--all", "--quiet", "--no-trunc"]).lines().all(|have| have != id));
    fs::write(&layer, &good).unwrap();

    // Cut once, in the middle of the layer.
    let _gone = Image(id.clone());
    registry.cut_after.store(1 << 19, Ordering::SeqCst);
    assert_eq!(output(ft(clone.path()).args(["image", "build", &pinned, "-o", "b.tar"])).trim(), id);
    assert_eq!(registry.cut_after.load(Ordering::SeqCst), -1, "the control: a connection was cut");
    let said = output(ft(clone.path()).args(["image", "verify"]));
    assert!(said.contains("is the image of the lock (config digest)"), "{said}");
    // With the registry's digest alone, as a person pins it by hand.
    fs::write(
        clone.path().join("ci/parity.lock.json"),
        format!(
            "{{\"version\": 2, \"python\": \"3.11\", \"tools\": {{}}, \"container\": {{\"image\": \"{pinned}\"}}}}"
        ),
    )
    .unwrap();
    let said = output(ft(clone.path()).args(["image", "verify"]));
    assert!(said.contains("is the image of the lock (manifest digest)"), "{said}");
    // Loaded and not pulled, this engine knows no digest of a registry: said so, and not believed.
    docker(&["rmi", "--force", &id]);
    output(ft(clone.path()).args(["image", "load", "b.tar", "--as", "ft-images/loaded:1"]));
    let says = ["PARITY-051", "the engine knows no digest of it that the lock has"];
    clone.refused(&["image", "verify", "ft-images/loaded:1"], 105, &says);
    // A registry that lacks it.
    let other = format!("{}@sha256:{}", registry.name("musl"), "1".repeat(64));
    clone.refused(&["image", "build", &other, "-o", "c.tar"], 69, &["pulling", "not found"]);
}

#[test]
fn a_registry_that_wants_a_login_gets_that_of_the_docker_command_line() {
    let dir = tempfile::tempdir().unwrap();
    // `someone` and `word`, as htpasswd(1) writes it with bcrypt.
    let users = dir.path().join("users");
    fs::write(&users, "someone:$2b$04$oyU/6LfUGNONl0Ch8A1DhuCBicMUJRnCL8bSb8gOGDaTD.VmL59mC\n").unwrap();
    let registry = Registry::with(&format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}", users.display()));
    let clone = Clone::new();
    fs::create_dir(clone.path().join("root")).unwrap();
    fs::write(clone.path().join("root/mark"), "behind a login").unwrap();
    let name = registry.name("private:1");
    let build = ["image", "build", "root", "-o", "a.tar", "--name", &name, "--load"];
    let id = output(ft(clone.path()).args(build)).trim().to_owned();
    let gone = Image(id.clone());
    let (login, none) = (dir.path().join("login"), dir.path().join("none"));
    let auths = format!("{{\"auths\": {{\"localhost:{}\": {{\"auth\": \"c29tZW9uZTp3b3Jk\"}}}}}}", registry.port);
    for (folder, config) in [(&login, auths.as_str()), (&none, "{}")] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("config.json"), config).unwrap();
    }
    docker(&["--config", login.to_str().unwrap(), "push", "--quiet", &name]);
    let digests = docker(&["image", "inspect", "--format", "{{join .RepoDigests \"\\n\"}}", &name]);
    let pinned = digests.lines().find(|known| known.starts_with(&registry.name("private"))).unwrap().to_owned();
    drop(gone);
    let pull = |config: &Path| {
        let args = ["image", "build", &pinned, "-o", "b.tar"];
        ft(clone.path()).args(args).env("DOCKER_CONFIG", config).output().unwrap()
    };
    let refused = pull(&none);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(said.contains(&pinned) && said.contains("docker login REGISTRY"), "{said}");
    let _gone = Image(id.clone());
    let pulled = pull(&login);
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), id, "{said}");
    assert!(!said.contains("word") && !said.contains("c29tZW9uZTp3b3Jk"), "{said}");
}
