//! The cell of container mode: one container for each step, made of an image that is pinned, hardened, without a network,
//! with our agent as its first process. No `exec`, no mount of the host: what a step sees comes as tars, in volumes or
//! over the attach stream, and what it leaves comes back as frames.
//!
//! ```text
//! declared  what an image says about volumes, and where those are
//! body      what an engine is asked for, and whether it gave that
//! goods     directories of the host as tars
//! volumes   what many steps and runs share: the agent, our files, `/etc`, environments
//! wire      the attach stream as the agent's, and how a container is ended
//! ```

mod body;
mod declared;
mod goods;
mod volumes;
mod wire;

use super::{Cell, CellError, Live, Walls, Work, agents};
use crate::engine::Engine;
use crate::engine::labels::Labels;
use crate::frame::{Bytes, Goods, Inside, Payload, ToHelper};
use crate::lock::CellKind;
use crate::step::Network;
use body::Asked;
use goods::Packed;
use rustix::process::Resource;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use volumes::{Contents, Volume};

/// Where the volume of our own files stands: the Python files, and the agent beside them.
const LIB: &str = "/ft/lib";

/// The agent in it.
const AGENT_NAME: &str = "ft-agent";

/// Where the tars of this run stand in a container.
const GOODS: &str = "/ft/goods";

/// A directory of the host with this file is sealed: the file lists everything in it with its hash, and so names its
/// content.
const SEALED: &str = ".ft-seal";

/// An image as the engine has it: what decides how a container of it is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The engine's own name of it, a digest.
    pub id: String,
    /// `amd64`.
    pub architecture: String,
    /// Its `PATH`.
    pub path: String,
    /// Directories that it declares as volumes, as an engine understands them: from the root, without `..`.
    pub volumes: Vec<String>,
}

/// Containers of one image for one run. A clone is the same.
#[derive(Clone)]
pub struct Container(Arc<Shared>);

struct Shared {
    engine: Engine,
    image: Image,
    /// The agent for its architecture.
    agent: &'static [u8],
    labels: Labels,
    longest: Duration,
    /// Our Python files on the host.
    lib: PathBuf,
    /// Sealed volumes that this run has looked at.
    ready: Mutex<BTreeMap<String, ()>>,
    /// What was packed in this run, by its place on the host.
    packed: Mutex<HashMap<PathBuf, Arc<Packed>>>,
    store: Mutex<volumes::Store>,
    /// The engine's kernel has IPv6, as far as it is known.
    six: AtomicBool,
    /// How often the engine could not give each process what it was asked for: the next [`ulimits`] are less.
    refused: AtomicUsize,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("image", &self.0.image).finish_non_exhaustive()
    }
}

/// Why no container can be made of this image here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// It has no such image.
    #[error("the engine at {endpoint} has no image {image}")]
    Missing {
        /// Where the engine is.
        endpoint: String,
        /// What was asked for.
        image: String,
    },
    /// None of our agents runs there.
    #[error("the image is for {image}, and this ft carries {}", listed(carried))]
    Architecture {
        /// `arm64`.
        image: String,
        /// Those that there is an agent for: `amd64`.
        carried: Vec<&'static str>,
    },
    /// Only an emulator would run it.
    #[error("the image is for {image}, and the engine's machine is {engine}: walls can't be raised under emulation")]
    Emulated {
        /// `arm64`.
        image: String,
        /// `amd64`.
        engine: String,
    },
    /// The image has something where cells have their places.
    #[error("the image declares a volume at {declared}{}, where cells have their own places", led(declared, place))]
    Place {
        /// As the image calls it.
        declared: String,
        /// Where that leads, links followed.
        place: String,
    },
    /// By a link, one volume is at another's place, or in it.
    #[error("the image declares volumes at {declared} and {other}, and by a link one is in the other")]
    Meet {
        /// One of them.
        declared: String,
        /// The other.
        other: String,
    },
}

fn led(declared: &str, place: &str) -> String {
    if declared == place { String::new() } else { format!(", which leads to {place}") }
}

fn listed(carried: &[&str]) -> String {
    if carried.is_empty() { "no agent".to_owned() } else { format!("an agent for {} alone", carried.join(" and ")) }
}

impl Container {
    /// Containers of the image that one of these names stands for. `lib` is where our Python files are on the host;
    /// `labels` come on everything that is made. After `longest` a container ends itself, whoever seems to hold its stream.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing was made.
    pub async fn open(
        engine: Engine,
        names: &[String],
        lib: &Path,
        labels: Labels,
        longest: Duration,
    ) -> Result<Container, OpenError> {
        let image = find(&engine, names).await?;
        let Some(agent) = agents::agent(&image.architecture) else {
            return Err(OpenError::Architecture { image: image.architecture, carried: agents::architectures() });
        };
        // Under emulation there is no seccomp, and an engine that emulates nothing says so in the words of a runtime.
        let machine = &engine.facts().arch;
        if !machine.is_empty() && *machine != image.architecture {
            return Err(OpenError::Emulated { image: image.architecture, engine: machine.clone() });
        }
        declared::check(&engine, &image, &labels).await?;
        Ok(Container(Arc::new(Shared {
            engine,
            image,
            agent,
            labels,
            longest,
            lib: lib.to_owned(),
            ready: Mutex::default(),
            packed: Mutex::default(),
            store: Mutex::default(),
            six: AtomicBool::new(true),
            refused: AtomicUsize::new(0),
        })))
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.0.image
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// sha256 of the agent that these containers run, in hex.
    #[must_use]
    pub fn agent_sha256(&self) -> String {
        volumes::digest(self.0.agent)
    }

    /// Removes what only this run needs. What is not removed is swept by a later run.
    pub async fn close(&self) {
        self.0.store.lock().await.remove(&self.0.engine).await;
    }

    async fn start(&self, walls: &Walls) -> Result<Live, CellError> {
        let shared = &*self.0;
        let volumes = shared.volumes(walls).await?;
        for volume in &volumes {
            shared.ensure(volume).await?;
        }
        let (goods, packed) = shared.goods(walls, &volumes).await?;
        let stored = packed.iter().any(|packed| matches!(**packed, Packed::Stored(_)));
        let (ulimits, mut refused) = (ulimits(), shared.refused.load(Ordering::Relaxed));
        let mut asked = Asked {
            image: &shared.image,
            engine: shared.engine.facts(),
            labels: &shared.labels,
            volumes: &volumes,
            goods: if stored { shared.store.lock().await.name() } else { None },
            limits: &walls.limits,
            seconds: shared.longest.as_secs(),
            relay: walls.network != Network::Loopback,
            six: shared.six.load(Ordering::Relaxed),
            ulimits: &ulimits[refused],
        };
        let (mut live, container) = loop {
            match wire::start(&shared.engine, &asked).await {
                Err(error) if asked.six && error.to_string().contains("ipv6") => {
                    shared.six.store(false, Ordering::Relaxed);
                    asked.six = false;
                }
                Err(error) if refused + 1 < ulimits.len() && error.to_string().contains("rlimit") => {
                    refused += 1;
                    shared.refused.store(refused, Ordering::Relaxed);
                    asked.ulimits = &ulimits[refused];
                }
                other => break other?,
            }
        };
        let limit = |limit: Option<u64>| limit.unwrap_or(0);
        let inside = Inside {
            goods,
            seals: volumes.iter().map(Volume::seal).collect(),
            changes: walls.keep && matches!(walls.work, Work::View(_)),
            memory_bytes: limit(walls.limits.memory_bytes),
            pids: limit(walls.limits.pids),
            disk_bytes: limit(walls.limits.disk_bytes),
            cpus: walls.limits.cpus.unwrap_or(0),
            relay: asked.relay,
        };
        let enter = ToHelper::Enter { inside }.try_encode()?;
        // An agent that died says why on its other streams; this is not the place to find out.
        if send(&mut live.to, &enter, &packed).await.is_err() {
            container.look_at_its_end().await;
        }
        Ok(live)
    }
}

impl Cell for Container {
    fn kind(&self) -> CellKind {
        CellKind::Container
    }

    async fn launch(&self, walls: &Walls) -> Result<Live, CellError> {
        self.start(walls).await
    }
}

/// What each process of a container is to have, from what the engine gives by itself to what any may give. An engine that
/// may not raise limits (it has no root, or is in a container itself) can't give what Podman asks for: 1048576 open files
/// and 4194304 processes. On one machine it can give what we have; where it is, nobody knows.
fn ulimits() -> [Vec<(&'static str, u64)>; 3] {
    // An engine without privileges was started with the kernel's limit of processes at most.
    let processes = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok());
    let own = |of, most: u64| rustix::process::getrlimit(of).maximum.unwrap_or(most).min(most);
    let ours = [own(Resource::Nofile, 1 << 20), own(Resource::Nproc, processes.unwrap_or(1 << 15))];
    let named = |[files, processes]: [u64; 2]| vec![("nofile", files), ("nproc", processes)];
    [Vec::new(), named(ours), named([1024.min(ours[0]), 1024.min(ours[1])])]
}

/// Says what is to be made of the container, and sends what does not lie in it.
async fn send(to: &mut (dyn AsyncWrite + Send + Unpin), enter: &[u8], packed: &[Arc<Packed>]) -> io::Result<()> {
    let piece = |bytes: &[u8]| ToHelper::Goods { bytes: Bytes(bytes.to_vec()) }.encode();
    to.write_all(enter).await?;
    for packed in packed {
        match &**packed {
            Packed::Stored(_) => continue,
            Packed::Bytes(bytes) => {
                for bytes in bytes.chunks(goods::PIECE) {
                    to.write_all(&piece(bytes)).await?;
                }
            }
            Packed::File(path) => {
                let mut bytes = goods::read(path.clone());
                while let Some(bytes) = bytes.recv().await {
                    to.write_all(&piece(&bytes?)).await?;
                }
            }
        }
        to.write_all(&piece(&[])).await?;
    }
    to.flush().await
}

impl Shared {
    /// What of these walls stands in sealed volumes.
    async fn volumes(&self, walls: &Walls) -> Result<Vec<Volume>, CellError> {
        let agent = volumes::digest(self.agent);
        let lib = Contents::Files { from: self.lib.clone(), more: vec![(AGENT_NAME, self.agent, 0o555)] };
        let etc = Contents::Image(crate::etc::WRITTEN.map(|(name, text)| (name, text.as_bytes(), 0o644)).to_vec());
        // Each is filled through a container of the image, whose own files then decide where the path leads: it is that
        // image's alone.
        let mut all = vec![
            Volume::new("lib", LIB, &[&volumes::name_of(&self.lib), &agent, &self.image.id], lib),
            Volume::new("etc", "/etc", &[&self.image.id, &format!("{:?}", crate::etc::WRITTEN)], etc),
        ];
        for mount in walls.mounts.iter().filter(|mount| !mount.writable && mount.cell != LIB) {
            if let Ok(seal) = std::fs::read(mount.host.join(SEALED)) {
                let key = [&*volumes::digest(&seal), &self.image.id, &agent];
                let contents = Contents::Files { from: mount.host.clone(), more: Vec::new() };
                all.push(Volume::new("env", &mount.cell, &key, contents));
            }
        }
        // Left to the engine, each would be an anonymous volume, a place to write to: here it can only be read.
        let declared = declared::further(&self.image);
        all.extend(declared.map(|place| Volume::new("image", place, &[&self.image.id], Contents::Image(Vec::new()))));
        Ok(all)
    }

    /// Makes a sealed volume, unless it is there.
    async fn ensure(&self, volume: &Volume) -> Result<(), CellError> {
        let mut ready = self.ready.lock().await;
        if !ready.contains_key(&volume.name) {
            volumes::ensure(&self.engine, &self.image, &self.labels, volume).await?;
            ready.insert(volume.name.clone(), ());
        }
        Ok(())
    }

    /// Everything of these walls that is unpacked by the agent, in order, and where it is.
    async fn goods(&self, walls: &Walls, volumes: &[Volume]) -> Result<(Vec<Goods>, Vec<Arc<Packed>>), CellError> {
        let mounts = walls.mounts.iter().filter(|mount| volumes.iter().all(|volume| volume.target != mount.cell));
        let layers = match &walls.work {
            Work::Empty => &[][..],
            Work::View(layers) => layers,
        };
        let wanted = mounts
            .map(|mount| (mount.host.clone(), mount.cell.clone(), mount.writable))
            // The lowest first: each lies over what came before.
            .chain(layers.iter().rev().map(|layer| (layer.clone(), "/ft/work".to_owned(), true)));
        let (mut goods, mut all) = (Vec::new(), Vec::new());
        // What the step may not change comes first, while the agent is root.
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_by_key(|(_, _, owned)| *owned);
        for (host, to, owned) in wanted {
            let packed = self.pack(&host, &walls.scratch).await?;
            let from = match &*packed {
                Packed::Stored(name) => format!("{GOODS}/{name}"),
                _ => String::new(),
            };
            goods.push(Goods { to, from, owned });
            all.push(packed);
        }
        Ok((goods, all))
    }

    /// A directory of the host, packed once in a run. What is large goes into a volume, once for all steps.
    async fn pack(&self, host: &Path, scratch: &Path) -> Result<Arc<Packed>, CellError> {
        let mut known = self.packed.lock().await;
        if let Some(packed) = known.get(host) {
            return Ok(Arc::clone(packed));
        }
        let failed = |source| CellError::Launch { what: format!("pack {}", host.display()), source };
        let packed = goods::pack(host.to_owned(), scratch.to_owned()).await.map_err(failed)?;
        let packed = match packed {
            // A tar that is there already, of one step for another: it goes over the stream.
            Packed::File(path) if path != host => {
                let mut store = self.store.lock().await;
                let name = store.put(&self.engine, &self.image, &self.labels, &path).await?;
                let _ = std::fs::remove_file(&path);
                Packed::Stored(name)
            }
            packed => packed,
        };
        let packed = Arc::new(packed);
        known.insert(host.to_owned(), Arc::clone(&packed));
        Ok(packed)
    }
}

/// The image that the first known of these names stands for.
async fn find(engine: &Engine, names: &[String]) -> Result<Image, OpenError> {
    for name in names {
        let inspected = match engine.docker().inspect_image(name).await {
            Ok(inspected) => inspected,
            Err(error) => {
                let error = engine.error("looking for the image", error);
                if error.is_absent() {
                    continue;
                }
                return Err(error.into());
            }
        };
        let config = inspected.config.unwrap_or_default();
        let path = config.env.iter().flatten().find_map(|variable| variable.strip_prefix("PATH="));
        return Ok(Image {
            id: inspected.id.unwrap_or_else(|| name.clone()),
            architecture: inspected.architecture.unwrap_or_default(),
            path: path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").to_owned(),
            volumes: config.volumes.unwrap_or_default().iter().map(|place| declared::cleaned(place)).collect(),
        });
    }
    let endpoint = engine.facts().endpoint.clone();
    Err(OpenError::Missing { endpoint, image: names.first().cloned().unwrap_or_default() })
}
