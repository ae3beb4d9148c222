//! Removes from an engine what dead runs left there, and nothing that may belong to a live one.

use super::labels::{self, Labels, Owner};
use super::{Api, Engine, EngineError, LONG_PATIENCE};
use bollard::query_parameters::{
    ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions, RemoveVolumeOptions,
};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// What was removed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Containers, by the run that made them.
    pub containers: Vec<String>,
    /// Volumes, by name.
    pub volumes: Vec<String>,
    /// Networks, by name.
    pub networks: Vec<String>,
    /// What should have been removed and could not be, and why. It is tried again by the next run.
    pub left: Vec<EngineError>,
}

impl Swept {
    /// How many things were removed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.containers.len() + self.volumes.len() + self.networks.len()
    }
}

/// A volume that outlives its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVolume {
    /// Its name in the engine, which says what is in it.
    pub name: String,
    /// When it was made, as the engine writes it: RFC 3339, so that text sorts by time within one zone.
    pub created: String,
    /// Bytes; none where the engine does not say.
    pub bytes: Option<u64>,
    /// Whether a container has it mounted.
    pub used: bool,
}

impl Engine {
    /// Removes the containers, volumes and networks of runs that are over: those of dead processes of this host, and of
    /// others what is past its deadline. Volumes that are shared stay ([`Engine::gc`] is for them).
    ///
    /// # Errors
    /// The engine can't be asked. What can't be removed is in [`Swept::left`].
    pub async fn sweep(&self, me: &Owner) -> Result<Swept, EngineError> {
        let now = self.now();
        let over = |map: &HashMap<String, String>| {
            Labels::from_map(map).filter(|labels| labels.is_over(me, now, labels::started))
        };
        let mut swept = Swept::default();
        let containers = ListContainersOptions { all: true, filters: Some(ours()), ..Default::default() };
        let listed = self.docker().list_containers(Some(containers)).await;
        for container in listed.map_err(|error| self.error("listing containers", error))? {
            let labels = container.labels.as_ref().and_then(over);
            let (Some(labels), Some(id)) = (labels, container.id) else { continue };
            match self.remove_container(&id).await {
                Ok(true) => swept.containers.push(labels.run),
                Ok(false) => {}
                Err(error) => swept.left.push(error),
            }
        }
        // After the containers, which hold them.
        let volumes = self.volumes().await?;
        let names: BTreeSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        for volume in &volumes {
            // Left where the removal of a shared volume was killed: it would call an empty volume whole.
            let stale = volume.labels.contains_key(labels::SHARED)
                && labels::marked(&volume.name).is_some_and(|whole| !names.contains(whole));
            if !stale && over(&volume.labels).is_none() {
                continue;
            }
            match self.remove_volume(&volume.name).await {
                Ok(true) => swept.volumes.push(volume.name.clone()),
                Ok(false) => {}
                Err(error) => swept.left.push(error),
            }
        }
        let listed = self.docker().list_networks(Some(ListNetworksOptions { filters: Some(ours()) })).await;
        for network in listed.map_err(|error| self.error("listing networks", error))? {
            let labels = network.labels.as_ref().and_then(over);
            let (Some(_), Some(name), Some(id)) = (labels, network.name, network.id) else { continue };
            match self.remove_network(&id).await {
                Ok(true) => swept.networks.push(name),
                Ok(false) => {}
                Err(error) => swept.left.push(error),
            }
        }
        Ok(swept)
    }

    /// Removes shared volumes, the oldest first, until the rest takes no more than `keep_bytes`. Those in use and those
    /// named in `keep` stay, whatever the budget says. Returns what was removed.
    ///
    /// # Errors
    /// The engine can't be asked, or a volume can't be removed for another reason than being in use.
    pub async fn gc(&self, keep_bytes: u64, keep: &[String]) -> Result<Vec<SharedVolume>, EngineError> {
        let mut removed = Vec::new();
        for volume in beyond(self.shared_volumes().await?, keep_bytes, keep) {
            // Before its mark: of one that was taken into use meanwhile, the engine refuses to let go, and it stays whole.
            match self.remove_volume(&volume.name).await {
                Ok(gone) => {
                    self.remove_volume(&labels::mark(&volume.name)).await?;
                    if gone {
                        removed.push(volume);
                    }
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Removes a container, running or not, and its anonymous volumes. False where it is gone already, or on its way:
    /// an engine removes containers by itself as well.
    ///
    /// # Errors
    /// The engine can't be asked, or says no.
    pub async fn remove_container(&self, id: &str) -> Result<bool, EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        gone(
            self.docker()
                .remove_container(id, Some(options))
                .await
                .map_err(|error| self.error(&format!("removing container {id}"), error)),
        )
    }

    /// Removes a volume. False where it is gone already.
    ///
    /// # Errors
    /// A container uses it ([`EngineError::is_conflict`]), the engine can't be asked, or says no.
    pub async fn remove_volume(&self, name: &str) -> Result<bool, EngineError> {
        let removed = self.docker().remove_volume(name, None::<RemoveVolumeOptions>).await;
        match removed.map_err(|error| self.error(&format!("removing volume {name}"), error)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a network. False where it is gone already.
    ///
    /// # Errors
    /// A container uses it, the engine can't be asked, or says no.
    pub async fn remove_network(&self, id: &str) -> Result<bool, EngineError> {
        let removed = self.docker().remove_network(id).await;
        gone(removed.map_err(|error| self.error(&format!("removing network {id}"), error)))
    }

    /// The volumes that outlive their runs, with what they take; not their marks.
    ///
    /// # Errors
    /// The engine can't be asked.
    pub async fn shared_volumes(&self) -> Result<Vec<SharedVolume>, EngineError> {
        // bollard 0.21 knows only the shape of API 1.52. Older engines measure everything, which takes a while.
        let path = if self.facts().asked >= Api(1, 42) { "/system/df?type=volume" } else { "/system/df" };
        let doing = "measuring volumes";
        let said = self.raw.get(path, LONG_PATIENCE).await.map_err(|error| self.error(doing, error))?;
        let usage: Usage = serde_json::from_slice(&said).map_err(|error| self.error(doing, error.into()))?;
        let mut measured: HashMap<String, Option<Taken>> =
            usage.volumes.unwrap_or_default().into_iter().map(|it| (it.name, it.usage)).collect();
        // Podman measures volumes without their labels and their age.
        let shared = self
            .volumes()
            .await?
            .into_iter()
            .filter(|volume| volume.labels.contains_key(labels::SHARED) && labels::marked(&volume.name).is_none());
        Ok(shared
            // One that was made meanwhile is somebody's who is about to use it.
            .filter_map(|volume| {
                let taken = measured.remove(&volume.name)?;
                Some(SharedVolume {
                    created: volume.created_at.unwrap_or_default(),
                    bytes: taken.as_ref().and_then(|taken| u64::try_from(taken.size).ok()),
                    used: taken.is_some_and(|taken| taken.references > 0),
                    name: volume.name,
                })
            })
            .collect())
    }

    /// All of them: those of runs and those that are shared have no label in common.
    async fn volumes(&self) -> Result<Vec<bollard::models::Volume>, EngineError> {
        let listed = self.docker().list_volumes(Some(ListVolumesOptions { filters: None })).await;
        Ok(listed.map_err(|error| self.error("listing volumes", error))?.volumes.unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct Usage {
    #[serde(rename = "Volumes")]
    volumes: Option<Vec<Measured>>,
}

#[derive(Deserialize)]
struct Measured {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "UsageData")]
    usage: Option<Taken>,
}

/// Both are -1 where the engine does not know.
#[derive(Deserialize)]
struct Taken {
    #[serde(rename = "Size")]
    size: i64,
    #[serde(rename = "RefCount")]
    references: i64,
}

/// The volumes that go: the oldest of those that may, until the budget holds.
fn beyond(mut volumes: Vec<SharedVolume>, keep_bytes: u64, keep: &[String]) -> Vec<SharedVolume> {
    let mut total: u64 = volumes.iter().filter_map(|volume| volume.bytes).sum();
    volumes.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
    volumes.retain(|volume| {
        let goes = total > keep_bytes && !volume.used && !keep.contains(&volume.name);
        if goes {
            total -= volume.bytes.unwrap_or_default();
        }
        goes
    });
    volumes
}

/// What has our label; whose it is, its labels say.
fn ours() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![labels::RUN.to_owned()])])
}

/// 404: gone. 409: another removal is under way.
fn gone(removed: Result<(), EngineError>) -> Result<bool, EngineError> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() || (error.is_conflict() && error.to_string().contains("in progress")) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_volumes_go_until_the_budget_holds() {
        let volume = |name: &str, created: &str, bytes, used| SharedVolume {
            name: name.into(),
            created: created.into(),
            bytes,
            used,
        };
        let all = || {
            vec![
                volume("new", "2026-03-01T00:00:00Z", Some(40), false),
                volume("old", "2026-01-01T00:00:00Z", Some(30), false),
                volume("used", "2025-01-01T00:00:00Z", Some(20), true),
                volume("unsized", "2026-02-01T00:00:00Z", None, false),
            ]
        };
        let names = |keep_bytes, keep: &[String]| -> Vec<String> {
            beyond(all(), keep_bytes, keep).into_iter().map(|volume| volume.name).collect()
        };
        assert_eq!(names(90, &[]), [""; 0]);
        assert_eq!(names(89, &[]), ["old"]);
        assert_eq!(names(59, &[]), ["old", "unsized", "new"]);
        assert_eq!(names(0, &["old".to_owned()]), ["unsized", "new"]);
    }
}
