//! What an image declares as volumes. Left to the engine, each would be an anonymous volume, and it would follow the
//! image's own links to put it there: onto our agent, say, which then were the image's.

use super::{Image, OpenError, volumes};
use crate::engine::labels::Labels;
use crate::engine::{Engine, EngineError};
use bollard::query_parameters::ContainerArchiveInfoOptions;
use std::path::Path;

/// Where an image can have no volume: our own places, and what an engine mounts nothing into.
const TAKEN: [&str; 3] = ["/ft", "/proc", "/sys"];

/// What every container of ours has as a place of its own, whatever the image says.
const OURS: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/etc"];

/// What an image declares, but for the places that every container of ours has.
pub(super) fn further(image: &Image) -> impl Iterator<Item = &str> {
    image.volumes.iter().map(String::as_str).filter(|place| !OURS.contains(place))
}

/// Looks whether containers of this image can have its volumes: an engine resolves links when it mounts, and so is it
/// asked here, through a container that is only created.
///
/// # Errors
/// One of them is where cells have their places, or leads to another's, or the engine can't be asked.
pub(super) async fn check(engine: &Engine, image: &Image, labels: &Labels) -> Result<(), OpenError> {
    if let Some(place) = further(image).find(|place| is_taken(place)) {
        return Err(OpenError::Place { declared: place.to_owned(), place: place.to_owned() });
    }
    if further(image).next().is_none() {
        return Ok(());
    }
    let container = volumes::create_to_look(engine, image, labels).await?;
    let resolved = resolved(engine, &container, image).await;
    volumes::remove(engine, &container).await;
    let resolved = resolved?;
    for (declared, place) in resolved.iter().filter(|(declared, place)| declared != place) {
        if is_taken(place) || OURS.iter().any(|ours| Path::new(place).starts_with(ours)) {
            return Err(OpenError::Place { declared: declared.clone(), place: place.clone() });
        }
        // Which of them were on top is the order of their names, not of their places.
        let meets = |other: &str| Path::new(place).starts_with(other) || Path::new(other).starts_with(place);
        if let Some((other, _)) = resolved.iter().find(|(other, at)| other != declared && meets(at)) {
            return Err(OpenError::Meet { declared: declared.clone(), other: other.clone() });
        }
    }
    Ok(())
}

fn is_taken(place: &str) -> bool {
    place == "/" || TAKEN.iter().any(|taken| Path::new(place).starts_with(taken))
}

/// Each declared place with where it leads.
async fn resolved(engine: &Engine, container: &str, image: &Image) -> Result<Vec<(String, String)>, EngineError> {
    let mut all = Vec::new();
    for declared in &image.volumes {
        let mut at = String::new();
        for part in declared.split('/').filter(|part| !part.is_empty()) {
            let path = format!("{at}/{part}");
            at = link(engine, container, &path).await?.unwrap_or(path);
        }
        all.push((declared.clone(), cleaned(&at)));
    }
    Ok(all)
}

/// Where a link of the image leads to in the end; `None` where there is none.
async fn link(engine: &Engine, container: &str, path: &str) -> Result<Option<String>, EngineError> {
    let options = ContainerArchiveInfoOptions { path: path.to_owned() };
    let said = engine.docker().get_container_archive_info(container, Some(options)).await;
    match said.map_err(|error| engine.error("looking at a path of the image", error)) {
        // From the root, all links followed.
        Ok(stat) => {
            Ok((!stat.link_target.is_empty()).then(|| cleaned(&stat.link_target).trim_end_matches('/').to_owned()))
        }
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
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
