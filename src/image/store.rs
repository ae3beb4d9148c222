//! The images of an engine: looked at, taken out, put in, pulled. Whatever it answers, the image is inspected afterwards:
//! a stream of progress that ends says nothing about what came.

use super::archive::{Archive, ArchiveError, Contents, Found, LayerFile, Limits, Unpacked, write};
use super::identity::{Proof, Seen, check};
use crate::code::ExitCode;
use crate::engine::{DockerCredentials, Engine, EngineError};
use crate::finding::Finding;
use crate::lock::Image;
use crate::lock::image::{Digest, ImageName, Platform, Reference};
use bollard::query_parameters::ListImagesOptionsBuilder;
use futures_util::StreamExt;
use std::io::{self, PipeReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often progress is said, where the engine says none.
const EVERY: Duration = Duration::from_millis(100);

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It is not the image that is meant.
    #[error("{} {}", .0.code, .0.message)]
    Finding(Box<Finding>),
    /// The engine has no such image.
    #[error("{engine} has no image {name}")]
    Absent {
        /// What was asked for.
        name: String,
        /// Who was asked.
        engine: String,
    },
    /// The engine says something of an image that nobody can use.
    #[error("{engine} says of the image {name}: {what}")]
    Odd {
        /// The image.
        name: String,
        /// Who says it.
        engine: String,
        /// What is wrong with it.
        what: String,
    },
}

impl From<Finding> for ImageError {
    fn from(finding: Finding) -> ImageError {
        ImageError::Finding(Box::new(finding))
    }
}

impl ImageError {
    /// What a program leaves with: a content that is not what it says it is, is PARITY-051.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        let identity = crate::code::ParityCode::IMAGE_IDENTITY.exit();
        match self {
            Self::Archive(error) if error.is_content() => identity,
            Self::Archive(ArchiveError::Choice { .. }) => ExitCode::USAGE,
            Self::Archive(_) | Self::Odd { .. } => ExitCode::INFRASTRUCTURE,
            Self::Engine(error) => error.exit(),
            Self::Finding(finding) => finding.code.exit(),
            Self::Absent { .. } => identity,
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Archive(error) => error.hint().to_owned(),
            Self::Engine(error) => error.hint(),
            Self::Finding(finding) => finding.hint.clone(),
            Self::Absent { name, .. } if name.contains('@') => {
                format!("pull it (`docker pull {name}`), or `ft image load FILE` where there is no registry")
            }
            Self::Absent { .. } => {
                "`ft image load FILE`, or `ft image build`; `docker images` lists what is there".to_owned()
            }
            Self::Odd { .. } => "load or pull the image again".to_owned(),
        }
    }
}

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    /// A layer's short digest, or what is done.
    pub what: &'a str,
    /// The engine's own words, where it has any.
    pub status: &'a str,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 where nobody knows.
    pub total: u64,
}

/// Where progress goes.
pub type Report<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// What the engine says of an image; `None` where it has none of this name or id.
///
/// # Errors
/// [`ImageError`].
pub async fn inspect(engine: &Engine, name: &str) -> Result<Option<Seen>, ImageError> {
    let Some(said) = engine.image(name).await? else { return Ok(None) };
    let odd =
        |what: &str| ImageError::Odd { name: name.to_owned(), engine: engine.facts().name(), what: what.to_owned() };
    let digest = |text: &str| text.parse::<Digest>().map_err(|_| odd(&format!("{text:?}, which is no digest")));
    let id = said.id.as_deref().ok_or_else(|| odd("no id"))?;
    // Podman leaves the algorithm out.
    let id = if id.contains(':') { digest(id)? } else { digest(&format!("sha256:{id}"))? };
    let layers = said.root_fs.and_then(|root| root.layers).unwrap_or_default();
    let repo_digests: Vec<Reference> =
        said.repo_digests.unwrap_or_default().iter().filter_map(|text| text.parse().ok()).collect();
    let described = said.descriptor.and_then(|descriptor| descriptor.digest).and_then(|text| text.parse().ok());
    let by_manifest = engine.facts().containerd_store
        || described == Some(id)
        || repo_digests.iter().any(|known| known.digest == Some(id));
    let platform = Platform::new(
        said.os.as_deref().unwrap_or_default(),
        said.architecture.as_deref().unwrap_or_default(),
        said.variant.as_deref(),
    );
    let diff_ids = layers.iter().map(|text| digest(text)).collect::<Result<_, _>>()?;
    Ok(Some(Seen { id, repo_digests, by_manifest, diff_ids, platform }))
}

/// The image of the lock in this engine, verified: what to call it when a container is made of it, and by what it was
/// known. `None` where the engine has nothing that goes by its name or digest; an image that does and differs is an error.
///
/// # Errors
/// PARITY-014, PARITY-051, or the engine.
pub async fn find(engine: &Engine, image: &Image) -> Result<Option<(String, Proof)>, ImageError> {
    let name = super::identity::pinned(image)?;
    let mut candidates: Vec<String> = image.config_digest.iter().cloned().collect();
    candidates.push(match &name {
        ImageName::Id(id) => id.to_string(),
        // Engines look a name up by tag or by digest, not by both.
        ImageName::Named(reference) => Reference { tag: None, ..reference.clone() }.to_string(),
    });
    candidates.dedup();
    for candidate in &candidates {
        if let Some(seen) = inspect(engine, candidate).await? {
            let proof = check(image, &seen, candidate)?;
            return Ok(Some((seen.id.to_string(), proof)));
        }
    }
    // A store that shows manifests has no image under the digest of a configuration.
    if engine.facts().containerd_store && !image.diff_ids.is_empty() {
        let options = ListImagesOptionsBuilder::default().all(true).build();
        let all =
            engine.docker().list_images(Some(options)).await.map_err(|error| engine.error("listing images", error))?;
        for summary in all {
            if let Some(seen) = inspect(engine, &summary.id).await?
                && let Ok(proof) = check(image, &seen, &summary.id)
            {
                return Ok(Some((summary.id, proof)));
            }
        }
    }
    Ok(None)
}

/// What an archive holds, as an inspect would say it.
#[must_use]
pub fn seen(image: &Found) -> Seen {
    let known = |digest| Reference { domain: None, path: "archive".to_owned(), tag: None, digest: Some(digest) };
    Seen {
        id: image.config_digest,
        repo_digests: image.manifest_digest.map(known).into_iter().collect(),
        by_manifest: false,
        diff_ids: image.diff_ids.clone(),
        platform: image.platform.clone(),
    }
}

/// Verifies one image of an archive, layer by layer, and leaves its layers in `folder`.
///
/// # Errors
/// [`ArchiveError`].
pub fn take(
    archive: &Path,
    name: Option<&ImageName>,
    platform: Option<&Platform>,
    folder: &Path,
) -> Result<Unpacked, ArchiveError> {
    let archive = Archive::open(archive, Limits::default())?;
    let image = archive.choose(name, platform)?.clone();
    archive.unpack(&image, Some(folder))
}

/// An image that is ready to go into an engine or a file: verified, its layers in files of ours.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// The unpacked layers.
    pub layers: Vec<LayerFile>,
    /// What it is called.
    pub name: Option<Reference>,
    /// For which machines it is.
    pub platform: Platform,
}

impl Ready {
    /// An image of an archive, under another name where one is given.
    #[must_use]
    pub fn of(unpacked: Unpacked, name: Option<Reference>) -> Ready {
        let name = name.or_else(|| unpacked.image.names.first().cloned());
        let (config, platform) = (unpacked.image.config_bytes, unpacked.image.platform);
        Ready { config, layers: unpacked.layers, name, platform }
    }

    /// As what is written.
    #[must_use]
    pub fn contents(&self) -> Contents<'_> {
        let Ready { config, layers, name, platform } = self;
        Contents { config, layers, name: name.as_ref(), platform }
    }

    fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }
}

/// Puts an image into the engine and looks whether that is what it has then.
///
/// # Errors
/// [`ImageError`]. What the engine kept of an image that failed on the way is not used: every use inspects.
pub async fn load(engine: &Engine, image: &Ready, report: Report<'_>) -> Result<Seen, ImageError> {
    let ids = super::archive::ids(&image.contents());
    let (what, total) = (ids.config.hex()[..12].to_owned(), image.bytes());
    let (written, sent) = (Arc::<Mutex<Option<ArchiveError>>>::default(), Arc::<AtomicU64>::default());
    let pipe = Writing::start(image.clone(), Arc::clone(&written), Arc::clone(&sent));
    let mut loading = std::pin::pin!(engine.load(pipe.map_err(ArchiveError::at("a pipe"))?));
    let mut ticks = tokio::time::interval(EVERY);
    let loaded = loop {
        tokio::select! {
            loaded = &mut loading => break loaded,
            _ = ticks.tick() => {
                let done = sent.load(Ordering::Relaxed).min(total);
                report(Progress { what: &what, status: "goes into the engine", done, total });
            }
        }
    };
    // Where the archive could not be written the engine only knows that it came to an end.
    if let Some(error) = written.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.into());
    }
    loaded?;
    let wanted = Image {
        image: ids.config.to_string(),
        config_digest: None,
        diff_ids: image.layers.iter().map(|layer| layer.diff_id.to_string()).collect(),
        platform: Some(image.platform.to_string()),
        contents: None,
    };
    let names =
        [Some(ids.config.to_string()), Some(ids.manifest.to_string()), image.name.as_ref().map(ToString::to_string)];
    for name in names.into_iter().flatten() {
        if let Some(seen) = inspect(engine, &name).await? {
            check(&wanted, &seen, &name)?;
            return Ok(seen);
        }
    }
    let what = "it took the archive and does not have it".to_owned();
    Err(ImageError::Odd { name: ids.config.to_string(), engine: engine.facts().name(), what })
}

/// Writes what the engine gives of an image into the file `into`, which is new. Nothing of it is verified yet.
///
/// # Errors
/// [`ImageError`].
pub async fn export(engine: &Engine, name: &str, into: &Path, report: Report<'_>) -> Result<(), ImageError> {
    let mut file = std::fs::File::create_new(into).map_err(ArchiveError::at(into))?;
    let mut stream = engine.save(name);
    let mut done = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| match error {
            error if error.is_absent() => ImageError::Absent { name: name.to_owned(), engine: engine.facts().name() },
            error => error.into(),
        })?;
        file.write_all(&chunk).map_err(ArchiveError::at(into))?;
        done += chunk.len() as u64;
        report(Progress { what: name, status: "comes out of the engine", done, total: 0 });
    }
    Ok(())
}

/// Lets the engine pull `name@digest` and looks whether it has that then. A pull that was cut is asked for a second time.
///
/// # Errors
/// [`ImageError`].
pub async fn pull(
    engine: &Engine,
    name: &Reference,
    login: Option<DockerCredentials>,
    report: Report<'_>,
) -> Result<Seen, ImageError> {
    // Engines take a tag or a digest.
    let name = Reference { tag: None, ..name.clone() }.to_string();
    let wanted = Image { image: name.clone(), ..Image::default() };
    super::identity::pinned(&wanted)?;
    let on = |said: crate::engine::Progress| {
        let (done, total) = (said.done.unwrap_or(0), said.total.unwrap_or(0));
        report(Progress { what: &said.layer, status: &said.phase, done, total });
    };
    engine.pull(&name, login, on).await?;
    let absent = || ImageError::Absent { name: name.clone(), engine: engine.facts().name() };
    let seen = inspect(engine, &name).await?.ok_or_else(absent)?;
    check(&wanted, &seen, &name)?;
    Ok(seen)
}

/// An archive that is written while it is read. It ends well only where it was written well.
struct Writing {
    pipe: PipeReader,
    writer: Option<JoinHandle<Result<(), ArchiveError>>>,
    failed: Arc<Mutex<Option<ArchiveError>>>,
    sent: Arc<AtomicU64>,
}

impl Writing {
    fn start(image: Ready, failed: Arc<Mutex<Option<ArchiveError>>>, sent: Arc<AtomicU64>) -> io::Result<Writing> {
        let (pipe, into) = io::pipe()?;
        let writer = std::thread::Builder::new().name("archive".to_owned());
        let writer = writer.spawn(move || write(&image.contents(), into).map(drop))?;
        Ok(Writing { pipe, writer: Some(writer), failed, sent })
    }
}

impl Read for Writing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(buffer)?;
        self.sent.fetch_add(read as u64, Ordering::Relaxed);
        if read == 0
            && !buffer.is_empty()
            && let Some(writer) = self.writer.take()
        {
            match writer.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other("the archive could not be written"));
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(read)
    }
}
