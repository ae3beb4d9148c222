//! What the lock says of containers: names and digests, checked as text. No engine is asked.

use super::error::LockError;
use super::image::{Digest, ImageName, Platform, ReferenceError};
use super::parse::Notes;
use super::place::Place;
use super::raw::{RawContainer, RawImage};
use super::{Container, Image};
use std::collections::BTreeMap;

/// What is expected where a digest stands.
const DIGEST: &str = "a digest: `sha256:` and 64 hexadecimal digits";

/// Checks the container of a lock. `matrix` has every Python of the lock, `python` first.
pub(super) fn container(
    notes: &Notes<'_>,
    raw: RawContainer,
    version: u64,
    matrix: &[String],
) -> Result<Container, LockError> {
    let place = Place::from(["container"]);
    let force = raw.force_container.unwrap_or(false);
    if force && raw.image.is_none() && version >= 2 {
        return Err(notes.refuse(&place, "`force_container` without `image`: there is nothing to run in"));
    }
    let mut images = BTreeMap::new();
    for (python, raw) in raw.images.unwrap_or_default() {
        let place = place.key("images").key(&python);
        match matrix.iter().position(|wanted| *wanted == python) {
            Some(0) => return Err(notes.refuse_key(&place, "the image of `python` is `container.image`")),
            Some(_) => {}
            None => return Err(notes.refuse_key(&place, format!("{python:?} is not in `matrix.python`"))),
        }
        let Some(image) = self::image(notes, &place, raw, version)? else {
            return Err(notes.refuse(&place, "missing field `image`: \"name@sha256:...\", or \"sha256:...\""));
        };
        images.insert(python, image);
    }
    let RawContainer { image, config_digest, diff_ids, platform, contents, .. } = raw;
    // What stands beside an image that is not there is checked all the same.
    let named = image.is_some();
    let image = self::image(notes, &place, RawImage { image, config_digest, diff_ids, platform, contents }, version)?;
    let image = image.unwrap_or_default();
    Ok(Container {
        force,
        image: named.then_some(image.image),
        config_digest: image.config_digest,
        diff_ids: image.diff_ids,
        platform: image.platform,
        contents: image.contents,
        images,
    })
}

/// What identifies one image; `None` where nothing is said about one.
fn image(notes: &Notes<'_>, place: &Place, raw: RawImage, version: u64) -> Result<Option<Image>, LockError> {
    if raw == RawImage::default() {
        return Ok(None);
    }
    let digest = |place: &Place, text: &str| text.parse::<Digest>().map_err(|_| notes.expected(place, DIGEST));
    let name = raw.image.as_deref().map(|text| {
        text.parse::<ImageName>().map_err(|error| match error {
            ReferenceError::Digest => notes.expected(&place.key("image"), DIGEST),
            _ => notes.expected(&place.key("image"), format!("the name of an image, `name@sha256:...` ({error})")),
        })
    });
    let name = match name {
        // Version 1 never looked at the name; what it pins is judged where a container is asked for.
        Some(Err(_)) if version < 2 => None,
        other => other.transpose()?,
    };
    let config_digest = raw.config_digest.map(|text| digest(&place.key("config_digest"), &text)).transpose()?;
    if let (Some(ImageName::Id(id)), Some(config)) = (&name, &config_digest)
        && id != config
    {
        let what = "`image` is the digest of a configuration, and this is another one";
        return Err(notes.refuse(&place.key("config_digest"), what));
    }
    if let Some(text) = &raw.platform
        && !text.parse::<Platform>().is_ok_and(|platform| platform.os == "linux")
    {
        return Err(notes.expected(&place.key("platform"), "a platform such as \"linux/amd64\""));
    }
    if raw.contents.as_ref().is_some_and(|contents| !contents.is_whole()) {
        let what = "digests of 64 hexadecimal digits; `ft lock --image` writes them";
        return Err(notes.expected(&place.key("contents"), what));
    }
    let diff_ids = raw.diff_ids.unwrap_or_default().into_iter().enumerate();
    Ok(Some(Image {
        contents: raw.contents,
        // As it is written, but for the case of a digest's digits.
        image: name.map_or_else(|| raw.image.unwrap_or_default(), |name| name.to_string()),
        config_digest: config_digest.map(|digest| digest.to_string()),
        diff_ids: diff_ids
            .map(|(at, text)| digest(&place.key("diff_ids").index(at), &text).map(|digest| digest.to_string()))
            .collect::<Result<_, _>>()?,
        platform: raw.platform,
    }))
}
