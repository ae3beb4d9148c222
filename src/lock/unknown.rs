//! What a lock holds beside its known fields: mistyped names, fields of a later version, `null`, and lists where an
//! object belongs (serde would read those by position).

use super::place::Place;
use super::schema::Shape;
use serde_json::Value;

/// Something in a lock that has no meaning there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Oddity {
    /// No field of this name; the nearest known name, where one is near.
    Unknown(Option<String>),
    /// A field of version 2 in a version 1 lock.
    Later,
    /// `null`: in version 2 an absent field is left out.
    Null,
    /// Something else where an object belongs.
    NoObject,
}

/// Takes `_comment` and `$schema` members out of the document: they are welcome everywhere and mean nothing.
pub(super) fn drop_comments(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| name != "_comment" && name != "$schema");
            members.values_mut().for_each(drop_comments);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_comments),
        _ => {}
    }
}

/// Finds what a document of this version holds beside its known fields and takes it out, so that what is left can be
/// read. In the order of the document.
pub(super) fn take_oddities(value: &mut Value, version: u64) -> Vec<(Place, Oddity)> {
    let mut found = Vec::new();
    walk(value, Shape::root(), version, &Place::root(), &mut found);
    found
}

fn walk(value: &mut Value, shape: Shape<'_>, version: u64, place: &Place, found: &mut Vec<(Place, Oddity)>) {
    let Value::Object(members) = value else {
        if shape.is_object() {
            found.push((place.clone(), Oddity::NoObject));
        }
        return;
    };
    members.retain(|name, inner| {
        let place = place.key(name.as_str());
        let oddity = match shape.member(name) {
            None if shape.is_object() => Some(Oddity::Unknown(nearest(name, shape.fields()))),
            Some(field) if field.since() > version => Some(Oddity::Later),
            _ if inner.is_null() => Some(Oddity::Null),
            Some(field) => {
                walk(inner, field, version, &place, found);
                None
            }
            None => None,
        };
        let keep = oddity.is_none();
        found.extend(oddity.map(|oddity| (place, oddity)));
        keep
    });
}

/// The candidate that was probably meant: near enough that the two look alike.
#[must_use]
pub fn nearest<'c>(typed: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    const ALIKE: f64 = 0.8;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(typed, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mistyped_field_is_named_with_the_one_that_was_meant() {
        let mut lock = json!({"tools": {"pytest": {"timeout_secs": 9}}, "xyzzy": 1});
        let found = take_oddities(&mut lock, 2);
        let shown: Vec<_> = found.iter().map(|(place, oddity)| (place.to_string(), oddity.clone())).collect();
        assert_eq!(
            shown,
            [
                ("tools.pytest.timeout_secs".to_owned(), Oddity::Unknown(Some("timeout_sec".to_owned()))),
                ("xyzzy".to_owned(), Oddity::Unknown(None)),
            ]
        );
        assert_eq!(lock, json!({"tools": {"pytest": {}}}));
    }

    #[test]
    fn a_version_2_field_in_a_version_1_lock_is_taken_out() {
        let mut lock = json!({"python": "3.11", "build": true, "tools": {"x": {"gate": "lint", "args": []}}});
        let found = take_oddities(&mut lock, 1);
        assert!(found.iter().all(|(_, oddity)| *oddity == Oddity::Later));
        assert_eq!(lock, json!({"python": "3.11", "tools": {"x": {"args": []}}}));
    }

    #[test]
    fn comments_are_welcome_everywhere() {
        let mut lock = json!({"$schema": 1, "_comment": {}, "tools": {"_comment": "x", "ruff": {"_comment": []}}});
        drop_comments(&mut lock);
        assert_eq!(lock, json!({"tools": {"ruff": {}}}));
    }

    #[test]
    fn a_list_is_no_object() {
        let mut lock = json!({"thresholds": [0.75]});
        assert_eq!(take_oddities(&mut lock, 2), [(Place::from(["thresholds"]), Oddity::NoObject)]);
    }
}
