//! Whether an image is the one of the lock. Text against text: nobody is asked here.
//!
//! What identifies an image: the digest of its configuration, which names its layers by what they unpack to. Engines whose
//! store keeps configurations show it as the image's id; those on containerd's store show the digest of the manifest
//! instead, so that what the lock has of both is compared with what an engine has of either.

use crate::code::ParityCode;
use crate::finding::Finding;
use crate::lock::Image;
use crate::lock::image::{Digest, ImageName, Platform, Reference};

/// What an engine says of an image, or what stands in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The engine's id: the digest of the configuration, or of the manifest or index.
    pub id: Digest,
    /// `name@digest` for every registry that the image is known to be in; empty for one that was loaded.
    pub repo_digests: Vec<Reference>,
    /// Whether the id is that of a manifest, so that the configuration's digest is not shown: the engine keeps its images in
    /// containerd's store.
    pub by_manifest: bool,
    /// The digests of the unpacked layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// For which machines it is.
    pub platform: Platform,
}

impl Seen {
    fn knows(&self, manifest: Digest) -> bool {
        (self.by_manifest && self.id == manifest)
            || self.repo_digests.iter().any(|known| known.digest == Some(manifest))
    }
}

/// By what an image was found to be the one of the lock, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The digest of its configuration, which covers everything.
    Config,
    /// The digest of its manifest, which covers everything.
    Manifest,
    /// Its layers and its platform. The engine shows no digest that the lock has: variables, user and entry point of the
    /// image are not compared. Nothing of these reaches a cell.
    Layers,
}

impl Proof {
    /// For the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Proof::Config => "config digest",
            Proof::Manifest => "manifest digest",
            Proof::Layers => "layers and platform",
        }
    }
}

/// Whether the image of the lock says which bytes are meant.
///
/// # Errors
/// PARITY-014, with what it says instead.
pub fn pinned(image: &Image) -> Result<ImageName, Finding> {
    let refuse = |what: String| {
        let hint = "pin it: `ft lock --image NAME` writes the digests of an image that an engine has";
        Err(Finding::new(ParityCode::IMAGE_NOT_PINNED, "preflight", what).hint(hint))
    };
    match image.image.parse::<ImageName>() {
        Ok(name) if name.is_pinned() => Ok(name),
        Ok(ImageName::Named(Reference { tag: Some(tag), .. })) => refuse(format!(
            "{}: the tag `{tag}` can name other bytes tomorrow, and the lock has no digest",
            image.image
        )),
        Ok(name) => refuse(format!("{name}: neither a tag nor a digest; what is meant changes from day to day")),
        Err(error) => refuse(format!("{:?} names no image: {error}", image.image)),
    }
}

/// Whether `seen` is the image of the lock. `called` is what it was asked for by, for the messages.
///
/// # Errors
/// PARITY-014 where the lock pins nothing; PARITY-051 with the first thing that differs: platform, layers, configuration,
/// digest.
pub fn check(image: &Image, seen: &Seen, called: &str) -> Result<Proof, Finding> {
    let name = pinned(image)?;
    let refuse = |what: String, hint: &str| {
        Err(Finding::new(ParityCode::IMAGE_IDENTITY, "preflight", format!("{called}: {what}")).hint(hint))
    };
    if let Some(wanted) = image.platform.as_ref().and_then(|text| text.parse::<Platform>().ok())
        && !wanted.takes(&seen.platform)
    {
        return refuse(
            format!("the image is for {}, and the lock says {wanted}", seen.platform),
            "load or pull the image of the lock's platform",
        );
    }
    let wanted: Vec<Digest> = image.diff_ids.iter().filter_map(|text| text.parse().ok()).collect();
    if !wanted.is_empty() && wanted != seen.diff_ids {
        return refuse(
            layers(&wanted, &seen.diff_ids),
            "load or pull the image that the lock names; its name alone is no proof",
        );
    }
    let config = match &name {
        ImageName::Id(id) => Some(*id),
        ImageName::Named(_) => image.config_digest.as_ref().and_then(|text| text.parse().ok()),
    };
    let manifest = match &name {
        ImageName::Id(_) => None,
        ImageName::Named(reference) => reference.digest,
    };
    if config == Some(seen.id) && !seen.by_manifest {
        return Ok(Proof::Config);
    }
    if let Some(config) = config
        && !seen.by_manifest
    {
        let same = if wanted.is_empty() { "" } else { "the layers are those of the lock, " };
        return refuse(
            format!("{same}the configuration is {}, and the lock has {config}", seen.id),
            "another user, entry point or variable makes another image: load or pull the one of the lock",
        );
    }
    if manifest.is_some_and(|manifest| seen.knows(manifest)) {
        return Ok(Proof::Manifest);
    }
    // The engine shows neither digest. Where the lock has the layers, those are compared already.
    if !wanted.is_empty() && seen.by_manifest {
        return Ok(Proof::Layers);
    }
    let known: Vec<String> = seen.repo_digests.iter().map(ToString::to_string).collect();
    match (known.is_empty(), manifest) {
        (false, Some(manifest)) => refuse(
            format!("the engine has {}, and the lock has {manifest}", known.join(", ")),
            "pull the image by the lock's digest, or accept the other one with `ft lock --image NAME`",
        ),
        _ => refuse(
            format!("the engine knows no digest of it that the lock has (its id is {})", seen.id),
            "it was loaded and not pulled: `ft lock --image NAME` adds its config digest and layers to the lock",
        ),
    }
}

fn layers(wanted: &[Digest], found: &[Digest]) -> String {
    let differing = wanted.iter().zip(found).position(|(wanted, found)| wanted != found);
    match differing {
        Some(at) => format!(
            "other layers: layer {} of {} is {}, and the lock has {}",
            at + 1,
            found.len(),
            found[at],
            wanted[at]
        ),
        None => format!("other layers: it has {}, and the lock has {}", found.len(), wanted.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    const CONFIG: u8 = 1;
    const MANIFEST: u8 = 2;
    const LAYERS: [u8; 2] = [3, 4];

    /// A lock that has everything.
    fn lock() -> Image {
        Image {
            image: format!("localhost:5000/x@{}", digest(MANIFEST)),
            config_digest: Some(digest(CONFIG).to_string()),
            diff_ids: LAYERS.map(|byte| digest(byte).to_string()).to_vec(),
            platform: Some("linux/amd64".to_owned()),
            contents: None,
        }
    }

    /// The same image after a load, in an engine that shows configurations.
    fn loaded() -> Seen {
        Seen {
            id: digest(CONFIG),
            repo_digests: vec![],
            by_manifest: false,
            diff_ids: LAYERS.map(digest).to_vec(),
            platform: Platform::new("linux", "amd64", None),
        }
    }

    /// In an engine on containerd's store: the id is `manifest`.
    fn by_manifest(manifest: u8) -> Seen {
        Seen { id: digest(manifest), by_manifest: true, ..loaded() }
    }

    fn pulled(seen: Seen, manifest: u8) -> Seen {
        Seen { repo_digests: vec![format!("localhost:5000/x@{}", digest(manifest)).parse().unwrap()], ..seen }
    }

    #[test]
    fn the_image_of_the_lock_is_known_in_every_store() {
        let no_config = Image { config_digest: None, ..lock() };
        let digest_only = Image { diff_ids: vec![], platform: None, ..no_config.clone() };
        let built_here = Image { image: digest(CONFIG).to_string(), config_digest: None, ..lock() };
        for (lock, seen, proof) in [
            (lock(), loaded(), Proof::Config),
            (lock(), pulled(loaded(), MANIFEST), Proof::Config),
            (lock(), pulled(loaded(), 9), Proof::Config),
            (no_config.clone(), pulled(loaded(), MANIFEST), Proof::Manifest),
            (digest_only.clone(), pulled(loaded(), MANIFEST), Proof::Manifest),
            (lock(), by_manifest(MANIFEST), Proof::Manifest),
            (lock(), pulled(by_manifest(MANIFEST), MANIFEST), Proof::Manifest),
            (lock(), by_manifest(9), Proof::Layers),
            (built_here.clone(), loaded(), Proof::Config),
            (built_here.clone(), by_manifest(9), Proof::Layers),
        ] {
            assert_eq!(check(&lock, &seen, "x"), Ok(proof), "{lock:?} {seen:?}");
        }
    }

    #[test]
    fn every_difference_has_its_own_message() {
        let no_config = Image { config_digest: None, ..lock() };
        let bare = Image { diff_ids: vec![], platform: None, ..no_config.clone() };
        let arm = Platform::new("linux", "arm64", Some("v8"));
        let tag = |image: &str| Image { image: image.to_owned(), ..lock() };
        for (lock, seen, code, says) in [
            (tag("x:3.11"), loaded(), ParityCode::IMAGE_NOT_PINNED, "x:3.11: the tag `3.11` can name other bytes"),
            (tag("localhost:5000/x"), loaded(), ParityCode::IMAGE_NOT_PINNED, "localhost:5000/x: neither a tag nor"),
            (tag(""), loaded(), ParityCode::IMAGE_NOT_PINNED, "\"\" names no image"),
            (
                lock(),
                Seen { platform: arm, ..loaded() },
                ParityCode::IMAGE_IDENTITY,
                "x: the image is for linux/arm64, and the lock says linux/amd64",
            ),
            (
                lock(),
                Seen { diff_ids: vec![digest(3), digest(9)], ..loaded() },
                ParityCode::IMAGE_IDENTITY,
                "x: other layers: layer 2 of 2 is sha256:0909",
            ),
            (
                lock(),
                Seen { diff_ids: vec![digest(3)], ..loaded() },
                ParityCode::IMAGE_IDENTITY,
                "x: other layers: it has 1, and the lock has 2",
            ),
            (
                lock(),
                Seen { id: digest(9), ..loaded() },
                ParityCode::IMAGE_IDENTITY,
                "x: the layers are those of the lock, the configuration is sha256:0909",
            ),
            (
                no_config.clone(),
                pulled(loaded(), 9),
                ParityCode::IMAGE_IDENTITY,
                "x: the engine has localhost:5000/x@sha256:0909",
            ),
            (no_config, loaded(), ParityCode::IMAGE_IDENTITY, "x: the engine knows no digest of it that the lock has"),
            (bare, by_manifest(9), ParityCode::IMAGE_IDENTITY, "x: the engine knows no digest of it that the lock has"),
        ] {
            let finding = check(&lock, &seen, "x").unwrap_err();
            assert_eq!(finding.code, code, "{finding:?}");
            assert!(finding.message.starts_with(says), "{finding:?}");
        }
    }

    proptest! {
        /// Nothing is accepted by configuration or manifest whose digest the lock does not have, and nothing at all whose
        /// layers or platform differ from the lock's.
        #[test]
        fn nothing_passes_that_the_lock_does_not_have(
            id in 0u8..6, repo in proptest::option::of(0u8..6), manifest_ids: bool,
            layers in proptest::collection::vec(3u8..6, 0..3), arm: bool,
            with_config: bool, with_layers: bool, with_platform: bool, by_id: bool,
        ) {
            let mut lock = lock();
            if by_id { lock.image = digest(CONFIG).to_string(); }
            if !with_config { lock.config_digest = None; }
            if !with_layers { lock.diff_ids.clear(); }
            if !with_platform { lock.platform = None; }
            let mut seen = Seen {
                id: digest(id),
                by_manifest: manifest_ids,
                diff_ids: layers.iter().copied().map(digest).collect(),
                platform: Platform::new("linux", if arm { "arm64" } else { "amd64" }, None),
                ..loaded()
            };
            if let Some(repo) = repo { seen = pulled(seen, repo); }
            if let Ok(proof) = check(&lock, &seen, "x") {
                prop_assert!(!with_platform || !arm);
                prop_assert!(!with_layers || layers == LAYERS);
                match proof {
                    Proof::Config => prop_assert!(id == CONFIG && !manifest_ids && (with_config || by_id)),
                    Proof::Manifest => prop_assert!(!by_id && ((manifest_ids && id == MANIFEST) || repo == Some(MANIFEST))),
                    Proof::Layers => prop_assert!(with_layers),
                }
            }
        }
    }
}
