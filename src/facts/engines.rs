//! Which container engines this user can reach: where the Docker command line would look, and what answers there.

use crate::doctor::Engine;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The largest answer that is read, in bytes.
const LARGEST: u64 = 256 * 1024;

/// What of the caller's environment says where engines are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Where {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, else `HOME/.docker`.
    pub config: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`: sockets of rootless engines.
    pub runtime_dir: Option<PathBuf>,
}

/// Looks where the Docker command line looks (`DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context, then the
/// default socket) and at the sockets of rootless Docker and Podman, and asks each for its version. The first one is
/// the one that would be used.
#[must_use]
pub fn find(places: &Where) -> Vec<Engine> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |endpoint: String, from: String| {
        if found.iter().all(|(other, _)| *other != endpoint) {
            found.push((endpoint, from));
        }
    };
    let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let mut chosen = false;
    if let Some(host) = given(&places.host) {
        add(host, "DOCKER_HOST".to_owned());
        chosen = true;
    }
    let (context, from) = match given(&places.context) {
        Some(context) => (Some(context), "DOCKER_CONTEXT"),
        None => (places.config.as_deref().and_then(current_context), "the current docker context"),
    };
    let mut broken = None;
    if let Some(context) = context.filter(|name| name != "default" && !chosen) {
        match places.config.as_deref().and_then(|config| endpoint_of(config, &context)) {
            Some(endpoint) => add(endpoint, format!("{from} ({context})")),
            None => {
                broken = Some(Engine {
                    endpoint: String::new(),
                    from: format!("{from} ({context})"),
                    answers: false,
                    detail: "there is no such context".to_owned(),
                    fix: "`docker context ls` shows the contexts; `docker context use default` takes the default"
                        .to_owned(),
                });
            }
        }
    }
    add("unix:///var/run/docker.sock".to_owned(), "default socket".to_owned());
    let own = places
        .runtime_dir
        .as_deref()
        .map(|dir| [(dir.join("docker.sock"), "rootless Docker"), (dir.join("podman/podman.sock"), "rootless Podman")]);
    let system = [(PathBuf::from("/run/podman/podman.sock"), "Podman")];
    for (socket, whose) in own.into_iter().flatten().chain(system) {
        if socket.exists() {
            add(format!("unix://{}", socket.display()), whose.to_owned());
        }
    }
    broken.into_iter().chain(found.into_iter().map(|(endpoint, from)| ask(endpoint, from))).collect()
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

fn current_context(config: &Path) -> Option<String> {
    serde_json::from_slice::<Config>(&std::fs::read(config.join("config.json")).ok()?).ok()?.current_context
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "Endpoints")]
    endpoints: std::collections::BTreeMap<String, MetaEndpoint>,
}

#[derive(Deserialize)]
struct MetaEndpoint {
    #[serde(rename = "Host")]
    host: Option<String>,
}

/// A context's endpoint: its folder is named by the sha256 of its name.
fn endpoint_of(config: &Path, context: &str) -> Option<String> {
    let folder = hex::encode(Sha256::digest(context));
    let meta = std::fs::read(config.join("contexts/meta").join(folder).join("meta.json")).ok()?;
    serde_json::from_slice::<Meta>(&meta).ok()?.endpoints.remove("docker")?.host.filter(|host| !host.is_empty())
}

fn ask(endpoint: String, from: String) -> Engine {
    let answer = match endpoint.split_once("://") {
        Some(("unix", path)) => unix(Path::new(path)),
        Some(("tcp" | "http", address)) => tcp(address.trim_end_matches('/')),
        Some(("ssh", _)) => Err(Silence::new("not tried: reached through ssh", "try it with `docker version`")),
        _ => Err(Silence::new(
            "not an address that is known: unix://, tcp:// or ssh://",
            "correct DOCKER_HOST or the context",
        )),
    };
    let (answers, detail, fix) = match answer {
        Ok(version) => (true, version, String::new()),
        Err(silence) => (false, silence.detail, silence.fix),
    };
    Engine { endpoint, from, answers, detail, fix }
}

/// Why an engine does not answer, and what to do.
struct Silence {
    detail: String,
    fix: String,
}

impl Silence {
    fn new(detail: impl Into<String>, fix: impl Into<String>) -> Silence {
        Silence { detail: detail.into(), fix: fix.into() }
    }
}

#[cfg(unix)]
fn unix(path: &Path) -> Result<String, Silence> {
    use std::os::unix::net::UnixStream;
    let connect = || -> io::Result<UnixStream> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    versions(connect).map_err(|error| {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => "install Docker or Podman, or start its service; only container mode needs it",
            io::ErrorKind::PermissionDenied => "add this user to the socket's group (`sudo usermod -aG docker $USER`, then log in again), or use a rootless engine",
            io::ErrorKind::ConnectionRefused => "start the engine's service (`sudo systemctl start docker`)",
            _ => "look at the engine's own log",
        };
        Silence::new(error.to_string(), fix)
    })
}

#[cfg(not(unix))]
fn unix(_: &Path) -> Result<String, Silence> {
    Err(Silence::new("not tried: no unix sockets here", ""))
}

fn tcp(address: &str) -> Result<String, Silence> {
    use std::net::{TcpStream, ToSocketAddrs};
    let connect = || -> io::Result<TcpStream> {
        let first = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&first, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    versions(connect)
        .map_err(|error| Silence::new(format!("{error} (asked without TLS)"), "try it with `docker version`"))
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "Version", default)]
    version: String,
    #[serde(rename = "ApiVersion", default)]
    api: String,
    #[serde(rename = "Os", default)]
    os: String,
    #[serde(rename = "Arch", default)]
    arch: String,
    #[serde(rename = "Components", default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "Name", default)]
    name: String,
}

fn versions<S: Read + Write>(connect: impl Fn() -> io::Result<S>) -> io::Result<String> {
    get(connect()?, "/_ping")?;
    let body = get(connect()?, "/version")?;
    let said: Version = serde_json::from_slice(&body).map_err(|_| io::Error::other("its /version can't be read"))?;
    let podman = said.components.iter().any(|component| component.name.contains("Podman"));
    let name = if podman { "Podman" } else { "Docker" };
    Ok(format!("{name} {}, API {}, {}/{}", said.version, said.api, said.os, said.arch))
}

/// One request on a connection of its own. HTTP/1.0, so that the body ends with the connection.
fn get<S: Read + Write>(mut stream: S, path: &str) -> io::Result<Vec<u8>> {
    // In one piece: whoever answers before it has read everything closes, and the rest would be a broken pipe.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs()))
        }
        _ => e,
    })?;
    body(&answer).map(<[u8]>::to_vec)
}

/// The body of a good answer.
fn body(answer: &[u8]) -> io::Result<&[u8]> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
    match end {
        Some(end) if line.starts_with("HTTP/1.") && line.split(' ').nth(1) == Some("200") => Ok(&answer[end + 4..]),
        _ if answer.is_empty() => Err(io::Error::other("it closed the connection without an answer")),
        _ => Err(io::Error::other(format!("it answered {line:?}, which is not an engine's answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    /// Answers every request on a socket with what `answer` says to its path.
    fn serve(socket: &Path, answer: fn(&str) -> String) {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().filter_map(Result::ok) {
                let mut bytes = [0; 512];
                let n = stream.read(&mut bytes).unwrap_or(0);
                let _ = stream.write_all(answer(&String::from_utf8_lossy(&bytes[..n])).as_bytes());
            }
        });
    }

    fn good(request: &str) -> String {
        let body = if request.starts_with("GET /_ping") {
            "OK"
        } else {
            r#"{"Version":"5.1.0","ApiVersion":"1.41","Os":"linux","Arch":"amd64","Components":[{"Name":"Podman Engine"}]}"#
        };
        format!("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\n{body}")
    }

    #[test]
    fn the_engine_that_would_be_used_comes_first_and_says_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        serve(&socket, good);
        let host = format!("unix://{}", socket.display());
        let found = find(&Where { host: Some(host.clone()), ..Where::default() });
        assert_eq!((found[0].endpoint.as_str(), found[0].from.as_str()), (host.as_str(), "DOCKER_HOST"));
        assert!(found[0].answers, "{:?}", found[0]);
        assert_eq!(found[0].detail, "Podman 5.1.0, API 1.41, linux/amd64");
        assert_eq!(found[1].from, "default socket");
    }

    #[test]
    fn a_context_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta").join(hex::encode(Sha256::digest("far")));
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"currentContext":"far","auths":{}}"#).unwrap();
        std::fs::write(meta.join("meta.json"), r#"{"Name":"far","Endpoints":{"docker":{"Host":"ssh://me@far"}}}"#)
            .unwrap();
        let places = Where { config: Some(dir.path().to_owned()), ..Where::default() };
        let found = find(&places);
        assert_eq!((found[0].endpoint.as_str(), found[0].answers), ("ssh://me@far", false));
        assert_eq!(found[0].from, "the current docker context (far)");
        let found = find(&Where { context: Some("gone".to_owned()), ..places });
        assert_eq!(
            (found[0].from.as_str(), found[0].detail.as_str()),
            ("DOCKER_CONTEXT (gone)", "there is no such context")
        );
    }

    #[test]
    fn what_does_not_answer_says_why_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        serve(&at("closes"), |_| String::new());
        serve(&at("speaks"), |_| "220 mail ready\r\n".to_owned());
        serve(&at("fails"), |_| "HTTP/1.0 503 down\r\n\r\n".to_owned());
        drop(UnixListener::bind(at("dead")).unwrap());
        for (name, says) in [
            ("absent", "No such file"),
            ("dead", "Connection refused"),
            ("closes", "without an answer"),
            ("speaks", "220 mail ready"),
            ("fails", "503"),
        ] {
            let host = format!("unix://{}", at(name).display());
            let engine = ask(host, "DOCKER_HOST".to_owned());
            assert!(!engine.answers && engine.detail.contains(says), "{name}: {engine:?}");
            assert!(!engine.fix.is_empty());
        }
        assert!(!ask("nonsense".to_owned(), String::new()).answers);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(answer in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = body(&answer);
        }
    }
}
