//! The container engine: the one place that connects to it.
//!
//! A tool below the effects, as `git` is: it finds where an engine is ([`endpoint`]), opens the connection, reads what the
//! engine is ([`EngineFacts`]) and can promise ([`promises()`]), takes trees and images in and out, writes on everything
//! whose it is ([`labels`]), and removes what dead runs left. What a run makes of that is decided elsewhere. Every request
//! opens a connection of its own, except through `ssh`, where that would be a login each.
//!
//! The engine is asked in a version of its API that both sides know (bollard 0.21 names none, and the engine then answers
//! in its newest): see [`Engine::connect`].

mod dial;
pub mod endpoint;
mod error;
mod facts;
pub mod labels;
mod login;
mod promises;
mod sweep;
mod transfer;

pub use endpoint::{Endpoint, Where};
pub use error::EngineError;
pub use facts::{Api, EngineFacts, Kind};
pub use labels::{Labels, Owner};
pub use login::login;
pub use promises::{Promise, promises};
pub use sweep::{SharedVolume, Swept};
pub use transfer::{DockerCredentials, Progress};

use bollard::Docker;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long the engine may take to answer a question: connection, request and the head of the answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long an engine may take to say what it is. One that hangs is not an engine to start a run on.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(20);

/// How long a body of any size may take on its way to the engine: bollard counts the upload into its timeout.
pub const LONG_PATIENCE: Duration = Duration::from_secs(3600);

/// The newest API whose shapes were read for this program; engines that know more are asked in this one.
pub const NEWEST: Api = Api(1, 47);

/// The oldest API with all that a cell needs: a limit of processes came with 1.23, and mounts with 1.25.
pub const OLDEST: Api = Api(1, 25);

/// An engine that answered and said what it is.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    raw: dial::Raw,
    facts: Arc<EngineFacts>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Engine {
    /// Connects to the engine that the Docker command line would use, and reads what it is. Where the caller named none
    /// (by variable or context), sockets of rootless engines and of Podman are tried after the default one.
    ///
    /// # Errors
    /// [`EngineError::None`] with everything that was tried; a context that is broken is never passed over.
    pub async fn connect(places: &Where) -> Result<Engine, EngineError> {
        Engine::first_of(endpoint::candidates(places)?).await
    }

    /// The first of these places where an engine answers.
    ///
    /// # Errors
    /// As [`Engine::connect`].
    pub async fn first_of(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Engine, EngineError> {
        let mut tried = Vec::new();
        for endpoint in endpoints {
            match Engine::at(endpoint).await {
                Ok(engine) => return Ok(engine),
                Err(error) => tried.push(error),
            }
        }
        Err(EngineError::none(tried))
    }

    /// Connects to the engine at one endpoint, and reads what it is.
    ///
    /// # Errors
    /// No engine answers there, what answers is none, or it is too old.
    pub async fn at(endpoint: Endpoint) -> Result<Engine, EngineError> {
        let version: Arc<OnceLock<Api>> = Arc::default();
        let (docker, raw) = dial::client(&endpoint, &version)?;
        let docker = docker.with_timeout(FIRST_PATIENCE);
        let said = docker.version().await.map_err(|error| EngineError::from_first(&endpoint, error))?;
        let api = facts::api(&endpoint, &said)?;
        let asked = facts::asked(&endpoint, api, &said)?;
        let _ = version.set(asked);
        let info = raw.get("/info", FIRST_PATIENCE).await.and_then(|info| Ok(serde_json::from_slice(&info)?));
        let info = info.map_err(|error| EngineError::from_first(&endpoint, error))?;
        let facts = facts::read(&endpoint, (api, asked), said, info, jiff::Timestamp::now());
        Ok(Engine { docker: docker.with_timeout(PATIENCE), raw, facts: Arc::new(facts) })
    }

    /// What the engine said of itself when it was connected to.
    #[must_use]
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// The client: answers come within [`PATIENCE`].
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The client for what may take long: bodies of any size, pulls, waits.
    #[must_use]
    pub fn patient(&self) -> Docker {
        self.docker.clone().with_timeout(LONG_PATIENCE)
    }

    /// Now, by the engine's clock: seconds since 1970. Deadlines are compared on it by everybody who shares the engine.
    #[must_use]
    pub fn now(&self) -> u64 {
        let here = jiff::Timestamp::now().as_second().saturating_add(self.facts.ahead_secs);
        u64::try_from(here).unwrap_or_default()
    }

    /// An error of a call to [`Engine::docker`], with what was being done and where. From here on a lost engine is
    /// infrastructure (69).
    #[must_use]
    pub fn error(&self, doing: &str, error: bollard::errors::Error) -> EngineError {
        EngineError::during(&self.facts, doing.to_owned(), error)
    }

    fn refused(&self, doing: &str, message: String) -> EngineError {
        let (endpoint, from) = (self.facts.endpoint.clone(), self.facts.from.clone());
        EngineError::Refused { endpoint, from, doing: doing.to_owned(), status: 0, message }
    }
}
