//! What `ft lock` writes, decided without an effect: the caller reads files, resolves and collects; these functions say
//! which files that takes and what the new text of the lock is.

use super::collection::name_hash;
use super::edit::{self, EditError};
use super::place::Place;
use super::stale::{HashError, config_hash, sources_sha256, split_key};
use super::{Environment, Lock, PENDING, Project};
use camino::Utf8Path;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The bytes of the files that [`files_of`] names; those that are not there are absent.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Why a lock can't be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelockError {
    /// A file that the lock names and that is not there.
    #[error("{path} is named in {place} and not there")]
    Missing {
        /// The file.
        path: String,
        /// Where the lock names it.
        place: String,
    },
    /// A file that has no hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The lock's text.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// Every file whose content the lock holds a hash of, sorted.
#[must_use]
pub fn files_of(lock: &Lock) -> Vec<String> {
    let configs = lock.config_hashes.keys().map(|key| split_key(key).0);
    let sources = lock.environment.iter().flat_map(|environment| environment.sources.iter().map(String::as_str));
    let all: BTreeSet<&str> = configs.chain(lock.project_files.keys().map(String::as_str)).chain(sources).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// The lock's text with every hash filled in and the Pythons that were used. Touches only what changed.
///
/// # Errors
/// Where a file that the lock names is not there or can't be read as what its name says.
pub fn relock(
    text: &str,
    lock: &Lock,
    files: &Files,
    pythons: &BTreeMap<String, String>,
) -> Result<String, RelockError> {
    let mut text = text.to_owned();
    let read = |path: &str, place: &str| {
        files.get(path).ok_or_else(|| RelockError::Missing { path: path.to_owned(), place: place.to_owned() })
    };
    if lock.environment.is_some() {
        let hash = sources_hash(lock, files)?;
        text = edit::set_after(&text, &Place::from(["environment", "sources_sha256"]), &hash.into(), Some("sources"))?;
    }
    // The keys of the file, which may be written otherwise than the parsed ones (`./a`).
    let keys = |text: &str, field: &str| -> Vec<String> {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let members = document.get(field).and_then(Value::as_object).into_iter().flatten();
        members.map(|(key, _)| key.clone()).filter(|key| key != "_comment").collect()
    };
    for key in keys(&text, "config_hashes") {
        let (path, table) = split_key(&key);
        let path = super::inside::inside(path).map_or_else(|_| path.to_owned(), camino::Utf8PathBuf::into_string);
        let bytes = read(&path, "config_hashes")?;
        let hash = config_hash(&table.map_or_else(|| path.clone(), |table| format!("{path}#{table}")), bytes)?;
        text = edit::set(&text, &Place::from(["config_hashes", &key]), &hash.into())?;
    }
    for key in keys(&text, "project_files") {
        let path = super::inside::inside(&key).map_or_else(|_| key.clone(), camino::Utf8PathBuf::into_string);
        let hash = hex::encode(Sha256::digest(read(&path, "project_files")?));
        let locked = lock.project_files.get(&path).map_or(PENDING, String::as_str);
        let length = if locked == PENDING { 16 } else { locked.len() };
        let place = Place::from(["project_files", &key]);
        let inner = place.key("sha256_prefix");
        let is_object = super::place::Map::read(&text).is_ok_and(|map| map.value(&inner).is_some());
        text = edit::set(&text, if is_object { &inner } else { &place }, &hash[..length].into())?;
    }
    if lock.version >= 2 && !pythons.is_empty() {
        text = edit::set_after(&text, &Place::from(["python_locked"]), &json!(pythons), Some("python"))?;
    }
    Ok(text)
}

/// The lock's text with what the tests collect now, where it says a count or a hash of its own; a manifest is a file
/// beside it.
///
/// # Errors
/// Where the text is no JSON.
pub fn relock_collection(text: &str, lock: &Lock, ids: &[String]) -> Result<String, RelockError> {
    let place = Place::from(["pytest_collection"]);
    let mut text = text.to_owned();
    if lock.collection.expected_count.is_some() {
        text = edit::set(&text, &place.key("expected_count"), &ids.len().into())?;
    }
    let named = super::place::Map::read(&text).is_ok_and(|map| map.value(&place.key("name_hash_sha256")).is_some());
    if named {
        text = edit::set(&text, &place.key("name_hash_sha256"), &name_hash(ids).into())?;
    }
    Ok(text)
}

/// A version 1 lock as a version 2 lock with a closure: what `ft lock` makes of it. Everything else keeps its bytes.
///
/// # Errors
/// Where the text is no JSON object.
pub fn upgrade(text: &str, lock: &Lock, environment: &Environment) -> Result<String, RelockError> {
    let mut text = edit::set_first(text, "version", &json!(2))?;
    let mut members = json!({ "from": environment.from.as_str() });
    let list = |names: &[String]| (!names.is_empty()).then(|| json!(names));
    let project = match environment.project {
        Project::Editable => "editable",
        Project::None => "none",
    };
    let optional = [
        ("groups", list(&environment.groups)),
        ("extras", list(&environment.extras)),
        ("extra", environment.extra.as_ref().map(|path| json!(path.as_str()))),
        ("sources", list(&environment.sources)),
        ("sources_sha256", Some(json!(PENDING))),
        ("project", Some(json!(project))),
        ("sdists", list(&environment.sdists)),
    ];
    for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        members[name] = value;
    }
    text = edit::set_after(&text, &Place::from(["environment"]), &members, Some("python"))?;
    for (name, tool) in &lock.tools {
        if super::step::known_gate(name).is_none() {
            text = edit::set(&text, &Place::from(["tools", name, "gate"]), &tool.gate.word().into())?;
        }
    }
    Ok(text)
}

fn sources_hash(lock: &Lock, files: &Files) -> Result<String, RelockError> {
    let mut sources = Vec::new();
    for path in lock.environment.iter().flat_map(|environment| &environment.sources) {
        let missing = || RelockError::Missing { path: path.clone(), place: "environment.sources".to_owned() };
        sources.push((path.as_str(), files.get(path).ok_or_else(missing)?));
    }
    let from = lock.environment.as_ref().map_or(Utf8Path::new(""), |environment| &environment.from);
    Ok(sources_sha256(from, &sources)?)
}

/// What `ft lock` gives to the resolver, as a file: one requirement per line.
#[must_use]
pub fn input_text(requirements: &[String]) -> String {
    let mut text = String::from("# Resolved by `ft lock` into ci/parity.requirements.txt\n");
    for requirement in requirements {
        text.push_str(requirement);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "{\n    \"version\": 2,\n    \"python\": \"3.11\",   \"tools\": {},\n    \"environment\": {\"from\": \"ci/parity.requirements.txt\", \"sources\": [\"pyproject.toml\"]},\n    \"config_hashes\": {\"./pyproject.toml#tool.x\": \"pending\", \"a.cfg\":\"pending\"},\n    \"project_files\": {\"a.cfg\": {\"sha256_prefix\": \"00000000\"}}\n}";

    fn files() -> Files {
        let pyproject = b"[project]\nname = 'a'\n[tool.x]\nb = 1\n".to_vec();
        Files::from([("pyproject.toml".to_owned(), pyproject), ("a.cfg".to_owned(), b"x".to_vec())])
    }

    fn parsed(text: &str) -> Lock {
        Lock::parse(text.as_bytes()).unwrap().0
    }

    fn relocked(text: &str, files: &Files) -> String {
        let pythons = BTreeMap::from([("3.11".to_owned(), "3.11.7".to_owned())]);
        relock(text, &parsed(text), files, &pythons).unwrap()
    }

    #[test]
    fn a_lock_is_filled_in_and_then_stays_as_it_is() {
        let text = relocked(LOCK, &files());
        let lock = parsed(&text);
        assert_eq!(files_of(&lock), ["a.cfg", "pyproject.toml"]);
        assert_eq!(lock.config_hashes["a.cfg"], config_hash("a.cfg", b"x").unwrap());
        assert_eq!(lock.environment.as_ref().unwrap().sources_sha256, Some(sources_hash(&lock, &files()).unwrap()));
        assert_eq!(lock.locked_pythons["3.11"], "3.11.7");
        assert_eq!(lock.project_files["a.cfg"], "2d711642");
        assert!(
            text.contains("\"python\": \"3.11\",\n    \"python_locked\": {\"3.11\": \"3.11.7\"},   \"tools\": {},"),
            "{text}"
        );
        assert_eq!(relocked(&text, &files()), text);
    }

    #[test]
    fn locking_again_touches_the_hashes_of_what_changed_only() {
        let text = relocked(LOCK, &files());
        let mut changed = files();
        changed.insert("a.cfg".to_owned(), b"y".to_vec());
        let again = relocked(&text, &changed);
        let differing = text.lines().zip(again.lines()).filter(|(one, other)| one != other).count();
        assert_eq!(differing, 2);
    }

    #[test]
    fn a_file_that_the_lock_names_must_be_there() {
        let error = relock(LOCK, &parsed(LOCK), &Files::new(), &BTreeMap::new()).unwrap_err();
        assert_eq!(error.to_string(), "pyproject.toml is named in environment.sources and not there");
    }

    #[test]
    fn a_version_1_lock_becomes_version_2_and_keeps_its_bytes() {
        let text = "{\n  \"python\": \"3.11\",\n  \"tools\": {\n    \"frob\": { \"version\": \"1.0\" }\n  },\n  \"thresholds\": {\"coverage_min\": 0.5},\n  \"pytest_collection\": {\"expected_count\": 5, \"name_hash_sha256\": \"pending\"}\n}\n";
        let old = parsed(text);
        let environment = Environment {
            from: "ci/parity.requirements.txt".into(),
            groups: vec![],
            extras: vec![],
            sources: vec!["pyproject.toml".to_owned()],
            sources_sha256: None,
            project: Project::Editable,
            sdists: vec![],
            extra: None,
        };
        let upgraded = upgrade(text, &old, &environment).unwrap();
        let new = parsed(&upgraded);
        assert_eq!((new.version, new.environment.as_ref()), (2, Some(&environment)));
        assert_eq!(new.tools["frob"].gate, old.tools["frob"].gate);
        assert!(
            upgraded.starts_with("{\n  \"version\": 2,\n  \"python\": \"3.11\",\n  \"environment\": {\n    \"from\""),
            "{upgraded}"
        );
        let collected = relock_collection(&upgraded, &new, &["a::b".to_owned()]).unwrap();
        assert_eq!(parsed(&collected).collection.expected_count, Some(1));
        assert_eq!(parsed(&collected).collection.name_hash_sha256, Some(name_hash(&["a::b"])));
    }

    #[test]
    fn a_resolved_closure_is_written_the_same_whoever_resolved_it() {
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        let one = format!(
            "--index-url https://me:secret@index.example\nB==2 ; python_version<'3.9' --hash={b} --hash={a}\n    # via x\na==1 --hash={a}\n"
        );
        let other = format!(
            "# other tool\na==1 \\\n    --hash={a}\nb==2 ; python_version < \"3.9\" \\\n    --hash={a} \\\n    --hash={b}\n"
        );
        let written = super::super::requirements::normalised(&one).unwrap();
        assert_eq!(written, super::super::requirements::normalised(&other).unwrap());
        assert_eq!(written, super::super::requirements::normalised(&written).unwrap());
        assert!(!written.contains("secret") && written.contains("a==1 \\\n    --hash=sha256:aaa"), "{written}");
        assert_eq!(input_text(&["a".to_owned()]).lines().last(), Some("a"));
    }
}
