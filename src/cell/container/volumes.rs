//! Volumes. Those that runs share are named by their content and sealed: filled once, whoever asks, through a container
//! that is only created, and marked by an empty volume when they are whole; the agent looks at a file that was written
//! last, too. One more, which is one run's alone, takes its large tars.

use super::body::mount;
use super::{GOODS, Image, goods};
use crate::cell::CellError;
use crate::engine::labels::Labels;
use crate::engine::{Engine, EngineError, Kind};
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest};
use bollard::query_parameters::CreateContainerOptions;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that says that everything before it came.
const SEAL: &str = ".ft-volume";

/// How long somebody else may take to fill a volume before he counts as dead.
const FILLING: Duration = Duration::from_secs(300);

/// How often he is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Changes when volumes are filled in another way.
const LAYOUT: &str = "2";

/// A volume that many steps and runs share.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) target: String,
    contents: Contents,
}

/// What goes into a volume.
#[derive(Debug, Clone)]
pub(super) enum Contents {
    /// A directory of the host, and further files: name, content, mode.
    Files { from: PathBuf, more: Vec<(&'static str, &'static [u8], u32)> },
    /// What the image has at that place, and further files.
    Image(Vec<(&'static str, &'static [u8], u32)>),
}

impl Volume {
    /// `key` is everything that its content depends on.
    pub(super) fn new(kind: &str, target: &str, key: &[&str], contents: Contents) -> Volume {
        let digest = digest(format!("{LAYOUT}\n{target}\n{}", key.join("\n")).as_bytes());
        Volume { name: format!("ft-{kind}-{}", &digest[..24]), target: target.to_owned(), contents }
    }

    /// Path and text of the file that was written last.
    pub(super) fn seal(&self) -> (String, String) {
        (format!("{}/{SEAL}", self.target), self.name.clone())
    }

    /// The empty volume that says that this one is whole.
    pub(super) fn mark(&self) -> String {
        crate::engine::labels::mark(&self.name)
    }
}

/// sha256 in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The last part of a path that is named by its content.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Fills and seals a volume, unless it is.
pub(super) async fn ensure(engine: &Engine, image: &Image, labels: &Labels, volume: &Volume) -> Result<(), CellError> {
    let began = tokio::time::Instant::now();
    loop {
        // Whoever removes one of them removed what the other is for.
        let (mark, content) = (volume.mark(), volume.name.clone());
        let (sealed, there) = tokio::join!(is_there(engine, &mark), is_there(engine, &content));
        match (sealed?, there?) {
            (true, true) => return Ok(()),
            (true, false) => {
                // Tried again by the next round.
                let _ = engine.remove_volume(&mark).await;
            }
            _ => {}
        }
        let loader = format!("ft-fill-{}", volume.name);
        let copy = matches!(volume.contents, Contents::Image(_));
        match create_loader(engine, image, labels, Some(&loader), &volume.name, &volume.target, copy).await {
            Ok(id) => {
                let filled = fill(engine, image, &id, labels, volume).await;
                remove(engine, &id).await;
                return filled;
            }
            Err(error) if error.is_conflict() => {
                if began.elapsed() > FILLING {
                    // Whoever it was is gone; the next round takes his place.
                    remove(engine, &loader).await;
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn is_there(engine: &Engine, volume: &str) -> Result<bool, CellError> {
    match engine.docker().inspect_volume(volume).await {
        Ok(_) => Ok(true),
        Err(error) => match engine.error("looking for a volume", error) {
            error if error.is_absent() => Ok(false),
            error => Err(error.into()),
        },
    }
}

async fn fill(engine: &Engine, image: &Image, loader: &str, labels: &Labels, volume: &Volume) -> Result<(), CellError> {
    if is_there(engine, &volume.mark()).await? {
        // Whoever had the loader's name before was just finished, and somebody may read there already.
        return Ok(());
    }
    // Docker puts what the image has there into a volume when its container is created; Podman when that is started.
    if engine.facts().kind == Kind::Podman && matches!(volume.contents, Contents::Image(_)) {
        let plain = create_to_look(engine, image, labels).await?;
        let copied = engine.copy(&plain, loader, &volume.target).await;
        remove(engine, &plain).await;
        copied?;
    }
    let contents = volume.contents.clone();
    let pieces = goods::reader(move |into| {
        let mut archive = tar::Builder::new(into);
        let more = match contents {
            Contents::Files { from, more } => {
                goods::append_tree(&mut archive, &from)?;
                more
            }
            Contents::Image(more) => more,
        };
        for (name, bytes, mode) in more {
            append(&mut archive, name, bytes, mode)?;
        }
        archive.finish()
    });
    engine.upload(loader, &volume.target, pieces).await?;
    let (name, seal) = (volume.name.clone(), SEAL);
    let pieces = goods::reader(move |into| {
        let mut archive = tar::Builder::new(into);
        append(&mut archive, seal, name.as_bytes(), 0o444)?;
        archive.finish()
    });
    engine.upload(loader, &volume.target, pieces).await?;
    let shared = crate::engine::labels::shared(&labels.repository);
    create_volume(engine, "sealing a volume", &volume.mark(), shared).await?;
    Ok(())
}

/// A volume that is empty, unless it is there: then it stays what it is.
async fn create_volume(
    engine: &Engine,
    doing: &str,
    name: &str,
    labels: HashMap<String, String>,
) -> Result<(), EngineError> {
    let volume = VolumeCreateRequest { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
    engine.docker().create_volume(volume).await.map_err(|error| engine.error(doing, error))?;
    Ok(())
}

fn append(archive: &mut tar::Builder<impl io::Write>, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = goods::header(tar::EntryType::Regular, mode, bytes.len() as u64, 0);
    archive.append_data(&mut header, name, bytes)
}

/// A container that is never started: through it files get into a volume.
async fn create_loader(
    engine: &Engine,
    image: &Image,
    labels: &Labels,
    name: Option<&str>,
    volume: &str,
    target: &str,
    copy: bool,
) -> Result<String, EngineError> {
    let shared = name.is_some();
    let whose = || if shared { crate::engine::labels::shared(&labels.repository) } else { labels.to_map() };
    let mut mount = mount(Some(volume), target, false, copy);
    if let Some(options) = &mut mount.volume_options {
        options.labels = Some(whose());
    }
    // Podman forgets the labels of a volume that comes with its first container.
    create_volume(engine, "making a volume", volume, whose()).await?;
    let options = name.map(|name| CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() });
    let made = engine.docker().create_container(options, never_started(image, labels, vec![mount])).await;
    Ok(made.map_err(|error| engine.error("creating a container to fill a volume", error))?.id)
}

/// A container of the image as it is, to look at its files: with something else where it declares volumes, which an engine
/// would make, and which Podman would look into instead.
pub(super) async fn create_to_look(engine: &Engine, image: &Image, labels: &Labels) -> Result<String, EngineError> {
    let cover = |place: &String| Mount { target: Some(place.clone()), typ: Some(MountType::TMPFS), ..Mount::default() };
    let body = never_started(image, labels, image.volumes.iter().map(cover).collect());
    let made = engine.docker().create_container(None, body).await;
    Ok(made.map_err(|error| engine.error("creating a container to look at the image", error))?.id)
}

fn never_started(image: &Image, labels: &Labels, mounts: Vec<Mount>) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint: Some(vec!["/never".to_owned()]),
        labels: Some(labels.to_map()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            mounts: Some(mounts),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

pub(super) async fn remove(engine: &Engine, container: &str) {
    // What stays is swept by its labels.
    let _ = engine.remove_container(container).await;
}

/// The tars of one run that are too large to be sent to each agent.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Volume, and the container through which it is filled.
    made: Option<(String, String)>,
    count: usize,
}

impl Store {
    /// The volume's name, where there is one.
    pub(super) fn name(&self) -> Option<String> {
        self.made.as_ref().map(|(volume, _)| volume.clone())
    }

    /// Puts one more file into it, and says its name there.
    pub(super) async fn put(
        &mut self,
        engine: &Engine,
        image: &Image,
        labels: &Labels,
        file: &Path,
    ) -> Result<String, CellError> {
        if self.made.is_none() {
            let unique = digest(format!("{labels:?} {} {file:?}", std::process::id()).as_bytes());
            let volume = format!("ft-run-{}", &unique[..24]);
            let loader = create_loader(engine, image, labels, None, &volume, GOODS, false).await?;
            self.made = Some((volume, loader));
        }
        let loader = self.made.as_ref().map(|(_, loader)| loader.clone()).unwrap_or_default();
        self.count += 1;
        let name = format!("{}.tar", self.count);
        let (file, inner) = (file.to_owned(), name.clone());
        let pieces = goods::reader(move |into| {
            let mut archive = tar::Builder::new(into);
            let mut file = std::fs::File::open(file)?;
            let mut header = goods::header(tar::EntryType::Regular, 0o444, file.metadata()?.len(), 0);
            archive.append_data(&mut header, inner, &mut file)?;
            archive.finish()
        });
        engine.upload(&loader, GOODS, pieces).await?;
        Ok(name)
    }

    /// Removes it, when no container has it any more.
    pub(super) async fn remove(&mut self, engine: &Engine) {
        let Some((volume, loader)) = self.made.take() else { return };
        remove(engine, &loader).await;
        for _ in 0..20 {
            match engine.remove_volume(&volume).await {
                // A container of the last step is on its way out.
                Err(error) if error.is_conflict() => tokio::time::sleep(LOOK).await,
                _ => break,
            }
        }
    }
}
