//! The container engine: the one place that connects to it.
//!
//! A tool below the effects, as `git` is: it finds where an engine is ([`endpoint`]), opens the connection ([`dial`]) and
//! reads what the engine is ([`EngineFacts`]). What a run makes of that is decided elsewhere. Every request opens a
//! connection of its own, except through `ssh`, where that would be a login each.
//!
//! The engine is asked in a version of its API that both sides know (bollard 0.21 names none, and the engine then answers
//! in its newest): see [`Engine::connect`].

mod dial;
pub mod endpoint;
mod error;
mod facts;

pub use endpoint::{Endpoint, Where};
pub use error::EngineError;
pub use facts::{Api, EngineFacts, Kind};

use bollard::Docker;
use error::Doing;
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
        let mut tried = Vec::new();
        for endpoint in endpoint::candidates(places)? {
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
        let docker = dial::client(&endpoint, &version)?.with_timeout(FIRST_PATIENCE);
        let said = docker.version().await.map_err(|error| EngineError::from_first(&endpoint, error))?;
        let api = facts::api(&endpoint, &said)?;
        let asked = facts::asked(&endpoint, api, &said)?;
        let _ = version.set(asked);
        let info = docker.info().await.map_err(|error| EngineError::from_first(&endpoint, error))?;
        let facts = facts::read(&endpoint, api, asked, said, info);
        Ok(Engine { docker: docker.with_timeout(PATIENCE), facts: Arc::new(facts) })
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

    /// An error of a call to [`Engine::docker`], with what was being done and where. From here on a lost engine is
    /// infrastructure (69).
    #[must_use]
    pub fn error(&self, doing: &str, error: bollard::errors::Error) -> EngineError {
        EngineError::during(&self.facts, Doing(doing.to_owned()), error)
    }
}
