//! A requirements file with hashes: pinned distributions, each with its sha256 values. Names no index and reads no other
//! file; what would bring in anything unhashed is an error.

use super::closure::{ClosureError, MarkerEnv, Pinned};
use super::pep508;
use pep440_rs::{Operator, Version};
use pep508_rs::{MarkerTree, PackageName, VersionOrUrl};

/// One pinned distribution under a condition.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: PackageName,
    pub(super) version: Version,
    marker: MarkerTree,
    pub(super) hashes: Vec<String>,
}

/// Options that say how files are found or chosen. Every file must match a hash of its entry, so that none of them can
/// change what is installed, and the user's own configuration says where to look.
const PASSED_OVER: [&str; 16] = [
    "-i",
    "--index-url",
    "--pypi-url",
    "--extra-index-url",
    "--no-index",
    "-f",
    "--find-links",
    "--trusted-host",
    "--no-binary",
    "--only-binary",
    "--prefer-binary",
    "--pre",
    "--require-hashes",
    "--use-feature",
    "--config-settings",
    "--global-option",
];

pub(super) fn read(text: &str) -> Result<Vec<Entry>, ClosureError> {
    logical_lines(text).into_iter().filter_map(|(line, text)| entry(line, &text).transpose()).collect()
}

pub(super) fn select(entries: &[Entry], env: &MarkerEnv) -> Vec<(PackageName, Pinned)> {
    let fits = entries.iter().filter(|entry| entry.marker.evaluate(env, &[]));
    fits.map(|entry| {
        let pinned = Pinned {
            name: entry.name.to_string(),
            version: entry.version.to_string(),
            hashes: entry.hashes.clone(),
            sdist: false,
        };
        (entry.name.clone(), pinned)
    })
    .collect()
}

/// Lines with their continuations joined and their comments taken off, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        // A comment starts the line or follows white space (pip's rule): `#` may be part of a URL.
        let comment =
            if line.trim_start().starts_with('#') { Some(0) } else { line.find(" #").or_else(|| line.find("\t#")) };
        let line = comment.map_or(line, |start| &line[..start]).trim();
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line.trim_end(), true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| open) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line);
            }
            None => lines.push((at + 1, line.to_owned())),
        }
        // pip-compile puts comments between the lines of one entry: they do not end it.
        open = goes_on || (open && comment == Some(0));
    }
    lines.retain(|(_, line)| !line.is_empty());
    lines
}

fn entry(line: usize, text: &str) -> Result<Option<Entry>, ClosureError> {
    let fault = |reason: String| {
        let mut shown: String = text.chars().take(80).collect();
        if shown.len() < text.len() {
            shown.push_str("...");
        }
        ClosureError::Line { line, reason, text: shown }
    };
    if text.starts_with('-') {
        let option = text.split([' ', '=']).next().unwrap_or_default();
        return match option {
            _ if PASSED_OVER.contains(&option) => Ok(None),
            "-r" | "--requirement" | "-c" | "--constraint" => {
                Err(fault("another file is not part of the closure".to_owned()))
            }
            "-e" | "--editable" => Err(fault("an editable has no hash".to_owned())),
            _ => Err(fault(format!("the option {option} is not known here"))),
        };
    }
    let (requirement, options) = text.split_once(" --").map_or((text, None), |(before, after)| (before, Some(after)));
    let requirement = pep508::requirement(requirement).map_err(|error| fault(format!("no requirement ({error})")))?;
    let name = requirement.name.to_string();
    let version = match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => match specifiers.iter().as_slice() {
            [only] if matches!(only.operator(), Operator::Equal | Operator::ExactEqual) => only.version().clone(),
            _ => return Err(fault("expected one exact version, `name==1.2.3`".to_owned())),
        },
        Some(VersionOrUrl::Url(url)) => {
            // A URL may carry a password.
            let mut url = url.clone();
            let bare = url.set_username("").and_then(|()| url.set_password(None));
            let origin = if bare.is_ok() { url.to_string() } else { url.scheme().to_owned() };
            return Err(ClosureError::NotFromIndex { name, kind: "a URL", origin });
        }
        None => return Err(fault("expected one exact version, `name==1.2.3`".to_owned())),
    };
    let mut hashes = Vec::new();
    for option in options.into_iter().flat_map(|options| options.split(" --")) {
        let option = option.trim();
        let Some(hash) = option.strip_prefix("hash").and_then(|rest| rest.strip_prefix(['=', ' '])) else {
            continue; // pip's per-requirement options say how to build, not what.
        };
        match hash.trim().split_once(':') {
            Some(("sha256", digest)) if is_sha256(digest) => {
                hashes.push(format!("sha256:{}", digest.to_ascii_lowercase()))
            }
            Some(("sha256", _)) => return Err(fault("a sha256 has 64 hexadecimal digits".to_owned())),
            Some(("sha384" | "sha512" | "md5" | "sha1" | "sha224", _)) => {}
            _ => return Err(fault("expected a hash, `--hash=sha256:...`".to_owned())),
        }
    }
    if hashes.is_empty() {
        return Err(ClosureError::Unhashed { name, version: version.to_string() });
    }
    hashes.sort();
    hashes.dedup();
    Ok(Some(Entry { name: requirement.name, version, marker: requirement.marker, hashes }))
}

/// The closure as `ft lock` commits it: sorted, hashes sorted, without comments, hosts and options, so that two
/// machines and two indexes write the same bytes.
///
/// # Errors
/// As [`super::closure::Closure::from_requirements`].
pub fn normalised(text: &str) -> Result<String, ClosureError> {
    normalised_without(text, |_| false)
}

/// The same without the distributions (PEP 503 names) that `left_out` names: the project itself, which a test tool may
/// depend on, and what another closure holds.
///
/// # Errors
/// As [`normalised`].
pub fn normalised_without(text: &str, left_out: impl Fn(&str) -> bool) -> Result<String, ClosureError> {
    let mut entries = Vec::new();
    for (line, text) in logical_lines(text) {
        if let Some(entry) = entry(line, &text)?
            && !left_out(entry.name.as_ref())
        {
            entries.push(entry);
        }
    }
    entries.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    let mut written = String::from(HEAD);
    for entry in entries {
        let marker = entry.marker.try_to_string().map(|marker| format!(" ; {marker}")).unwrap_or_default();
        written.push_str(&format!("{}=={}{marker}", entry.name, entry.version));
        for hash in entry.hashes {
            written.push_str(&format!(" \\\n    --hash={hash}"));
        }
        written.push('\n');
    }
    Ok(written)
}

const HEAD: &str = "\
# The locked packages of the checks, for every Python of the lock. Written by `ft lock`; do not edit.
";

pub(super) fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}
