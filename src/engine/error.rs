//! Why there is no engine, or why one did not do what it was asked: what, where, who named it, and what to do.

use super::dial::Dial;
use super::endpoint::{Address, Endpoint};
use super::facts::EngineFacts;
use crate::code::{ExitCode, ParityCode};
use crate::finding::Finding;
use bollard::errors::Error;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::Path;
use tokio_rustls::rustls;

/// Bad news from or about an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing to run containers on; each place with why not.
    #[error("{}", tried(.0))]
    None(Vec<Silence>),
    /// An engine was there and is lost: the connection broke, or it stopped answering.
    #[error("engine at {endpoint} ({from}) was lost while {doing}: {why}")]
    Lost {
        /// Where it was.
        endpoint: String,
        /// Who named it.
        from: String,
        /// What was being done, as it stands behind "while": `creating a container`.
        doing: String,
        /// What happened to the connection.
        why: String,
    },
    /// The engine answered, and it was no.
    #[error("engine at {endpoint} ({from}) refused {doing}: {message} (status {status})")]
    Refused {
        /// Where it is.
        endpoint: String,
        /// Who named it.
        from: String,
        /// What was being done.
        doing: String,
        /// The HTTP status; 0 where the refusal came inside of a stream.
        status: u16,
        /// The engine's own words.
        message: String,
    },
    /// What was to be sent can't be read here.
    #[error("{doing}: what was to be sent can't be read: {why}")]
    Unsendable {
        /// What was being done.
        doing: String,
        /// What reading it said.
        why: String,
    },
    /// The engine answered something that can't be read.
    #[error("engine at {endpoint} ({from}) answered {doing} with something unreadable: {why}")]
    Unreadable {
        /// Where it is.
        endpoint: String,
        /// Who named it.
        from: String,
        /// What was being done.
        doing: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A place without a usable engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// `unix:///var/run/docker.sock`; empty where nothing could be made of what was named.
    pub endpoint: String,
    /// Who named it.
    pub from: String,
    /// Why there is none.
    pub why: String,
    /// The one thing to do.
    pub fix: String,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint.as_str() {
            "" => write!(f, "{}: {}", self.from, self.why),
            endpoint => write!(f, "{endpoint} ({}): {}", self.from, self.why),
        }
    }
}

/// Whether this is how engines say that a registry wants to know who asks.
fn wants_login(message: &str) -> bool {
    [
        "unauthorized",
        "no basic auth credentials",
        "authentication required",
        "access denied",
        "access to the resource is denied",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn tried(silences: &[Silence]) -> String {
    let places: Vec<String> = silences.iter().map(ToString::to_string).collect();
    format!("no container engine can be used: {}", places.join("; "))
}

impl EngineError {
    /// The row of the code table, where this is about the machine before anything began; none where it is
    /// infrastructure (69).
    #[must_use]
    pub fn code(&self) -> Option<ParityCode> {
        matches!(self, EngineError::None(_)).then_some(ParityCode::NO_ENGINE)
    }

    /// What a program leaves with that can do nothing else: 105 or 69.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        self.code().map_or(ExitCode::INFRASTRUCTURE, ParityCode::exit)
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            EngineError::None(silences) => match silences.iter().find(|silence| !silence.fix.is_empty()) {
                Some(silence) => silence.fix.clone(),
                None => ParityCode::NO_ENGINE.fix().to_owned(),
            },
            EngineError::Lost { .. } => "look whether the engine still runs, and start again".to_owned(),
            EngineError::Unsendable { .. } => "look at the file, and at the disk it is on".to_owned(),
            EngineError::Refused { message, .. } if message.contains("no space left on device") => {
                "make room where the engine keeps its data (`docker system df` shows what takes it)".to_owned()
            }
            EngineError::Refused { message, .. } if wants_login(message) => {
                "log in to that registry (`docker login REGISTRY`; the login of the Docker command line is used), or check the image's name"
                    .to_owned()
            }
            EngineError::Refused { .. } | EngineError::Unreadable { .. } => {
                "look at the engine's own log; `ft doctor` shows what the engine is".to_owned()
            }
        }
    }

    /// The finding of a run or self-check that needs an engine; none where this is infrastructure.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        Some(Finding::new(self.code()?, "preflight", self.to_string()).hint(self.hint()))
    }

    /// Whether the engine says that what was asked for is not there: for what is to be removed, that is success.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, EngineError::Refused { status: 404, .. })
    }

    /// Whether the engine says that something else is under way or in the way (409).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, EngineError::Refused { status: 409, .. })
    }

    /// All places that were tried, as one error.
    pub(super) fn none(errors: Vec<EngineError>) -> EngineError {
        let silences = errors.into_iter().flat_map(|error| match error {
            EngineError::None(silences) => silences,
            other => {
                let hint = other.hint();
                vec![Silence { endpoint: String::new(), from: String::new(), why: other.to_string(), fix: hint }]
            }
        });
        EngineError::None(silences.collect())
    }

    pub(super) fn silent(endpoint: &Endpoint, why: impl Into<String>, fix: impl Into<String>) -> EngineError {
        let (why, fix) = (why.into(), fix.into());
        let from = endpoint.from.clone();
        EngineError::None(vec![Silence { endpoint: endpoint.address.to_string(), from, why, fix }])
    }

    pub(super) fn address(text: &str, from: &str, why: String) -> EngineError {
        let fix = match from {
            "DOCKER_HOST" => "correct DOCKER_HOST, or unset it to use the default socket",
            _ => "`docker context inspect` shows the context; `docker context use default` takes the default",
        };
        let (why, fix) = (format!("not an address of an engine: {why}"), fix.to_owned());
        EngineError::None(vec![Silence { endpoint: text.to_owned(), from: from.to_owned(), why, fix }])
    }

    pub(super) fn context(from: &str, why: &str) -> EngineError {
        let fix = "`docker context ls` shows the contexts; `docker context use default` takes the default".to_owned();
        EngineError::None(vec![Silence { endpoint: String::new(), from: from.to_owned(), why: why.to_owned(), fix }])
    }

    pub(super) fn config(path: &Path, error: &dyn fmt::Display) -> EngineError {
        let why = format!("{} can't be read: {error}", path.display());
        let fix = "correct the file, or name the engine with DOCKER_HOST".to_owned();
        EngineError::None(vec![Silence {
            endpoint: String::new(),
            from: "Docker's configuration".to_owned(),
            why,
            fix,
        }])
    }

    /// An error of the first questions: there is no engine, or none that can be used.
    pub(super) fn from_first(endpoint: &Endpoint, error: Error) -> EngineError {
        if let Some(dial) = dial(&error) {
            return EngineError::silent(endpoint, dial.to_string(), dial.fix(&endpoint.address));
        }
        // Our own proof is judged only after the connection stands.
        if let Some(tls) = below::<rustls::Error>(&error) {
            return EngineError::silent(endpoint, format!("TLS failed: {tls}"), super::dial::TLS_FIX);
        }
        let log = "look at the engine's own log";
        match &error {
            Error::RequestTimeoutError => {
                let within = super::FIRST_PATIENCE.as_secs();
                EngineError::silent(
                    endpoint,
                    format!("it accepts connections and does not answer within {within} s"),
                    log,
                )
            }
            Error::DockerResponseServerError { status_code, message } => {
                let tls = matches!(&endpoint.address, Address::Tcp { tls: None, .. }) && message.contains("HTTPS");
                let fix =
                    if tls { "set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH: this engine speaks TLS" } else { log };
                EngineError::silent(endpoint, format!("it answered with status {status_code}: {}", message.trim()), fix)
            }
            Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => EngineError::silent(
                endpoint,
                format!("what answers is no engine: {}", chain(&error)),
                "look at what listens there",
            ),
            _ => EngineError::silent(endpoint, chain(&error), "look at what listens there"),
        }
    }

    /// An error of a later call.
    pub(super) fn during(facts: &EngineFacts, doing: String, error: Error) -> EngineError {
        let (endpoint, from) = (facts.endpoint.clone(), facts.from.clone());
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Refused { endpoint, from, doing, status: status_code, message: message.trim().to_owned() }
            }
            Error::DockerStreamError { error } => {
                EngineError::Refused { endpoint, from, doing, status: 0, message: error.trim().to_owned() }
            }
            Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::StrParseError { .. } => {
                EngineError::Unreadable { endpoint, from, doing, why: chain(&error) }
            }
            Error::RequestTimeoutError => {
                EngineError::Lost { endpoint, from, doing, why: "it did not answer in time".to_owned() }
            }
            error => {
                let why = dial(&error).map_or_else(|| chain(&error), ToString::to_string);
                EngineError::Lost { endpoint, from, doing, why }
            }
        }
    }
}

/// The connection's own error, where it was one: it lies below those of two libraries.
fn dial(error: &Error) -> Option<&Dial> {
    below(error)
}

/// An error of one kind, anywhere below another one. An `io::Error` does not show what it carries as its source, but that
/// one's.
fn below<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let carried = match error.downcast_ref::<Error>() {
            // Transparent: its source is that of what it carries.
            Some(Error::IOError { err }) => err.get_ref(),
            _ => error.downcast_ref::<io::Error>().and_then(io::Error::get_ref),
        };
        if let Some(found) = carried.and_then(|inner| below(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error with all that is below it: hyper's own words end where the interesting ones begin.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = error.source();
    }
    text
}
