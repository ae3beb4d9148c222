//! JSON in one form: members sorted by name, no white space. The digest of a document is the digest of this.

use serde_json::{Map, Value};

/// The bytes of a document. Members are sorted by the bytes of their names.
#[must_use]
pub fn canonical(value: &Value) -> Vec<u8> {
    sorted(value).to_string().into_bytes()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut all: Vec<_> = members.iter().collect();
            all.sort_by_key(|(name, _)| name.as_str());
            Value::Object(all.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_at_every_depth_and_lists_are_not() {
        let value = serde_json::json!({"b": [{"z": 1, "a": "é"}, 0], "a": null, "B": true});
        assert_eq!(String::from_utf8(canonical(&value)).unwrap(), r#"{"B":true,"a":null,"b":[{"a":"é","z":1},0]}"#);
    }
}
