//! The JSON Schema of the lock file, made from [`super::raw`]: what `ft schema` prints, what editors read, and where the
//! parser takes the names of known fields from. It knows shapes, not meanings: those are checked in [`super::parse`].

use super::raw::{RawLock, SINCE};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Where the generated schema stands in this repository.
pub const SCHEMA_PATH: &str = "ci/parity.lock.schema.json";

static SCHEMA: LazyLock<Value> = LazyLock::new(build);

/// The schema as pretty JSON with a newline at its end. The same text on every call and machine.
#[must_use]
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&*SCHEMA).expect("a JSON value can be written");
    text.push('\n');
    text
}

/// The schema of one object or map inside the lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'s>(&'s Value);

impl Shape<'static> {
    /// The shape of the whole document.
    pub(super) fn root() -> Shape<'static> {
        Shape(&SCHEMA)
    }
}

impl<'s> Shape<'s> {
    /// Whether this is an object with a fixed set of fields.
    pub(super) fn is_object(self) -> bool {
        self.0.get("properties").is_some()
    }

    /// The shape of a member: of that field, or of any value of a map. `None` where the field is not known.
    pub(super) fn member(self, name: &str) -> Option<Shape<'s>> {
        match self.0.get("properties") {
            Some(fields) => fields.get(name).map(Shape),
            None => self.0.get("additionalProperties").filter(|values| values.is_object()).map(Shape),
        }
    }

    /// The names of the fields of this object.
    pub(super) fn fields(self) -> impl Iterator<Item = &'s str> {
        self.0
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|fields| fields.keys().map(String::as_str))
    }

    /// The version of the format in which this field came.
    pub(super) fn since(self) -> u64 {
        self.0.get(SINCE).and_then(Value::as_u64).unwrap_or(1)
    }
}

fn build() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RawLock>().to_value();
    close(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "Lock of Firsttry".into());
        if let Some(fields) = root.get_mut("properties").and_then(Value::as_object_mut) {
            let own = serde_json::json!({"description": "The schema of this file, for editors.", "type": "string"});
            fields.shift_insert(0, "$schema".to_owned(), own);
        }
        root.insert("required".to_owned(), serde_json::json!(["python", "tools"]));
    }
    schema
}

/// What serde's shapes do not say: fields that are absent are absent and not `null`, other names are refused, and
/// `_comment` is welcome in every object.
fn close(schema: &mut Value) {
    if let Some(members) = schema.as_object_mut() {
        members.remove("default");
        members.remove("format");
        without_null(members);
        if members.contains_key("properties") {
            members.insert("additionalProperties".to_owned(), false.into());
        }
        if members.contains_key("additionalProperties") {
            members.insert("patternProperties".to_owned(), serde_json::json!({"^_comment$": true}));
        }
        for (name, inner) in members.iter_mut() {
            match name.as_str() {
                "properties" => inner.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(close),
                "anyOf" | "oneOf" => inner.as_array_mut().into_iter().flatten().for_each(close),
                "items" | "additionalProperties" => close(inner),
                _ => {}
            }
        }
    }
}

fn without_null(members: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = members.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if let Some(Value::Array(mut choices)) = members.remove("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        match <[Value; 1]>::try_from(choices) {
            Ok([Value::Object(only)]) => {
                for (name, value) in only {
                    members.entry(name).or_insert(value);
                }
                without_null(members);
            }
            Ok(other) => drop(members.insert("anyOf".to_owned(), other.to_vec().into())),
            Err(choices) => drop(members.insert("anyOf".to_owned(), choices.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_generated_one() {
        let committed = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/ci/parity.lock.schema.json"));
        assert_eq!(committed, schema(), "write it anew: `ft schema > ci/parity.lock.schema.json`");
    }

    #[test]
    fn no_field_may_be_null_and_every_object_is_closed() {
        fn walk(value: &Value) {
            match value {
                Value::Object(members) => {
                    assert!(members.get("type").is_none_or(|kind| kind.is_string()), "{members:?}");
                    if members.contains_key("properties") && members.contains_key("type") {
                        assert_eq!(members["additionalProperties"], false, "{members:?}");
                    }
                    members.values().for_each(walk);
                }
                Value::Array(values) => values.iter().for_each(walk),
                other => assert!(!other.is_null()),
            }
        }
        walk(&SCHEMA);
    }

    #[test]
    fn every_field_says_what_it_means() {
        fn walk(shape: Shape<'_>, path: &str) {
            for field in shape.fields() {
                let inner = shape.member(field).unwrap();
                assert!(inner.0.get("description").is_some(), "{path}.{field} has no description");
                walk(inner, field);
            }
            if let Some(values) = shape.0.get("additionalProperties").filter(|values| values.is_object()) {
                walk(Shape(values), path);
            }
        }
        walk(Shape::root(), "");
    }

    #[test]
    fn fields_of_version_2_are_marked() {
        let root = Shape::root();
        assert_eq!(root.member("environment").unwrap().since(), 2);
        assert_eq!(root.member("python").unwrap().since(), 1);
        let tool = root.member("tools").unwrap().member("anything").unwrap();
        assert_eq!(tool.member("gate").unwrap().since(), 2);
        assert_eq!(tool.member("timeout_sec").unwrap().since(), 1);
    }
}
