//! Where an engine is looked for, and in which order: as the Docker command line does. Decides; opens nothing.

use super::error::EngineError;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use url::Url;

/// What of the caller's environment says where engines are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Where {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, else `HOME/.docker`.
    pub config: Option<PathBuf>,
    /// `DOCKER_CERT_PATH`, else the same as `config`.
    pub certificates: Option<PathBuf>,
    /// `DOCKER_TLS_VERIFY` is set to something: TLS, and the engine must prove who it is.
    pub tls_verify: bool,
    /// `DOCKER_TLS` is set to something: TLS, whoever it is.
    pub tls: bool,
    /// `XDG_RUNTIME_DIR`: sockets of rootless engines.
    pub runtime_dir: Option<PathBuf>,
}

impl Where {
    /// Reads the variables through `variable`, which gives what is set to something.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Where {
        let config = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Where {
            host: variable("DOCKER_HOST"),
            context: variable("DOCKER_CONTEXT"),
            certificates: variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| config.clone()),
            config,
            tls_verify: variable("DOCKER_TLS_VERIFY").is_some(),
            tls: variable("DOCKER_TLS").is_some(),
            runtime_dir: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
        }
    }
}

/// One place where an engine may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What is connected to.
    pub address: Address,
    /// Who named it: `DOCKER_HOST`, `the current docker context (far)`, `default socket`.
    pub from: String,
}

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A named pipe of Windows.
    Pipe(String),
    /// A host name or address (IPv6 without brackets) and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port: 2376 with TLS and 2375 without, unless it is named.
        port: u16,
        /// TLS over it.
        tls: Option<Tls>,
    },
    /// Another machine's engine, through the `ssh` program here and the `docker` program there.
    Ssh {
        /// The user there; none leaves it to ssh's own configuration.
        user: Option<String>,
        /// The host, or a name of ssh's own configuration.
        host: String,
        /// The port; none leaves it to ssh's own configuration.
        port: Option<u16>,
        /// The socket there, where it is not the default one.
        socket: Option<String>,
    },
}

/// How both sides prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`. What is absent is not used: without the first one the
    /// system's authorities count, without the others we do not say who we are.
    pub directory: PathBuf,
    /// Whether the engine must prove who it is.
    pub verify: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Pipe(name) => write!(f, "npipe://{name}"),
            Address::Tcp { host, port, .. } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Address::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Address::Ssh { user, host, port, socket } => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(host)?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
        }
    }
}

/// The files that decide, as far as they are looked at.
pub trait Files {
    /// The content of a file.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Whether there is anything at this path.
    fn exists(&self, path: &Path) -> bool;
}

/// The files of this machine.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Where to look, in order. `DOCKER_HOST` and contexts name one engine, and then no other is looked for: a run that
/// is meant for one must not land on another.
///
/// # Errors
/// What was named can't be used: a context that does not exist, an address that is none, a configuration that can't be
/// read.
pub fn candidates(places: &Where) -> Result<Vec<Endpoint>, EngineError> {
    match named(places, &Disk)? {
        Some(endpoint) => Ok(vec![endpoint]),
        None => Ok(unnamed(places, &Disk)),
    }
}

/// The engine that the caller named, by variable or context.
///
/// # Errors
/// As [`candidates`].
pub fn named(places: &Where, files: &impl Files) -> Result<Option<Endpoint>, EngineError> {
    if let Some(host) = places.host.as_deref().filter(|host| !host.is_empty()) {
        let from = "DOCKER_HOST";
        let tls = |scheme: &str| {
            let directory = places.certificates.clone().unwrap_or_default();
            (places.tls_verify || places.tls || scheme == "https")
                .then_some(Tls { directory, verify: places.tls_verify || !places.tls })
        };
        let address = address(host, tls).map_err(|why| EngineError::address(host, from, why))?;
        return Ok(Some(Endpoint { address, from: from.to_owned() }));
    }
    let (context, from) = match places.context.as_ref().filter(|context| !context.is_empty()) {
        Some(context) => (Some(context.clone()), "DOCKER_CONTEXT"),
        None => (current_context(places, files)?, "the current docker context"),
    };
    match context.filter(|name| !name.is_empty() && name != "default") {
        Some(context) => of_context(places, files, &context, &format!("{from} ({context})")).map(Some),
        None => Ok(None),
    }
}

/// Where engines are when nobody named one. The default socket counts also when it is absent, so that an error names it;
/// the others only where they are.
pub fn unnamed(places: &Where, files: &impl Files) -> Vec<Endpoint> {
    #[cfg(windows)]
    let mut found =
        vec![Endpoint { address: Address::Pipe("//./pipe/docker_engine".to_owned()), from: "default pipe".to_owned() }];
    #[cfg(not(windows))]
    let mut found = vec![Endpoint {
        address: Address::Unix(PathBuf::from("/var/run/docker.sock")),
        from: "default socket".to_owned(),
    }];
    let own = places
        .runtime_dir
        .as_deref()
        .map(|dir| [(dir.join("docker.sock"), "rootless Docker"), (dir.join("podman/podman.sock"), "rootless Podman")]);
    let desktop = places.config.as_deref().map(|dir| (dir.join("run/docker.sock"), "Docker Desktop"));
    let system = (PathBuf::from("/run/podman/podman.sock"), "Podman");
    for (socket, whose) in own.into_iter().flatten().chain(desktop).chain([system]) {
        if files.exists(&socket) {
            found.push(Endpoint { address: Address::Unix(socket), from: whose.to_owned() });
        }
    }
    found
}

/// Reads an address as Docker does. `tls` says for a scheme of TCP whether TLS goes over it.
fn address(text: &str, tls: impl Fn(&str) -> Option<Tls>) -> Result<Address, String> {
    const SCHEMES: &str = "it must start with unix://, tcp://, http://, https://, ssh:// or npipe://";
    let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Address::Unix(PathBuf::from(rest))),
        "unix" => Err("the path of the socket must be absolute, as in unix:///var/run/docker.sock".to_owned()),
        "npipe" if !rest.is_empty() => Ok(Address::Pipe(rest.to_owned())),
        "tcp" | "http" | "https" => {
            let tls = tls(scheme);
            // Not a scheme that `url` knows a port for: it would leave that one out.
            let url = Url::parse(&format!("tcp://{rest}")).map_err(|error| error.to_string())?;
            if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
                return Err("nothing may stand behind the port".to_owned());
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err("a user has no meaning here".to_owned());
            }
            let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = url.port().unwrap_or(if tls.is_some() { 2376 } else { 2375 });
            Ok(Address::Tcp { host, port, tls })
        }
        "ssh" => {
            let url = Url::parse(text).map_err(|error| error.to_string())?;
            if url.password().is_some() {
                return Err("a password does not belong into an address; ssh asks its agent for keys".to_owned());
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err("nothing but a socket's path may stand behind the host".to_owned());
            }
            let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            // Both would be options to ssh.
            if host.starts_with('-') || url.username().starts_with('-') {
                return Err("a name can't start with a dash".to_owned());
            }
            Ok(Address::Ssh {
                user: Some(url.username().to_owned()).filter(|user| !user.is_empty()),
                host,
                port: url.port(),
                socket: Some(url.path().to_owned()).filter(|path| !matches!(path.as_str(), "" | "/")),
            })
        }
        _ => Err(SCHEMES.to_owned()),
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

fn current_context(places: &Where, files: &impl Files) -> Result<Option<String>, EngineError> {
    let Some(directory) = &places.config else { return Ok(None) };
    let path = directory.join("config.json");
    match files.read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Config>(&bytes) {
            Ok(config) => Ok(config.current_context),
            Err(error) => Err(EngineError::config(&path, &error)),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(EngineError::config(&path, &error)),
    }
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "Endpoints", default)]
    endpoints: BTreeMap<String, MetaEndpoint>,
}

#[derive(Deserialize)]
struct MetaEndpoint {
    #[serde(rename = "Host")]
    host: Option<String>,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_verify: bool,
}

/// A context's endpoint: its folders are named by the sha256 of its name.
fn of_context(places: &Where, files: &impl Files, context: &str, from: &str) -> Result<Endpoint, EngineError> {
    let contexts = places.config.clone().unwrap_or_default().join("contexts");
    let folder = hex::encode(Sha256::digest(context));
    let path = contexts.join("meta").join(&folder).join("meta.json");
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(EngineError::context(from, "there is no such context"));
        }
        Err(error) => return Err(EngineError::config(&path, &error)),
    };
    let mut meta: Meta = serde_json::from_slice(&bytes).map_err(|error| EngineError::config(&path, &error))?;
    let endpoint = meta.endpoints.remove("docker");
    let (host, skip) = match endpoint.map(|endpoint| (endpoint.host, endpoint.skip_verify)) {
        Some((Some(host), skip)) if !host.is_empty() => (host, skip),
        _ => return Err(EngineError::context(from, "this context names no Docker endpoint")),
    };
    let directory = contexts.join("tls").join(&folder).join("docker");
    let material = ["ca.pem", "cert.pem", "key.pem"].iter().any(|file| files.exists(&directory.join(file)));
    let tls = |scheme: &str| {
        (material || skip || scheme == "https").then(|| Tls { directory: directory.clone(), verify: !skip })
    };
    let address = address(&host, tls).map_err(|why| EngineError::address(&host, from, why))?;
    Ok(Endpoint { address, from: from.to_owned() })
}

#[cfg(test)]
mod tests;
