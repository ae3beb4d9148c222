//! What `ft lock --image` writes: the identity of one image, and nothing else of the file.

use super::edit::{self, EditError};
use super::place::{Part, Place};
use super::{Image, Lock};
use serde_json::Value;

/// Why an image can't be pinned in this lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Version 1 has no place for digests.
    #[error("a version 1 lock holds no digests")]
    Version,
    /// A Python that the lock does not have.
    #[error("Python {python} is not in the lock; it has {}", .known.join(", "))]
    Python {
        /// What was asked for.
        python: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The lock's text.
    #[error(transparent)]
    Edit(#[from] EditError),
}

impl PinError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Version => "`ft lock` makes it a version 2 lock",
            Self::Python { .. } => "add it to `matrix.python` first",
            Self::Edit(_) => "mend that place in the lock",
        }
    }
}

/// The lock's text with this image for one Python of the matrix. A member that says the same already stays as it is.
///
/// # Errors
/// [`PinError`].
pub fn pin(text: &str, lock: &Lock, python: &str, image: &Image) -> Result<String, PinError> {
    if lock.version < 2 {
        return Err(PinError::Version);
    }
    if !lock.matrix.iter().any(|known| known == python) {
        return Err(PinError::Python { python: python.to_owned(), known: lock.matrix.clone() });
    }
    let place = match python == lock.python {
        true => Place::from(["container"]),
        false => Place::from(["container", "images", python]),
    };
    let mut members = vec![("image", Value::from(image.image.clone()))];
    members.extend(image.config_digest.clone().map(|digest| ("config_digest", digest.into())));
    members.push(("diff_ids", image.diff_ids.clone().into()));
    members.extend(image.platform.clone().map(|platform| ("platform", platform.into())));
    if let Some(contents) = &image.contents {
        members.push(("contents", serde_json::to_value(contents).expect("a map of texts is JSON")));
    }
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let there = place.0.iter().try_fold(&document, |value, part| match part {
        Part::Key(key) => value.get(key),
        Part::Index(at) => value.get(at),
    });
    // An object that is new is written at once, in the shape of the file; in one that is there each member has its place.
    if there.is_none() {
        let all = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        return Ok(edit::set(text, &place, &Value::Object(all))?);
    }
    let mut text = text.to_owned();
    // What was measured in another image says nothing of this one.
    if lock.image(python).is_none_or(|old| old.diff_ids != image.diff_ids) {
        text = edit::remove(&text, &place.key("contents"))?;
    }
    let mut after = None;
    for (name, value) in members {
        text = edit::set_after(&text, &place.key(name), &value, after)?;
        after = Some(name);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(byte: &str) -> Image {
        let digest = format!("sha256:{}", byte.repeat(64));
        Image {
            image: format!("localhost:5000/x@{digest}"),
            config_digest: Some(digest.clone()),
            diff_ids: vec![digest],
            platform: Some("linux/amd64".to_owned()),
            contents: None,
        }
    }

    fn parsed(text: &str) -> Lock {
        Lock::parse(text.as_bytes()).unwrap().0
    }

    const LOCK: &str = "{\n  \"version\": 2,\n  \"python\": \"3.11\", \"matrix\": {\"python\": [\"3.13\"]},\n  \"container\": { \"image\":   \"x:1\", \"force_container\": true },\n  \"tools\": {}\n}\n";

    #[test]
    fn a_pinned_image_stands_where_the_old_one_stood_and_all_else_is_untouched() {
        let text = pin(LOCK, &parsed(LOCK), "3.11", &image("1")).unwrap();
        let lock = parsed(&text);
        assert_eq!(lock.image("3.11"), Some(image("1")));
        assert!(lock.container.force);
        let (head, tail) = (&LOCK[..LOCK.find("\"x:1\"").unwrap()], "\"tools\": {}\n}\n");
        assert!(text.starts_with(head) && text.ends_with(tail), "{text}");
        assert_eq!(pin(&text, &lock, "3.11", &image("1")).unwrap(), text);
        // Another Python of the matrix, beside it.
        let both = pin(&text, &lock, "3.13", &image("2")).unwrap();
        assert_eq!(parsed(&both).image("3.13"), Some(image("2")));
        assert_eq!(parsed(&both).image("3.11"), Some(image("1")));
    }

    #[test]
    fn what_was_measured_in_another_image_goes() {
        let digest = "1".repeat(64);
        let contents = format!("\"contents\": {{\"interpreter\": \"{digest}\", \"stdlib\": \"{digest}\"}}");
        let text = format!(
            "{{\"version\": 2, \"python\": \"3.11\", \"tools\": {{}},\n \"container\": {{\"image\": \"x\", {contents}}}}}"
        );
        assert!(parsed(&text).container.contents.is_some());
        let text = pin(&text, &parsed(&text), "3.11", &image("1")).unwrap();
        assert_eq!(parsed(&text).container.contents, None);
        let measured = text.replace("\"container\": {", &format!("\"container\": {{{contents}, "));
        assert!(parsed(&measured).container.contents.is_some());
        let again = pin(&measured, &parsed(&measured), "3.11", &image("1")).unwrap();
        assert_eq!(again, measured, "the same image keeps it");
    }

    #[test]
    fn what_the_lock_has_no_place_for_is_refused() {
        let error = pin(LOCK, &parsed(LOCK), "3.12", &image("1")).unwrap_err();
        assert_eq!(error.to_string(), "Python 3.12 is not in the lock; it has 3.11, 3.13");
        let v1 = r#"{"python":"3.11","tools":{},"thresholds":{"coverage_min":0.5}}"#;
        assert_eq!(pin(v1, &parsed(v1), "3.11", &image("1")), Err(PinError::Version));
    }

    #[test]
    fn a_lock_without_a_container_gets_one() {
        let text = "{\n  \"version\": 2,\n  \"python\": \"3.11\",\n  \"tools\": {}\n}\n";
        let text = pin(text, &parsed(text), "3.11", &image("1")).unwrap();
        assert_eq!(parsed(&text).image("3.11"), Some(image("1")));
        assert!(text.contains("\"tools\": {},\n  \"container\": {\n    \"image\": "), "a line for each member: {text}");
    }
}
