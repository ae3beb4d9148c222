//! Changes of a lock's text that touch only what changed: key order, indentation, line ends and everything else stay as
//! they are. Knows JSON, not the lock.

use super::place::{Map, NoMap, Part, Place};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use serde_json::Value;

/// The widest line into which a list of plain values is put.
const WIDTH: usize = 100;

/// Why a text could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is no JSON.
    #[error("byte {}: {}", .0.offset, .0.message)]
    NoJson(NoMap),
    /// A place that leads through something that is no object, or to a list element that is not there.
    #[error("{0}: no such place")]
    NoPlace(Place),
}

/// Sets the value at a place. A member that is not there is added at the end of its object, with the objects around it
/// where those are missing too. A value that is already there, however it is written, leaves the text as it is.
///
/// # Errors
/// Where the text is no JSON, or the place leads through something that is no object.
pub fn set(text: &str, place: &Place, value: &Value) -> Result<String, EditError> {
    set_after(text, place, value, None)
}

/// As [`set`]; a new member stands behind the named one where its object has that.
///
/// # Errors
/// As [`set`].
pub fn set_after(text: &str, place: &Place, value: &Value, after: Option<&str>) -> Result<String, EditError> {
    let map = Map::read(text).map_err(EditError::NoJson)?;
    let style = Style::of(&map);
    if let Some(span) = map.span(place) {
        if serde_json::from_str::<Value>(&text[span.clone()]).is_ok_and(|there| there == *value) {
            return Ok(text.to_owned());
        }
        let indent = indent_of_line(text, map.member(place).map_or(span.start, Ranged::start));
        let written = style.write(value, indent);
        return Ok(format!("{}{written}{}", &text[..span.start], &text[span.end..]));
    }
    let missing = || EditError::NoPlace(place.clone());
    let Some((Part::Key(key), around)) = place.0.split_last() else { return Err(missing()) };
    let around = Place(around.to_vec());
    match map.value(&around) {
        Some(ast::Value::Object(object)) => Ok(insert(text, object, key, value, after, &style)),
        Some(_) => Err(missing()),
        None => {
            let mut object = serde_json::Map::new();
            object.insert(key.clone(), value.clone());
            set_after(text, &around, &Value::Object(object), after)
        }
    }
}

/// Adds a member at the start of the document's object; a value that is there already is set where it stands.
///
/// # Errors
/// As [`set`].
pub fn set_first(text: &str, key: &str, value: &Value) -> Result<String, EditError> {
    let place = Place::from([key]);
    let map = Map::read(text).map_err(EditError::NoJson)?;
    let first = map.value(&Place::root()).and_then(|root| root.as_object()).and_then(|root| root.properties.first());
    match first {
        Some(first) if map.member(&place).is_none() => {
            let line = &text[..first.start()];
            let before = &line[line.find('{').map_or(line.len(), |open| open + 1)..];
            let colon = &text[first.name.end()..first.value.start()];
            let written = Style::of(&map).write(value, indent_of_line(text, first.start()));
            let member = format!("{}{colon}{written},{before}", Value::from(key));
            Ok(format!("{}{member}{}", &text[..first.start()], &text[first.start()..]))
        }
        _ => set(text, &place, value),
    }
}

/// Takes a member out of its object, with its comma and its white space. A member that is not there is no error.
///
/// # Errors
/// Where the text is no JSON.
pub fn remove(text: &str, place: &Place) -> Result<String, EditError> {
    let map = Map::read(text).map_err(EditError::NoJson)?;
    let Some((_, around)) = place.0.split_last() else { return Ok(text.to_owned()) };
    let (Some(member), Some(ast::Value::Object(object))) = (map.member(place), map.value(&Place(around.to_vec())))
    else {
        return Ok(text.to_owned());
    };
    let at = object.properties.iter().position(|other| other.start() == member.start()).unwrap_or_default();
    let (from, to) =
        match (at.checked_sub(1).map(|before| object.properties[before].end()), object.properties.get(at + 1)) {
            (Some(before), _) => (before, member.end()),
            (None, Some(next)) => (member.start(), next.start()),
            (None, None) => (object.start() + 1, object.end() - 1),
        };
    Ok(format!("{}{}", &text[..from], &text[to..]))
}

fn insert(
    text: &str,
    object: &ast::Object<'_>,
    key: &str,
    value: &Value,
    after: Option<&str>,
    style: &Style,
) -> String {
    let key_text = Value::from(key).to_string();
    let Some(last) = object.properties.len().checked_sub(1) else {
        let indent = indent_of_line(text, object.start());
        let mut only = serde_json::Map::new();
        only.insert(key.to_owned(), value.clone());
        let written = style.write(&Value::Object(only), indent);
        return format!("{}{written}{}", &text[..object.start()], &text[object.end()..]);
    };
    let at = after
        .and_then(|after| object.properties.iter().position(|member| member.name.as_str() == after))
        .unwrap_or(last);
    let member = &object.properties[at];
    // The white space before a member, and around its colon, is how its neighbour has them.
    let before = match at.checked_sub(1) {
        Some(previous) => text[object.properties[previous].end()..member.start()].trim_start().trim_start_matches(','),
        None => &text[object.start() + 1..member.start()],
    };
    // Behind the first member of `{"a": 1}` there is none to copy.
    let before = if before.is_empty() && style.colon != ":" { " " } else { before };
    let colon = &text[member.name.end()..member.value.start()];
    let indent = before.rsplit_once('\n').map_or_else(|| indent_of_line(text, member.start()), |(_, indent)| indent);
    let line = Style { unit: None, ..*style }.write(value, indent);
    let in_line = !text[object.start()..object.end()].contains('\n') && line.len() <= WIDTH;
    let written = if in_line { line } else { style.write(value, indent) };
    format!("{},{before}{key_text}{colon}{written}{}", &text[..member.end()], &text[member.end()..])
}

/// How a text is written: in one line, or in lines with an indentation.
struct Style {
    unit: Option<String>,
    newline: &'static str,
    colon: &'static str,
}

impl Style {
    fn of(map: &Map<'_>) -> Style {
        let text = map.text();
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let first =
            map.value(&Place::root()).and_then(|root| root.as_object()).and_then(|root| root.properties.first());
        let unit = match first {
            Some(first) => text[..first.start()].contains('\n').then(|| {
                let indent = indent_of_line(text, first.start());
                if indent.is_empty() { "  ".to_owned() } else { indent.to_owned() }
            }),
            None => Some("  ".to_owned()),
        };
        let tight = first.is_some_and(|first| !text[first.name.end()..first.value.start()].ends_with(' '));
        Style { unit, newline, colon: if tight { ":" } else { ": " } }
    }

    fn write(&self, value: &Value, indent: &str) -> String {
        let mut written = String::new();
        self.put(value, indent, &mut written);
        written
    }

    fn put(&self, value: &Value, indent: &str, to: &mut String) {
        let comma = if self.colon == ":" { "," } else { ", " };
        let parts: Vec<(Option<&String>, &Value)> = match value {
            Value::Array(values) => values.iter().map(|value| (None, value)).collect(),
            Value::Object(members) => members.iter().map(|(key, value)| (Some(key), value)).collect(),
            plain => return to.push_str(&plain.to_string()),
        };
        let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
        let in_line = |to: &mut String| {
            to.push(open);
            for (at, (key, value)) in parts.iter().enumerate() {
                to.push_str(if at == 0 { "" } else { comma });
                if let Some(key) = key {
                    to.push_str(&format!("{}{}", Value::from(key.as_str()), self.colon));
                }
                self.put(value, indent, to);
            }
            to.push(close);
        };
        let plain = parts.iter().all(|(_, value)| !value.is_array() && !value.is_object());
        let Some(unit) = &self.unit else { return in_line(to) };
        if plain && (value.is_array() || parts.len() <= 1) {
            let mut line = String::new();
            in_line(&mut line);
            if indent.len() + line.len() <= WIDTH {
                return to.push_str(&line);
            }
        }
        let deeper = format!("{indent}{unit}");
        to.push(open);
        for (at, (key, value)) in parts.iter().enumerate() {
            to.push_str(if at == 0 { "" } else { "," });
            to.push_str(&format!("{}{deeper}", self.newline));
            if let Some(key) = key {
                to.push_str(&format!("{}{}", Value::from(key.as_str()), self.colon));
            }
            self.put(value, &deeper, to);
        }
        to.push_str(&format!("{}{indent}{close}", self.newline));
    }
}

/// A document as `ft init` writes it: two spaces, short lists in one line, a newline at its end.
#[must_use]
pub fn pretty(value: &Value) -> String {
    let mut text = Style { unit: Some("  ".to_owned()), newline: "\n", colon: ": " }.write(value, "");
    text.push('\n');
    text
}

/// The white space at the start of the line in which a byte stands.
fn indent_of_line(text: &str, offset: usize) -> &str {
    let line = &text[text[..offset].rfind('\n').map_or(0, |newline| newline + 1)..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A lock as people leave it: tabs and spaces mixed, a member per line or not, no newline at the end.
    const ODD: &str =
        "{ \"b\" : 1,\r\n\t\"a\":{\"x\":[ 1,2 ],\n   \"y\" :  \"old\"  },\n\n    \"e\": {} , \"l\": [\n1\n]}";

    #[test]
    fn only_the_value_that_changed_is_touched() {
        let changed = set(ODD, &Place::from(["a", "y"]), &json!("new")).unwrap();
        assert_eq!(changed, ODD.replace("\"old\"", "\"new\""));
        assert_eq!(set(ODD, &Place::from(["a", "x"]).index(1), &json!(3)).unwrap(), ODD.replace("1,2", "1,3"));
    }

    #[test]
    fn a_value_that_is_there_already_leaves_every_byte() {
        assert_eq!(set(ODD, &Place::from(["a", "x"]), &json!([1, 2])).unwrap(), ODD);
        assert_eq!(set(ODD, &Place::from(["e"]), &json!({})).unwrap(), ODD);
        assert_eq!(set("{\"a\": \"\\u0041\"}", &Place::from(["a"]), &json!("A")).unwrap(), "{\"a\": \"\\u0041\"}");
    }

    #[test]
    fn a_new_member_is_written_like_its_neighbour() {
        let text = "{\n    \"a\": {\n        \"x\": 1\n    }\n}\n";
        assert_eq!(
            set(text, &Place::from(["a", "y"]), &json!("z")).unwrap(),
            "{\n    \"a\": {\n        \"x\": 1,\n        \"y\": \"z\"\n    }\n}\n"
        );
        assert_eq!(
            set(text, &Place::from(["b", "c"]), &json!({"d": [1], "e": {}})).unwrap(),
            "{\n    \"a\": {\n        \"x\": 1\n    },\n    \"b\": {\n        \"c\": {\n            \"d\": [1],\n            \"e\": {}\n        }\n    }\n}\n"
        );
        assert_eq!(
            set("{\"a\":1,\"b\":2}", &Place::from(["c"]), &json!([1, {"d": 2}])).unwrap(),
            "{\"a\":1,\"b\":2,\"c\":[1,{\"d\":2}]}"
        );
        assert_eq!(
            set_after("{\"a\":1,\"b\":2}", &Place::from(["c"]), &json!(3), Some("a")).unwrap(),
            "{\"a\":1,\"c\":3,\"b\":2}"
        );
        assert_eq!(set("{}", &Place::from(["a"]), &json!(1)).unwrap(), "{\"a\": 1}");
    }

    #[test]
    fn an_object_in_one_line_stays_in_one() {
        let text = "{\n  \"a\": {\"x\": 1},\n  \"b\": 2\n}\n";
        assert_eq!(
            set(text, &Place::from(["a", "y"]), &json!({"z": [1, 2]})).unwrap(),
            "{\n  \"a\": {\"x\": 1, \"y\": {\"z\": [1, 2]}},\n  \"b\": 2\n}\n"
        );
        let long = "x".repeat(WIDTH);
        let changed = set(text, &Place::from(["a", "y"]), &json!({"z": [long]})).unwrap();
        assert!(changed.contains("\"y\": {\n"), "{changed}");
    }

    #[test]
    fn a_first_member_is_written_like_the_one_that_was_first() {
        assert_eq!(set_first("{\n    \"a\": 1\n}\n", "v", &json!(2)).unwrap(), "{\n    \"v\": 2,\n    \"a\": 1\n}\n");
        assert_eq!(set_first("{\"a\":1}", "v", &json!(2)).unwrap(), "{\"v\":2,\"a\":1}");
        assert_eq!(set_first("{\"a\":1,\"v\":1}", "v", &json!(2)).unwrap(), "{\"a\":1,\"v\":2}");
        assert_eq!(set_first("{}", "v", &json!(2)).unwrap(), "{\"v\": 2}");
    }

    #[test]
    fn a_member_is_removed_with_its_comma() {
        let text = "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n";
        assert_eq!(remove(text, &Place::from(["a"])).unwrap(), "{\n  \"b\": 2,\n  \"c\": 3\n}\n");
        assert_eq!(remove(text, &Place::from(["b"])).unwrap(), "{\n  \"a\": 1,\n  \"c\": 3\n}\n");
        assert_eq!(remove(text, &Place::from(["c"])).unwrap(), "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
        assert_eq!(remove("{ \"a\": 1 }", &Place::from(["a"])).unwrap(), "{}");
        assert_eq!(remove(text, &Place::from(["d"])).unwrap(), text);
    }

    #[test]
    fn a_place_through_something_else_than_an_object_is_refused() {
        assert!(matches!(set("{\"a\": [1]}", &Place::from(["a", "b"]), &json!(1)), Err(EditError::NoPlace(_))));
        assert!(matches!(set("{\"a\": [1]}", &Place::from(["a"]).index(5), &json!(1)), Err(EditError::NoPlace(_))));
        assert!(matches!(set("[", &Place::from(["a"]), &json!(1)), Err(EditError::NoJson(_))));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-e]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_edit_changes_that_value_and_no_other(
            members in prop::collection::vec(("[a-e]", any_value()), 1..5), value in any_value(), key in "[a-g]", lines in any::<bool>()
        ) {
            let before = Value::Object(members.into_iter().collect());
            let text = if lines { pretty(&before) } else { before.to_string() };
            let changed = set(&text, &Place::from([key.as_str()]), &value).unwrap();
            let mut wanted = before.clone();
            wanted[&key] = value;
            prop_assert_eq!(serde_json::from_str::<Value>(&changed).unwrap(), wanted.clone());
            let keys: Vec<_> = wanted.as_object().unwrap().keys().cloned().collect();
            let found: Value = serde_json::from_str(&changed).unwrap();
            prop_assert_eq!(found.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), keys);
            let removed = remove(&changed, &Place::from([key.as_str()])).unwrap();
            wanted.as_object_mut().unwrap().shift_remove(&key);
            prop_assert_eq!(serde_json::from_str::<Value>(&removed).unwrap(), wanted);
        }
    }
}
