//! Text of a lock -> its raw form, with the place of every fault. Shapes only: what the values mean is judged in
//! [`super::judge`]. Nothing here opens a file.

use super::Lock;
use super::error::{LockError, Warning};
use super::judge::judge;
use super::place::{Map, NoMap, Part, Place, line_column};
use super::raw::RawLock;
use super::unknown::{Oddity, drop_comments, take_oddities};
use crate::code::ParityCode;
use sha2::{Digest, Sha256};

/// The largest lock that is read, in bytes. Who reads the file stops one byte later.
pub const MAX_BYTES: usize = 1 << 20;

/// The version of the format that `ft init` writes, and the latest that is read.
pub const LATEST: u64 = 2;

impl Lock {
    /// Reads and checks a lock. Looks at nothing but these bytes.
    ///
    /// # Errors
    /// The first fault: of the text, then of its shape, then of its values in the order of the document.
    pub fn parse(text: &[u8]) -> Result<(Lock, Vec<Warning>), LockError> {
        let sha256 = hex::encode(Sha256::digest(text));
        let text = decode(text)?;
        let mut value = read(text)?;
        let map = Map::read(text).map_err(|fault| no_map(text, &fault))?;
        let mut notes = Notes { map: &map, warnings: Vec::new() };

        if !value.is_object() {
            return Err(notes.expected(&Place::root(), "an object"));
        }
        drop_comments(&mut value);
        let version = version(&notes, &value)?;
        for (place, oddity) in take_oddities(&mut value, version) {
            notes.judge_oddity(&place, oddity, version)?;
        }
        let raw = shaped(&notes, value)?;
        let lock = judge(&mut notes, raw, version, sha256)?;
        Ok((lock, notes.warnings))
    }
}

/// The document being judged: turns a place into an error or a warning that names it.
pub(super) struct Notes<'m> {
    map: &'m Map<'m>,
    warnings: Vec<Warning>,
}

impl Notes<'_> {
    /// "expected ..., found ..." for the value at a place.
    pub(super) fn expected(&self, place: &Place, what: impl std::fmt::Display) -> LockError {
        self.refuse(place, format!("expected {what}, found {}", self.map.describe(place)))
    }

    /// A value that is refused for a reason of its own.
    pub(super) fn refuse(&self, place: &Place, message: impl Into<String>) -> LockError {
        let (line, column) = self.map.line_column(place);
        error(place.to_string(), (line, column), message.into())
    }

    /// A member that is refused for its name.
    pub(super) fn refuse_key(&self, place: &Place, message: impl Into<String>) -> LockError {
        error(place.to_string(), self.map.key_line_column(place), message.into())
    }

    /// Something that is accepted and said.
    pub(super) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        let (line, column) = self.map.key_line_column(place);
        self.warnings.push(Warning { path_in_file: place.to_string(), line, column, message: message.into() });
    }

    fn judge_oddity(&mut self, place: &Place, oddity: Oddity, version: u64) -> Result<(), LockError> {
        match oddity {
            Oddity::NoObject => Err(self.expected(place, "an object")),
            Oddity::Unknown(meant) => {
                let meant = meant.map(|meant| format!(", did you mean {meant}")).unwrap_or_default();
                if version >= 2 {
                    let error = self.refuse_key(place, format!("unknown field{meant}"));
                    return Err(LockError {
                        hint: "correct the name, or remove the field; a note can stand in `_comment`".to_owned(),
                        ..error
                    });
                }
                self.warn(place, format!("unknown field{meant}; it is ignored"));
                Ok(())
            }
            Oddity::Later => {
                self.warn(place, "a field of version 2, which this lock is not; it is ignored (add `\"version\": 2`)");
                Ok(())
            }
            Oddity::Null if version >= 2 => {
                let error = self.refuse(place, "expected a value, found null");
                Err(LockError { hint: "leave the field out to get its default".to_owned(), ..error })
            }
            Oddity::Null => {
                self.warn(place, "null is read as if the field were absent");
                Ok(())
            }
        }
    }
}

fn error(path_in_file: String, (line, column): (usize, usize), message: String) -> LockError {
    LockError {
        path_in_file,
        line,
        column,
        message,
        hint: ParityCode::LOCK_INVALID.fix().to_owned(),
        code: ParityCode::LOCK_INVALID,
    }
}

fn decode(text: &[u8]) -> Result<&str, LockError> {
    let whole =
        |message: String, hint: &str| LockError { hint: hint.to_owned(), ..error(String::new(), (0, 0), message) };
    if text.len() > MAX_BYTES {
        return Err(whole(
            format!("larger than {MAX_BYTES} bytes, which no lock is"),
            "restore the file from git, or write one with `ft init`",
        ));
    }
    if text.trim_ascii().is_empty() {
        return Err(whole("the file is empty".to_owned(), "restore the file from git, or write one with `ft init`"));
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        let found = error(String::new(), (1, 1), "expected JSON in UTF-8 without a byte order mark".to_owned());
        return Err(LockError { hint: "save the file as UTF-8 without a byte order mark".to_owned(), ..found });
    }
    std::str::from_utf8(text).map_err(|fault| {
        let before = String::from_utf8_lossy(&text[..fault.valid_up_to()]);
        let byte = text[fault.valid_up_to()];
        let message = format!("expected UTF-8, found the byte 0x{byte:02x}");
        LockError {
            hint: "save the file as UTF-8".to_owned(),
            ..error(String::new(), line_column(&before, before.len()), message)
        }
    })
}

/// Strict JSON, nested no deeper than serde_json reads (128).
fn read(text: &str) -> Result<serde_json::Value, LockError> {
    serde_json::from_str(text).map_err(|fault| {
        let line_start: usize = text.split_inclusive('\n').take(fault.line().saturating_sub(1)).map(str::len).sum();
        // serde_json counts the bytes it has read in the line, the offending one included.
        let offset = line_start + fault.column().saturating_sub(1);
        let said = fault.to_string();
        let message = said.rsplit_once(" at line ").map_or(said.as_str(), |(message, _)| message);
        let rest = text.get(offset..).unwrap_or_default();
        let word: String =
            rest.trim_start_matches('-').chars().take_while(|c| c.is_ascii_alphabetic()).take(12).collect();
        let (message, hint) = match word.as_str() {
            "NaN" | "Infinity" | "None" | "True" | "False" | "undefined" => (
                format!("{word} is not JSON"),
                "a number must be finite; the words of JSON are true, false and null".to_owned(),
            ),
            _ => (format!("not JSON: {message}"), ParityCode::LOCK_INVALID.fix().to_owned()),
        };
        LockError { hint, ..error(String::new(), line_column(text, offset), message) }
    })
}

fn no_map(text: &str, fault: &NoMap) -> LockError {
    error(fault.place.to_string(), line_column(text, fault.offset), fault.message.clone())
}

fn version(notes: &Notes<'_>, value: &serde_json::Value) -> Result<u64, LockError> {
    let place = Place::from(["version"]);
    match value.get("version") {
        None => Ok(1),
        Some(version) => match version.as_u64() {
            Some(version @ 1..=LATEST) => Ok(version),
            Some(later) => {
                let error = notes
                    .refuse(&place, format!("expected 1 or 2, found {later}, a format that this `ft` does not know"));
                Err(LockError { hint: "install a newer `ft`".to_owned(), ..error })
            }
            None => Err(notes.expected(&place, "1 or 2")),
        },
    }
}

fn shaped(notes: &Notes<'_>, value: serde_json::Value) -> Result<RawLock, LockError> {
    serde_path_to_error::deserialize(value).map_err(|fault| {
        use serde_path_to_error::Segment;
        let parts = fault.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Part::Index(*index)),
            Segment::Map { key } => Some(Part::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let place = Place(parts.collect());
        let said = fault.inner().to_string();
        // What is there is taken from the text; serde's own words for it name Rust types.
        match said.rsplit_once("expected ") {
            Some((_, expected)) => notes.expected(&place, in_words(expected, &place)),
            None => notes.expected(&place, said),
        }
    })
}

/// serde's name of what it expected, in the words of the lock.
fn in_words(expected: &str, place: &Place) -> String {
    let seconds = place.last_key().is_some_and(|key| key.ends_with("_sec"));
    match expected {
        "u64" | "u32" if seconds => "a number of seconds".to_owned(),
        "u64" | "u32" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "a boolean" => "true or false".to_owned(),
        other => other.to_owned(),
    }
}
