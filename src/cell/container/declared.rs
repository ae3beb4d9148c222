//! What an image declares as volumes. Left to the engine, each would be an anonymous volume, and it would follow the
//! image's own links to put it there: onto our agent, say, which then were the image's. Here each is read-only, with what
//! the image has at that place, and stands where it is called, or there is no container of that image.

use super::{Image, OpenError, volumes};
use crate::engine::labels::Labels;
use crate::engine::{Engine, EngineError};
use std::path::Path;

/// Where an image can have no volume: our own places, and what an engine mounts nothing into.
const TAKEN: [&str; 3] = ["/ft", "/proc", "/sys"];

/// What every container of ours has as a place of its own, whatever the image says.
const OURS: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/etc"];

/// What an image declares, but for the places that every container of ours has.
pub(super) fn further(image: &Image) -> impl Iterator<Item = &str> {
    image.volumes.iter().map(String::as_str).filter(|place| !OURS.contains(place))
}

/// Looks whether containers of this image can have its volumes beside our places. An engine mounts in the order of depth
/// and resolves links as it goes; so is it asked here where each path leads, through a container that is only created.
///
/// # Errors
/// A volume is where cells have their places, or links decide which of two is on top, or the engine can't be asked.
pub(super) async fn check(engine: &Engine, image: &Image, labels: &Labels) -> Result<(), OpenError> {
    let taken = |place: &str| place == "/" || TAKEN.iter().any(|taken| Path::new(place).starts_with(taken));
    if let Some(place) = further(image).find(|place| taken(place)) {
        return Err(OpenError::Place { declared: place.to_owned(), place: place.to_owned() });
    }
    if further(image).next().is_none() {
        return Ok(());
    }
    let container = volumes::create_to_look(engine, image, labels).await?;
    let resolved = resolved(engine, &container, image).await;
    volumes::remove(engine, &container).await;
    let (ours, declared) = resolved?;
    for (at, volume) in declared.iter().enumerate() {
        if taken(&volume.place) || ours.iter().any(|our| volume.crosses(our)) {
            return Err(OpenError::Place { declared: volume.called.clone(), place: volume.place.clone() });
        }
        if let Some(other) = declared[..at].iter().find(|other| volume.crosses(other)) {
            return Err(OpenError::Meet { declared: volume.called.clone(), other: other.called.clone() });
        }
    }
    Ok(())
}

/// A path of the image, and where it leads once its links are followed.
#[derive(Debug, Clone)]
struct Resolved {
    called: String,
    place: String,
}

impl Resolved {
    fn is_straight(&self) -> bool {
        self.called == self.place
    }

    /// Whether one is in the other, and links hide that from whoever sorts them by name. Without links the inner one is
    /// mounted on the outer one, as both sides mean it.
    fn crosses(&self, other: &Resolved) -> bool {
        let (one, two) = (Path::new(&self.place), Path::new(&other.place));
        let meet = one.starts_with(two) || two.starts_with(one);
        meet && !(self.is_straight() && other.is_straight())
    }
}

/// Our places and the further volumes.
async fn resolved(
    engine: &Engine,
    container: &str,
    image: &Image,
) -> Result<(Vec<Resolved>, Vec<Resolved>), EngineError> {
    let mut all = [Vec::new(), Vec::new()];
    let ours = OURS.into_iter().chain(["/ft"]).map(|place| (0, place));
    for (whose, called) in ours.chain(further(image).map(|place| (1, place))) {
        let mut at = String::new();
        for part in called.split('/').filter(|part| !part.is_empty()) {
            let path = format!("{at}/{part}");
            let link = engine.look(container, &path).await?.map(|found| found.link_target).unwrap_or_default();
            // From the root, all links followed.
            at = if link.is_empty() { path } else { cleaned(&link).trim_end_matches('/').to_owned() };
        }
        all[whose].push(Resolved { called: called.to_owned(), place: cleaned(&at) });
    }
    // What is not there has no links; nor has what somebody removed meanwhile.
    let there = engine.docker().inspect_container(container, None).await;
    there.map_err(|error| engine.error("looking at the image", error))?;
    let [ours, declared] = all;
    Ok((ours, declared))
}

/// A path as engines understand it, also one that begins nowhere.
pub(super) fn cleaned(place: &str) -> String {
    let mut parts = Vec::new();
    for part in place.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
