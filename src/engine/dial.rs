//! Opens the connection to an engine: a socket, TCP, TLS over it, or the `ssh` program.
//!
//! bollard's own constructors are not used: they take a `DOCKER_HOST` that is no socket for the default socket, want a
//! client certificate for any TLS, know no TLS without verification, and say of a connection that failed no more than
//! "client error (Connect)".

use super::endpoint::{Address, Endpoint, Tls};
use super::error::EngineError;
use super::facts::Api;
use bollard::errors::Error;
use bollard::{BollardRequest, Docker};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

/// How long a connection may take to stand. A host that swallows packets would hold us for minutes.
const CONNECT: Duration = Duration::from_secs(10);

/// How long what `ssh` says is waited for, once its output has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What to do where two sides did not agree on who they are.
pub(super) const TLS_FIX: &str = "compare ca.pem, cert.pem and key.pem of DOCKER_CERT_PATH (or the context) with the \
    engine's, and the name in its certificate with the address";

/// Why a connection does not stand.
#[derive(Debug, thiserror::Error)]
pub(super) enum Dial {
    /// The socket, or the address.
    #[error("{0}")]
    Connect(io::Error),
    /// No answer to the connection itself.
    #[error("no connection within {} s", CONNECT.as_secs())]
    Timeout,
    /// What is needed for TLS can't be read here.
    #[error("{0}")]
    Material(String),
    /// Both sides did not agree on who they are.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// `ssh` could not be started.
    #[error("the ssh program can't be started: {0}")]
    NoSsh(io::Error),
    /// `ssh` ended before the engine had said anything; its own words.
    #[error("ssh ended: {0}")]
    Ssh(String),
    /// A kind of address that this system does not have.
    #[error("{0} are not to be had on this system")]
    Foreign(&'static str),
}

impl Dial {
    /// The one thing to do.
    pub(super) fn fix(&self, address: &Address) -> &'static str {
        match (self, address) {
            (Dial::Connect(error), Address::Unix(_) | Address::Pipe(_)) => match error.kind() {
                io::ErrorKind::NotFound => {
                    "install Docker or Podman, or start its service; only container mode needs it"
                }
                io::ErrorKind::PermissionDenied => {
                    "add this user to the socket's group (`sudo usermod -aG docker $USER`, then log in again), or use a rootless engine"
                }
                io::ErrorKind::ConnectionRefused => "start the engine's service (`sudo systemctl start docker`)",
                _ => "look at the engine's own log",
            },
            (Dial::Connect(_) | Dial::Timeout, _) => {
                "look whether the engine listens there, and whether a firewall is between; `docker version` asks it as well"
            }
            (Dial::Material(_), _) => "DOCKER_CERT_PATH (or the context) must hold ca.pem, and cert.pem with key.pem",
            (Dial::Tls(_), _) => TLS_FIX,
            (Dial::NoSsh(_), _) => "install the ssh client, or reach the engine in another way",
            (Dial::Ssh(_), _) => {
                "try `ssh HOST docker version`: it must work without a question (keys in ssh-agent, the host in known_hosts)"
            }
            (Dial::Foreign(_), _) => "name another engine with DOCKER_HOST",
        }
    }
}

impl From<Dial> for io::Error {
    fn from(dial: Dial) -> io::Error {
        io::Error::other(dial)
    }
}

/// Questions that bollard has no shape for, over the same kind of connection.
#[derive(Clone)]
pub(super) struct Raw {
    http: Client<Dialer, Empty<Bytes>>,
    version: Arc<OnceLock<Api>>,
}

impl Raw {
    /// The body of a good answer to a GET; `path` may hold a query.
    pub(super) async fn get(&self, path: &str, patience: Duration) -> Result<Bytes, Error> {
        let version = self.version.get().map(|version| format!("/v{version}")).unwrap_or_default();
        let uri = format!("{HOST}{version}{path}").parse()?;
        let ask = async {
            let answer = self.http.get(uri).await.map_err(io::Error::other)?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(patience, ask).await.unwrap_or(Err(Error::RequestTimeoutError))?;
        if status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let said = serde_json::from_slice::<Said>(&body).map(|said| said.message);
        let message = said.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned());
        Err(Error::DockerResponseServerError { status_code: status.as_u16(), message })
    }
}

/// A name and no address: the dialer knows where to go. It is what the engine reads in `Host`.
const HOST: &str = "http://docker";

/// A client whose requests go over connections of ours. They name the API `version` once it is known: unasked, an engine
/// answers in its newest.
pub(super) fn client(endpoint: &Endpoint, version: &Arc<OnceLock<Api>>) -> Result<(Docker, Raw), EngineError> {
    let dialer = Dialer::new(endpoint).map_err(|dial| {
        let fix = dial.fix(&endpoint.address);
        EngineError::silent(endpoint, dial.to_string(), fix)
    })?;
    // A login for every request would be slow; a local connection costs nothing, and one that lay idle may be dead.
    let idle = if matches!(endpoint.address, Address::Ssh { .. }) { 4 } else { 0 };
    let builder = || {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(idle);
        builder
    };
    let raw = Raw { http: builder().build(dialer.clone()), version: Arc::clone(version) };
    let http = builder().build(dialer);
    let version = Arc::clone(version);
    let send = move |request: BollardRequest| {
        let http = http.clone();
        let request = match version.get() {
            Some(version) => versioned(request, *version),
            None => Ok(request),
        };
        async move {
            let answer = http.request(request?).await;
            Ok(answer.map_err(io::Error::other)?)
        }
    };
    let timeout = super::PATIENCE.as_secs();
    let docker = Docker::connect_with_custom_transport(send, Some(HOST), timeout, bollard::API_DEFAULT_VERSION)
        .map_err(|error| EngineError::from_first(endpoint, error))?;
    Ok((docker, raw))
}

/// `/containers/json` becomes `/v1.41/containers/json`.
fn versioned(request: BollardRequest, version: Api) -> Result<BollardRequest, Error> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    let path = uri.path_and_query.as_ref().map_or("/", |path| path.as_str());
    uri.path_and_query = Some(format!("/v{version}{path}").parse()?);
    head.uri = uri.try_into()?;
    Ok(BollardRequest::from_parts(head, body))
}

/// Opens connections to one endpoint.
#[derive(Clone)]
struct Dialer {
    address: Arc<Address>,
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// Reads certificates once, so that what is wrong with them is said before anything is asked.
    fn new(endpoint: &Endpoint) -> Result<Dialer, Dial> {
        let tls = match &endpoint.address {
            Address::Tcp { tls: Some(tls), .. } => Some(TlsConnector::from(Arc::new(tls_config(tls)?))),
            _ => None,
        };
        Ok(Dialer { address: Arc::new(endpoint.address.clone()), tls })
    }

    async fn dial(self) -> Result<Box<dyn Stream>, Dial> {
        match &*self.address {
            #[cfg(unix)]
            Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await.map_err(Dial::Connect)?)),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(Dial::Foreign("unix sockets")),
            #[cfg(windows)]
            Address::Pipe(name) => {
                let pipe = tokio::net::windows::named_pipe::ClientOptions::new().open(name.replace('/', "\\"));
                Ok(Box::new(pipe.map_err(Dial::Connect)?))
            }
            #[cfg(not(windows))]
            Address::Pipe(_) => Err(Dial::Foreign("named pipes")),
            Address::Tcp { host, port, .. } => {
                let connect = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), *port)));
                let stream = connect.await.map_err(|_| Dial::Timeout)?.map_err(Dial::Connect)?;
                // Frames are small and wait for answers.
                stream.set_nodelay(true).map_err(Dial::Connect)?;
                let Some(tls) = self.tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| Dial::Material(format!("no certificate can be for a host called {host:?}")))?;
                let handshake = tokio::time::timeout(CONNECT, tls.connect(name, stream));
                Ok(Box::new(handshake.await.map_err(|_| Dial::Timeout)?.map_err(Dial::Tls)?))
            }
            Address::Ssh { user, host, port, socket } => {
                ssh(user.as_deref(), host, *port, socket.as_deref()).map(|stream| Box::new(stream) as Box<dyn Stream>)
            }
        }
    }
}

impl<Uri> tower_service::Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = Dial;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Dial>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Dial>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone().dial();
        Box::pin(async { Ok(TokioIo::new(dial.await?)) })
    }
}

/// Any stream to an engine.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Reads what there is of `ca.pem`, `cert.pem` and `key.pem`.
fn tls_config(tls: &Tls) -> Result<rustls::ClientConfig, Dial> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |error: rustls::Error| Dial::Material(format!("certificates of {}: {error}", tls.directory.display()));
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = if tls.verify {
        builder.with_root_certificates(roots(&tls.directory.join("ca.pem"))?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    };
    let (certificate, key) = (tls.directory.join("cert.pem"), tls.directory.join("key.pem"));
    let mut config = match (certificate.exists(), key.exists()) {
        (false, false) => builder.with_no_client_auth(),
        (true, false) => {
            return Err(Dial::Material(format!("{} is there, and its key.pem is not", certificate.display())));
        }
        (false, true) => return Err(Dial::Material(format!("{} is there, and its cert.pem is not", key.display()))),
        (true, true) => {
            let secret = PrivateKeyDer::from_pem_file(&key)
                .map_err(|error| Dial::Material(format!("{}: {error}", key.display())))?;
            builder.with_client_auth_cert(certificates(&certificate)?, secret).map_err(wrong)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Dial> {
    let wrong = |error: rustls::pki_types::pem::Error| Dial::Material(format!("{}: {error}", path.display()));
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    match found.is_empty() {
        true => Err(Dial::Material(format!("{} holds no certificate", path.display()))),
        false => Ok(found),
    }
}

/// The authority of the directory alone, else those of the system.
fn roots(ca: &Path) -> Result<rustls::RootCertStore, Dial> {
    let mut roots = rustls::RootCertStore::empty();
    if ca.exists() {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| Dial::Material(format!("{}: {error}", ca.display())))?;
        }
        return Ok(roots);
    }
    // What of them can't be read is no authority; if none is left, that is said.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(Dial::Material(format!("there is no {}, and this system has no authorities", ca.display()))),
        false => Ok(roots),
    }
}

/// `DOCKER_TLS` and `SkipTLSVerify`: the caller asked for encryption without knowing whom it is with. Signatures are
/// still checked, so that it is one partner for the whole connection.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Starts `ssh` as the Docker command line does. In a process group of its own, so that Ctrl-C ends the run and not its
/// connection; and it may not ask: a question on the terminal would stand in the middle of a run.
fn ssh(user: Option<&str>, host: &str, port: Option<u16>, socket: Option<&str>) -> Result<Ssh, Dial> {
    let mut command = Command::new("ssh");
    command.args(["-T", "-o", "BatchMode=yes", "-o"]).arg(format!("ConnectTimeout={}", CONNECT.as_secs()));
    if let Some(user) = user {
        command.args(["-l", user]);
    }
    if let Some(port) = port {
        command.arg("-p").arg(port.to_string());
    }
    command.args(["--", host, "docker"]);
    if let Some(socket) = socket {
        // Behind ssh stands a shell.
        command.arg("--host").arg(format!("'unix://{}'", socket.replace('\'', r"'\''")));
    }
    command.args(["system", "dial-stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(Dial::NoSsh)?;
    let (Some(stdin), Some(stdout), Some(mut stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Dial::NoSsh(io::ErrorKind::BrokenPipe.into()));
    };
    let words = tokio::spawn(async move {
        // Some of it is enough, and all of it must be taken, or ssh would wait.
        let mut said = Vec::new();
        let _ = (&mut stderr).take(4096).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    Ok(Ssh { _child: child, stdin: Some(stdin), stdout, silent: true, words: Some(words), ending: None })
}

/// A connection through `ssh`.
struct Ssh {
    _child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Nothing has come yet: an end is no end of a conversation, but a login that failed.
    silent: bool,
    words: Option<tokio::task::JoinHandle<String>>,
    ending: Option<Pin<Box<dyn Future<Output = String> + Send>>>,
}

impl AsyncRead for Ssh {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_none() {
            let before = buffer.filled().len();
            std::task::ready!(Pin::new(&mut this.stdout).poll_read(context, buffer))?;
            if buffer.filled().len() > before || !this.silent || buffer.remaining() == 0 {
                this.silent = false;
                return Poll::Ready(Ok(()));
            }
            let words = this.words.take();
            this.ending = Some(Box::pin(async move {
                // A master connection that stays behind keeps the pipe open.
                match words {
                    Some(words) => match tokio::time::timeout(LAST_WORDS, words).await {
                        Ok(Ok(said)) if !said.is_empty() => said,
                        _ => "without a word".to_owned(),
                    },
                    None => "without a word".to_owned(),
                }
            }));
        }
        match &mut this.ending {
            Some(ending) => {
                let said = std::task::ready!(ending.as_mut().poll(context));
                this.ending = None;
                this.silent = false;
                Poll::Ready(Err(Dial::Ssh(said).into()))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Ssh {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What a pipe has for a half-closed connection is to be gone.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_not_to_connect_has_its_own_advice() {
        let unix = Address::Unix("/s".into());
        let tcp = Address::Tcp { host: "h".into(), port: 1, tls: None };
        let connect = |kind: io::ErrorKind| Dial::Connect(kind.into());
        for (dial, address, advice) in [
            (connect(io::ErrorKind::NotFound), &unix, "install Docker or Podman"),
            (connect(io::ErrorKind::PermissionDenied), &unix, "usermod -aG docker"),
            (connect(io::ErrorKind::ConnectionRefused), &unix, "systemctl start docker"),
            (connect(io::ErrorKind::ConnectionRefused), &tcp, "firewall"),
            (Dial::Timeout, &tcp, "firewall"),
            (Dial::Tls(io::ErrorKind::InvalidData.into()), &tcp, "ca.pem"),
            (Dial::Ssh("no route".into()), &tcp, "ssh HOST docker version"),
        ] {
            assert!(dial.fix(address).contains(advice), "{dial}");
        }
    }
}
