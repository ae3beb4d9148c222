//! An engine behind a real ssh server, asked by the program itself.

use crate::private::free_port;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An ssh server of this test, and an `ssh` program that knows it and nothing of the user's own configuration.
struct Server {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("ft-ssh-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user", "stranger"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status();
            assert!(made.unwrap().success());
        }
        std::fs::copy(at("user.pub"), at("authorized_keys")).unwrap();
        let port = free_port();
        let key = std::fs::read_to_string(at("host.pub")).unwrap();
        std::fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
            at("host"),
            at("authorized_keys")
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        // What sshd wants to be there, and the package's service makes.
        let _ = std::fs::create_dir_all("/run/sshd");
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &at("sshd_config")])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("openssh-server is installed (ci/test does it)");
        let until = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "sshd: {}", std::fs::read_to_string(at("log")).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
        Server { dir, child, port }
    }

    /// Asks the doctor, with this key in ssh's configuration.
    fn doctor(&self, key: &str, host: &str) -> serde_json::Value {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let config =
            format!("IdentitiesOnly yes\nIdentityFile {}\nUserKnownHostsFile {}\n", at(key), at("known_hosts"));
        std::fs::write(at("ssh_config"), config).unwrap();
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", at("ssh_config"));
        write_program(&bin.join("ssh"), &script);
        let Output { stdout, .. } = Command::new(env!("CARGO_BIN_EXE_ft"))
            .args(["doctor", "--json"])
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("DOCKER_HOST", host)
            .env_remove("SSH_AUTH_SOCK")
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&stdout).unwrap()["engines"][0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_engine_behind_ssh_is_reached_and_a_login_that_fails_says_why() {
    let server = Server::start();
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let host = format!("ssh://{}@127.0.0.1:{}", user.trim(), server.port);
    let engine = server.doctor("user", &host);
    assert_eq!(engine["endpoint"], host.as_str());
    assert!(engine["answers"].as_bool().unwrap(), "{engine}");
    assert!(engine["detail"].as_str().unwrap().contains("API 1."), "{engine}");
    // A socket there that is not the default one.
    let engine = server.doctor("user", &format!("{host}/run/docker.sock"));
    assert!(engine["answers"].as_bool().unwrap(), "{engine}");

    let refused = server.doctor("stranger", &host);
    let detail = refused["detail"].as_str().unwrap();
    assert!(!refused["answers"].as_bool().unwrap() && detail.contains("Permission denied"), "{refused}");
    assert!(refused["fix"].as_str().unwrap().contains("docker version"), "{refused}");
    let nowhere = server.doctor("user", &format!("{host}/nowhere/docker.sock"));
    assert!(!nowhere["answers"].as_bool().unwrap(), "{nowhere}");
    let down = server.doctor("user", &format!("ssh://127.0.0.1:{}", free_port()));
    assert!(down["detail"].as_str().unwrap().contains("Connection refused"), "{down}");
}
