//! What is installed: distributions, their entry points and import names, read from `*.dist-info` without starting
//! Python; and which requirements of theirs are not met.

use crate::lock::normalise;
use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder, Requirement, VerbatimUrl, VersionOrUrl};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::str::FromStr;

/// One installed distribution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dist {
    /// PEP 503 normalised.
    pub name: String,
    /// As its metadata says.
    pub version: String,
    /// sha256 of the wheel it came from, in hex.
    pub wheel: String,
    /// The top-level names that it makes importable.
    pub imports: Vec<String>,
    /// Its entry points.
    pub entry_points: Vec<EntryPoint>,
}

/// One entry point: `[group] name = value`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryPoint {
    /// `console_scripts`, `pytest11`, ...
    pub group: String,
    /// What it is called.
    pub name: String,
    /// `module:object`, extras cut off.
    pub value: String,
}

impl Dist {
    /// The lines of a seal. Fields are separated by tabs; [`super::wheel`] lets no control character through.
    pub(crate) fn encode_into(&self, out: &mut String) {
        let imports = self.imports.join(" ");
        writeln!(out, "dist {}\t{}\t{}\t{imports}", self.name, self.version, self.wheel).expect("writing to a String");
        for entry in &self.entry_points {
            writeln!(out, "entry {}\t{}\t{}", entry.group, entry.name, entry.value).expect("writing to a String");
        }
    }

    pub(crate) fn decode_line(word: &str, rest: &str, dists: &mut Vec<Dist>) -> Option<()> {
        let mut fields = rest.split('\t').map(str::to_owned);
        match word {
            "dist" => {
                let (name, version, wheel) = (fields.next()?, fields.next()?, fields.next()?);
                let imports = fields.next()?.split(' ').filter(|n| !n.is_empty()).map(str::to_owned).collect();
                dists.push(Dist { name, version, wheel, imports, entry_points: Vec::new() });
            }
            "entry" => {
                let entry = EntryPoint { group: fields.next()?, name: fields.next()?, value: fields.next()? };
                dists.last_mut()?.entry_points.push(entry);
            }
            _ => return None,
        }
        Some(())
    }
}

/// What `METADATA` says, as far as it counts here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// `Name`, as written.
    pub name: String,
    /// `Version`.
    pub version: String,
    /// Every `Requires-Dist`.
    pub requires: Vec<String>,
}

/// Reads the headers of a `METADATA` file (RFC 822 without its rarer parts); the body is left alone.
#[must_use]
pub fn parse_metadata(text: &str) -> Metadata {
    let mut metadata = Metadata::default();
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    for (name, value) in headers {
        match name.as_str() {
            "name" => metadata.name = value,
            "version" => metadata.version = value,
            "requires-dist" => metadata.requires.push(value),
            _ => {}
        }
    }
    metadata
}

/// Reads `entry_points.txt`: an INI file as `configparser` reads it, without interpolation.
#[must_use]
pub fn parse_entry_points(text: &str) -> Vec<EntryPoint> {
    let mut group = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            group = name.trim().to_owned();
        } else if let Some((name, value)) = line.split_once('=') {
            let value = value.split('[').next().unwrap_or_default().trim().to_owned();
            found.push(EntryPoint { group: group.clone(), name: name.trim().to_owned(), value });
        }
    }
    found
}

/// A requirement of an installed distribution that the closure does not meet: the lock is stale or incomplete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// Who requires it.
    pub by: String,
    /// The distribution that is required, normalised.
    pub needed: String,
    /// What it requires, as written.
    pub requirement: String,
    /// The version that is there instead; `None` where it is missing.
    pub found: Option<String>,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.found {
            Some(version) => write!(f, "{} requires {}, the lock has {version}", self.by, self.requirement),
            None => write!(f, "{} requires {}, the lock has none", self.by, self.requirement),
        }
    }
}

/// The environment that markers are evaluated in, from what an interpreter said.
///
/// # Errors
/// The text of the value that is no version.
pub fn marker_environment(markers: &BTreeMap<String, String>) -> Result<MarkerEnvironment, String> {
    let get = |name: &str| markers.get(name).map_or("", String::as_str);
    // A Python built from a checkout says "3.13.0+".
    let full = get("python_full_version").trim_end_matches('+');
    MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
        implementation_name: get("implementation_name"),
        implementation_version: get("implementation_version").trim_end_matches('+'),
        os_name: get("os_name"),
        platform_machine: get("platform_machine"),
        platform_python_implementation: get("platform_python_implementation"),
        platform_release: get("platform_release"),
        platform_system: get("platform_system"),
        platform_version: get("platform_version"),
        python_full_version: full,
        python_version: get("python_version"),
        sys_platform: get("sys_platform"),
    })
    .map_err(|error| error.to_string())
}

/// Every requirement of these distributions that they do not meet among themselves. Extras count where one of them asks
/// another for them. A requirement that can't be parsed is passed over: its distribution was installed by others too.
#[must_use]
pub fn unmet(installed: &[Metadata], markers: &MarkerEnvironment) -> Vec<Unmet> {
    let by_name: BTreeMap<String, &Metadata> = installed.iter().map(|m| (normalise(&m.name), m)).collect();
    let mut todo: VecDeque<(String, Option<String>)> = by_name.keys().map(|name| (name.clone(), None)).collect();
    let mut seen: BTreeSet<(String, Option<String>)> = todo.iter().cloned().collect();
    let mut found = Vec::new();
    while let Some((name, extra)) = todo.pop_front() {
        let Some(metadata) = by_name.get(&name) else { continue };
        let extras: Vec<ExtraName> = extra.iter().filter_map(|extra| ExtraName::from_str(extra).ok()).collect();
        for text in &metadata.requires {
            let Ok(requirement) = Requirement::<VerbatimUrl>::from_str(text) else { continue };
            // With an extra, only what the extra adds.
            let applies = requirement.evaluate_markers(markers, &extras)
                && (extras.is_empty() || !requirement.evaluate_markers(markers, &[]));
            if !applies {
                continue;
            }
            let needed = normalise(requirement.name.as_ref());
            let there = by_name.get(&needed);
            if !there.is_some_and(|there| satisfies(&requirement, &there.version)) {
                found.push(Unmet {
                    by: metadata.name.clone(),
                    needed: needed.clone(),
                    requirement: text.clone(),
                    found: there.map(|there| there.version.clone()),
                });
            }
            for extra in &requirement.extras {
                let next = (needed.clone(), Some(extra.to_string()));
                if seen.insert(next.clone()) {
                    todo.push_back(next);
                }
            }
        }
    }
    found
}

fn satisfies(requirement: &Requirement<VerbatimUrl>, version: &str) -> bool {
    match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => {
            // A pre-release that the lock pins is wanted; `contains` does not refuse it.
            pep440_rs::Version::from_str(version).is_ok_and(|version| specifiers.contains(&version))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers() -> MarkerEnvironment {
        let values = [
            ("implementation_name", "cpython"),
            ("implementation_version", "3.11.7"),
            ("os_name", "posix"),
            ("platform_machine", "x86_64"),
            ("platform_python_implementation", "CPython"),
            ("platform_release", "6"),
            ("platform_system", "Linux"),
            ("platform_version", "1"),
            ("python_full_version", "3.11.7"),
            ("python_version", "3.11"),
            ("sys_platform", "linux"),
        ];
        marker_environment(&values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()).unwrap()
    }

    fn dist(name: &str, version: &str, requires: &[&str]) -> Metadata {
        Metadata {
            name: name.into(),
            version: version.into(),
            requires: requires.iter().map(|r| (*r).to_owned()).collect(),
        }
    }

    #[test]
    fn a_missing_and_a_too_old_requirement_are_named() {
        let installed = [
            dist("pytest", "8.0", &["pluggy>=1.5", "iniconfig", "tomli; python_version < '3.11'"]),
            dist("Pluggy", "1.4", &[]),
        ];
        let found: Vec<String> = unmet(&installed, &markers()).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["pytest requires pluggy>=1.5, the lock has 1.4", "pytest requires iniconfig, the lock has none"]
        );
    }

    #[test]
    fn an_extra_counts_only_where_somebody_asks_for_it() {
        let coverage = dist("coverage", "7.0", &["tomli; extra == 'toml'"]);
        assert_eq!(unmet(std::slice::from_ref(&coverage), &markers()), []);
        let cov = dist("pytest-cov", "5.0", &["coverage[toml]>=5"]);
        assert_eq!(unmet(&[coverage, cov], &markers()).len(), 1);
    }

    #[test]
    fn metadata_ends_where_the_body_starts() {
        let text = "Metadata-Version: 2.1\nName: A_b\nVersion: 1\nRequires-Dist: x\n  >=1\n\nName: body\n";
        assert_eq!(parse_metadata(text), dist("A_b", "1", &["x >=1"]));
    }

    #[test]
    fn entry_points_are_read_without_extras_and_comments() {
        let text = "# c\n[console_scripts]\nft = a.b:main [cli]\n\n[pytest11]\ncov = pytest_cov.plugin\n";
        let entry = |group: &str, name: &str, value: &str| EntryPoint {
            group: group.into(),
            name: name.into(),
            value: value.into(),
        };
        assert_eq!(
            parse_entry_points(text),
            [entry("console_scripts", "ft", "a.b:main"), entry("pytest11", "cov", "pytest_cov.plugin")]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_metadata_and_entry_points_without_a_panic(text in "(?s).{0,200}") {
            let _ = parse_metadata(&text);
            let _ = parse_entry_points(&text);
        }
    }
}
