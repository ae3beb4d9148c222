//! Where each value of a JSON text stands. Reads strict JSON only, refuses keys that come twice, and interprets nothing.

use jsonc_parser::ast::{ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use std::fmt;
use std::ops::Range;

/// One step into a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A member of an object.
    Key(String),
    /// An element of a list, from 0.
    Index(usize),
}

/// The way from the document to a value. Prints as `tools.pytest.args[2]`, and as `config_hashes["a.toml"]` where a key
/// would be ambiguous between dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place(pub Vec<Part>);

impl Place {
    /// The document itself.
    #[must_use]
    pub fn root() -> Place {
        Place::default()
    }

    /// A member of this object.
    #[must_use]
    pub fn key(&self, name: impl Into<String>) -> Place {
        let mut parts = self.0.clone();
        parts.push(Part::Key(name.into()));
        Place(parts)
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Place {
        let mut parts = self.0.clone();
        parts.push(Part::Index(index));
        Place(parts)
    }

    /// The name of the member that this is, or of the nearest object member around it.
    #[must_use]
    pub fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|part| match part {
            Part::Key(key) => Some(key.as_str()),
            Part::Index(_) => None,
        })
    }
}

impl<const N: usize> From<[&str; N]> for Place {
    fn from(keys: [&str; N]) -> Place {
        Place(keys.iter().map(|key| Part::Key((*key).to_owned())).collect())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-$".contains(c));
        for (at, part) in self.0.iter().enumerate() {
            match part {
                Part::Index(index) => write!(f, "[{index}]")?,
                Part::Key(key) if !plain(key) => write!(f, "[{}]", serde_json::Value::from(key.as_str()))?,
                Part::Key(key) if at == 0 => f.write_str(key)?,
                Part::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Line and column of a byte offset: both from 1, the column in characters.
#[must_use]
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A JSON text with the span of every value in it.
#[derive(Debug)]
pub struct Map<'a> {
    text: &'a str,
    root: Value<'a>,
}

/// Why a text has no map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMap {
    /// Byte offset of the fault.
    pub offset: usize,
    /// The object in which a key comes twice; the document where the text is no JSON.
    pub place: Place,
    /// What is wrong there.
    pub message: String,
}

impl<'a> Map<'a> {
    /// Reads strict JSON: no comments, no trailing commas, no key twice in one object.
    ///
    /// # Errors
    /// The first fault, with its offset.
    pub fn read(text: &'a str) -> Result<Map<'a>, NoMap> {
        let strict = ParseOptions {
            allow_comments: false,
            allow_loose_object_property_names: false,
            allow_trailing_commas: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let fault = |offset, message: String| NoMap { offset, place: Place::root(), message };
        let result = parse_to_ast(text, &CollectOptions::default(), &strict)
            .map_err(|error| fault(error.range().start, error.kind().to_string()))?;
        let root = result.value.ok_or_else(|| fault(0, "expected a value".to_owned()))?;
        twice(&root, &Place::root())?;
        Ok(Map { text, root })
    }

    /// The text that was read.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The value at a place.
    #[must_use]
    pub fn value(&self, place: &Place) -> Option<&Value<'a>> {
        place.0.iter().try_fold(&self.root, |value, part| step(value, part))
    }

    /// The member of an object that a place names, key and value together.
    #[must_use]
    pub fn member(&self, place: &Place) -> Option<&ObjectProp<'a>> {
        let (last, around) = place.0.split_last()?;
        let Part::Key(key) = last else { return None };
        around.iter().try_fold(&self.root, |value, part| step(value, part))?.as_object()?.get(key)
    }

    /// The bytes of the value at a place.
    #[must_use]
    pub fn span(&self, place: &Place) -> Option<Range<usize>> {
        self.value(place).map(|value| value.start()..value.end())
    }

    /// Line and column of the value at a place, or of the nearest value around it that is there.
    #[must_use]
    pub fn line_column(&self, place: &Place) -> (usize, usize) {
        line_column(self.text, self.nearest(place).start())
    }

    /// Line and column of a member's key, or of the nearest value around it.
    #[must_use]
    pub fn key_line_column(&self, place: &Place) -> (usize, usize) {
        self.member(place).map_or_else(|| self.line_column(place), |member| line_column(self.text, member.start()))
    }

    /// The value at a place in words: `the string "900"`, `a list`, `null`.
    #[must_use]
    pub fn describe(&self, place: &Place) -> String {
        const LONGEST: usize = 60;
        match self.value(place) {
            None => "nothing".to_owned(),
            Some(Value::StringLit(text)) => {
                let mut shown: String = text.value.chars().take(LONGEST).collect();
                if shown.len() < text.value.len() {
                    shown.push_str("...");
                }
                format!("the string {}", serde_json::Value::from(shown))
            }
            Some(Value::NumberLit(number)) => {
                format!("the number {}", &number.value[..number.value.len().min(LONGEST)])
            }
            Some(Value::BooleanLit(flag)) => flag.value.to_string(),
            Some(Value::Object(_)) => "an object".to_owned(),
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::NullKeyword(_)) => "null".to_owned(),
        }
    }

    fn nearest(&self, place: &Place) -> &Value<'a> {
        let mut value = &self.root;
        for part in &place.0 {
            match step(value, part) {
                Some(inner) => value = inner,
                None => break,
            }
        }
        value
    }
}

fn step<'v, 'a>(value: &'v Value<'a>, part: &Part) -> Option<&'v Value<'a>> {
    match part {
        Part::Key(key) => value.as_object()?.get(key).map(|member| &member.value),
        Part::Index(index) => value.as_array()?.elements.get(*index),
    }
}

/// The first key that comes twice in one object. Every parser of JSON takes another one of the two, so neither is right.
fn twice(value: &Value<'_>, place: &Place) -> Result<(), NoMap> {
    match value {
        Value::Object(object) => {
            let mut seen = std::collections::HashSet::new();
            for member in &object.properties {
                let key = member.name.as_str();
                if !seen.insert(key) {
                    let message = "this key comes twice in one object".to_owned();
                    return Err(NoMap { offset: member.start(), place: place.key(key), message });
                }
                twice(&member.value, &place.key(key))?;
            }
            Ok(())
        }
        Value::Array(list) => {
            list.elements.iter().enumerate().try_for_each(|(at, element)| twice(element, &place.index(at)))
        }
        _ => Ok(()),
    }
}
