//! What a hash in the lock is a hash of: a configuration file or one table of it, and what resolution reads in the
//! sources of the closure. Pure functions over bytes, so that a check needs no network and no other tool.

use super::ini;
use camino::Utf8Path;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Why a file has no such hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The text is not of the kind that its name says.
    #[error("{path}: not TOML: {reason}")]
    Toml {
        /// The file.
        path: String,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A text that is not UTF-8.
    #[error("{path}: not UTF-8")]
    Encoding {
        /// The file.
        path: String,
    },
    /// The file has no such table or section.
    #[error("{path} has no table {table}")]
    NoTable {
        /// The file.
        path: String,
        /// The table.
        table: String,
    },
    /// A file that has no tables.
    #[error("{path}#{table}: only .toml, .cfg and .ini files have tables")]
    NoTables {
        /// The file.
        path: String,
        /// The table.
        table: String,
    },
}

/// The path of a key of `config_hashes`, and its table where it has one.
#[must_use]
pub fn split_key(key: &str) -> (&str, Option<&str>) {
    key.split_once('#').map_or((key, None), |(path, table)| (path, Some(table)))
}

/// The hash of a key of `config_hashes`, given the bytes of its file: of the bytes, or of the canonical JSON of the
/// table (sorted keys, no white space), so that comments, order and other tables are no drift.
///
/// # Errors
/// Where the file has no such table, or can't be read as what its name says.
pub fn config_hash(key: &str, bytes: &[u8]) -> Result<String, HashError> {
    let (path, table) = split_key(key);
    let Some(table) = table else { return Ok(hex::encode(Sha256::digest(bytes))) };
    let no_table = || HashError::NoTable { path: path.to_owned(), table: table.to_owned() };
    let found = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("toml") => {
            let document = toml_value(path, bytes)?;
            table_path(table).iter().try_fold(&document, |value, part| value.get(part)).cloned().ok_or_else(no_table)?
        }
        Some("cfg" | "ini") => {
            let sections = ini::sections(text(path, bytes)?);
            serde_json::to_value(sections.get(table).ok_or_else(no_table)?).expect("strings can be written as JSON")
        }
        _ => return Err(HashError::NoTables { path: path.to_owned(), table: table.to_owned() }),
    };
    Ok(hex::encode(Sha256::digest(canonical(&found))))
}

/// One hash over the sources of a closure: path and bytes of each, in any order. Of `pyproject.toml`, `setup.cfg` and
/// `tox.ini` only what resolution depends on counts; of every other file all of it. Where the closure is `from` a
/// `uv.lock`, the sources are those of what it does not hold: of `pyproject.toml` only the build requirements count, so
/// that a dependency bump changes that file and `uv.lock` alone (see [`super::fresh`]).
///
/// # Errors
/// Where a source can't be read as what its name says.
pub fn sources_sha256<P: AsRef<str>, B: AsRef<[u8]>>(from: &Utf8Path, sources: &[(P, B)]) -> Result<String, HashError> {
    let counts = if from.file_name() == Some("uv.lock") { &BESIDE_UV_LOCK[..] } else { &RESOLUTION[..] };
    let mut read = Map::new();
    for (path, bytes) in sources {
        let (path, bytes) = (path.as_ref(), bytes.as_ref());
        let name = path.rsplit('/').next().unwrap_or(path);
        let what = match name {
            "pyproject.toml" => resolution_part(&toml_value(path, bytes)?, counts),
            "setup.cfg" => sections_of(text(path, bytes)?, |name| name.starts_with("options") || name == "metadata"),
            "tox.ini" => sections_of(text(path, bytes)?, |name| name.starts_with("testenv")),
            _ => hex::encode(Sha256::digest(bytes)).into(),
        };
        read.insert(path.to_owned(), what);
    }
    Ok(hex::encode(Sha256::digest(canonical(&Value::Object(read)))))
}

/// What of `pyproject.toml` decides which distributions are resolved.
const RESOLUTION: [&[&str]; 13] = [
    &["project", "name"],
    &["project", "dependencies"],
    &["project", "optional-dependencies"],
    &["project", "requires-python"],
    &["project", "dynamic"],
    &["dependency-groups"],
    &["build-system", "requires"],
    &["tool", "setuptools", "dynamic"],
    &["tool", "poetry", "dependencies"],
    &["tool", "poetry", "dev-dependencies"],
    &["tool", "poetry", "group"],
    &["tool", "poetry", "extras"],
    &["tool", "pdm", "dev-dependencies"],
];

/// What of it decides that beside a `uv.lock`.
const BESIDE_UV_LOCK: [&[&str]; 1] = [&["build-system"]];

/// Tables of `tool.uv` that decide nothing about what is resolved.
const UV_ELSE: [&str; 8] = [
    "build-backend",
    "cache-dir",
    "cache-keys",
    "concurrent-builds",
    "concurrent-downloads",
    "package",
    "pip",
    "preview",
];

fn resolution_part(document: &Value, counts: &[&[&str]]) -> Value {
    let mut kept = Map::new();
    for path in counts {
        if let Some(value) = path.iter().try_fold(document, |value, part| value.get(part)) {
            kept.insert(path.join("."), value.clone());
        }
    }
    if let Some(Value::Object(uv)) = document.pointer("/tool/uv").filter(|_| counts != BESIDE_UV_LOCK) {
        for (name, value) in uv.iter().filter(|(name, _)| !UV_ELSE.contains(&name.as_str())) {
            kept.insert(format!("tool.uv.{name}"), value.clone());
        }
    }
    Value::Object(kept)
}

fn sections_of(text: &str, counts: impl Fn(&str) -> bool) -> Value {
    const KEYS: [&str; 9] = [
        "name",
        "install_requires",
        "python_requires",
        "setup_requires",
        "tests_require",
        "deps",
        "extras",
        "dependency_groups",
        "constraints",
    ];
    let mut kept = Map::new();
    for (name, section) in ini::sections(text).into_iter().filter(|(name, _)| counts(name)) {
        let whole = name == "options.extras_require";
        for (key, lines) in section.into_iter().filter(|(key, _)| whole || KEYS.contains(&key.as_str())) {
            kept.insert(format!("{name}.{key}"), lines.into());
        }
    }
    Value::Object(kept)
}

fn text<'b>(path: &str, bytes: &'b [u8]) -> Result<&'b str, HashError> {
    std::str::from_utf8(bytes).map_err(|_| HashError::Encoding { path: path.to_owned() })
}

/// A TOML document as JSON.
pub(super) fn toml_value(path: &str, bytes: &[u8]) -> Result<Value, HashError> {
    let text = text(path, bytes)?;
    toml::from_str::<toml::Table>(text).map(|table| json(toml::Value::Table(table))).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        HashError::Toml { path: path.to_owned(), reason: format!("line {line}: {}", error.message().trim()) }
    })
}

/// TOML as JSON: dates as their text, numbers that JSON does not have as theirs.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(number).map_or_else(|| number.to_string().into(), Value::Number)
        }
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json(value))).collect(),
    }
}

/// JSON with sorted keys and no white space: equal values have equal bytes.
fn canonical(value: &Value) -> String {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    sorted.to_string()
}

/// `tool.pytest` or `tool."a.b"` in its parts.
fn table_path(table: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for c in table.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('.', None) => parts.push(String::new()),
            (c, _) => parts.last_mut().expect("there is always a last part").push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved<P: AsRef<str>, B: AsRef<[u8]>>(sources: &[(P, B)]) -> Result<String, HashError> {
        sources_sha256(Utf8Path::new("ci/parity.requirements.txt"), sources)
    }

    #[test]
    fn a_file_is_hashed_by_its_bytes() {
        // printf x | sha256sum
        let x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        assert_eq!(config_hash("mypy.ini", b"x").unwrap(), x);
    }

    #[test]
    fn a_table_is_hashed_by_what_it_means() {
        let of = |text: &str| config_hash("pyproject.toml#tool.ruff", text.as_bytes());
        let hash = of("[project]\nversion='1'\n[tool.ruff]\nline-length = 99\n[tool.ruff.lint]\nselect=['E']").unwrap();
        assert_eq!(of("# note\n[tool]\nruff = { lint = {select = [\"E\"]}, line-length = 99 }").unwrap(), hash);
        assert_ne!(of("[tool.ruff]\nline-length = 98\n[tool.ruff.lint]\nselect=['E']").unwrap(), hash);
        assert_eq!(of("[tool]").unwrap_err().to_string(), "pyproject.toml has no table tool.ruff");
        assert!(of("[tool").unwrap_err().to_string().starts_with("pyproject.toml: not TOML: line 1: "));
        assert!(config_hash("a.toml#x.'y.z'", b"[x.'y.z']\na=1").is_ok());
        assert!(matches!(config_hash("a.txt#x", b""), Err(HashError::NoTables { .. })));
        assert!(matches!(config_hash("a.toml#x", b"\xff"), Err(HashError::Encoding { .. })));
    }

    #[test]
    fn a_section_is_hashed_by_what_it_means() {
        let of = |text: &str| config_hash("setup.cfg#tool:pytest", text.as_bytes());
        let hash = of("[metadata]\nname=x\n[tool:pytest]\naddopts = -q\n").unwrap();
        assert_eq!(of("[tool:pytest]\n# note\naddopts=-q\n[metadata]\nname = y").unwrap(), hash);
        assert_ne!(of("[tool:pytest]\naddopts = -v\n").unwrap(), hash);
        assert!(of("[other]").is_err());
    }

    #[test]
    fn only_what_resolution_reads_makes_sources_stale() {
        let of = |pyproject: &str, requirements: &str| {
            resolved(&[("pyproject.toml", pyproject), ("requirements.txt", requirements)]).unwrap()
        };
        let base = of("[project]\nname='a'\nversion='1'\ndependencies=['x']\n[tool.uv]\nprerelease='allow'", "y");
        let same = "[project]\nversion='2'\nname='a'\nreadme='r'\ndependencies=['x']\n[tool.ruff]\n[tool.uv]\nprerelease='allow'\npreview=true";
        assert_eq!(of(same, "y"), base);
        assert_ne!(of(&same.replace("'x'", "'x>1'"), "y"), base);
        assert_ne!(of(&same.replace("'allow'", "'disallow'"), "y"), base);
        assert_ne!(of(same, "y\n"), base);
        for table in ["[dependency-groups]\ndev=['z']", "[build-system]\nrequires=['z']"] {
            assert_ne!(of(&format!("{same}\n{table}"), "y"), base);
        }
    }

    #[test]
    fn beside_a_uv_lock_a_dependency_bump_makes_nothing_stale() {
        let of = |text: &str| sources_sha256(Utf8Path::new("uv.lock"), &[("pyproject.toml", text)]).unwrap();
        let base = of("[project]\nname='a'\ndependencies=['x']\n[build-system]\nrequires=['hatchling']");
        let bump = "[project]\nname='a'\ndependencies=['x>=2']\n[dependency-groups]\ndev=['y']\n[tool.uv]\nprerelease='allow'\n[build-system]\nrequires=['hatchling']";
        assert_eq!(of(bump), base);
        assert_ne!(of(&bump.replace("'hatchling'", "'hatchling>=1'")), base);
    }

    #[test]
    fn the_order_of_sources_does_not_matter_and_their_names_do() {
        let of = |sources: &[(&str, &str)]| resolved(sources).unwrap();
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
        assert_ne!(of(&[("a", "1"), ("b", "2")]), of(&[("a", "2"), ("b", "1")]));
        let cfg = |text: &str| of(&[("setup.cfg", text)]);
        assert_eq!(
            cfg("[options]\ninstall_requires=x\n[flake8]\na=1"),
            cfg("[options]\nzip_safe=no\ninstall_requires = x")
        );
        assert_ne!(cfg("[options]\ninstall_requires=x"), cfg("[options]\ninstall_requires=y"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_hashes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), table in "\\PC{0,12}") {
            for path in ["pyproject.toml", "setup.cfg", "tox.ini", "x"] {
                let _ = config_hash(&format!("{path}#{table}"), &bytes);
                let _ = resolved(&[(path, &bytes)]);
                let _ = sources_sha256(Utf8Path::new("uv.lock"), &[(path, &bytes)]);
            }
        }
    }
}
