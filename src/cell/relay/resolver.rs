//! Who knows the addresses of a name: this system, or a test.

use super::super::{Cell, CellError, Live, Walls};
use crate::lock::CellKind;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A function that knows the addresses of names.
type Given = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Knows the addresses of names.
#[derive(Clone, Default)]
pub enum Resolver {
    /// What this system's programs use, getaddrinfo(3): `/etc/hosts`, DNS, and whatever else it is set up for.
    #[default]
    System,
    /// Somebody else.
    Given(Arc<Given>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resolver::System => "System",
            Resolver::Given(_) => "Given",
        })
    }
}

impl Resolver {
    /// The addresses of a name.
    ///
    /// # Errors
    /// Where it has none, or nobody answers.
    pub(super) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        match self {
            Resolver::Given(given) => given(&name),
            Resolver::System => {
                // A thread of its own and not the runtime's: a name server that does not answer would keep the runtime
                // from ending, and with it a run that was interrupted.
                let (send, receive) = oneshot::channel();
                std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
                    let found = (name.as_str(), 0).to_socket_addrs();
                    let _ = send.send(found.map(|all| all.map(|one| one.ip()).collect()));
                })?;
                receive.await.map_err(io::Error::other)?
            }
        }
    }
}

/// A cell whose names somebody else resolves.
#[derive(Debug, Clone)]
pub struct Resolving<C> {
    /// The cell itself.
    pub cell: C,
    /// Who resolves.
    pub resolver: Resolver,
}

impl<C: Cell> Cell for Resolving<C> {
    fn kind(&self) -> CellKind {
        self.cell.kind()
    }

    fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    async fn launch(&self, walls: &Walls) -> Result<Live, CellError> {
        self.cell.launch(walls).await
    }
}
