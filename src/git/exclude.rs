//! `info/exclude`: what this clone alone keeps out of `git status`, without a change to a file of the project.
//!
//! Our lines stand in a block of their own; what is around it stays as it is.

use crate::leftovers;
use std::io::{ErrorKind, Write};
use std::path::Path;

const BEGIN: &str = "# ft: what it makes itself (begin)";
const END: &str = "# ft: what it makes itself (end)";

/// Whether all these patterns stand in our block.
///
/// # Errors
/// Where the file is there and can't be read.
pub fn has(common_dir: &Path, patterns: &[String]) -> std::io::Result<bool> {
    let text = read(common_dir)?;
    let ours = block(&text).map_or(&[][..], |(from, to)| &text[from..to]);
    Ok(patterns.iter().all(|pattern| lines(ours).any(|line| line == pattern.as_bytes())))
}

/// Adds patterns to our block, once each. The file is replaced whole.
///
/// # Errors
/// Where it can't be read or written.
pub fn add(common_dir: &Path, patterns: &[String]) -> std::io::Result<()> {
    if has(common_dir, patterns)? {
        return Ok(());
    }
    let text = read(common_dir)?;
    let (from, to) = block(&text).unwrap_or((text.len(), text.len()));
    let mut all: Vec<Vec<u8>> = lines(&text[from..to])
        .filter(|line| !line.is_empty() && *line != BEGIN.as_bytes() && *line != END.as_bytes())
        .map(<[u8]>::to_vec)
        .collect();
    all.extend(patterns.iter().map(|pattern| pattern.clone().into_bytes()));
    all.sort();
    all.dedup();
    let mut new = text[..from].to_vec();
    if !new.is_empty() && !new.ends_with(b"\n") {
        new.push(b'\n');
    }
    for line in [BEGIN.as_bytes()].into_iter().chain(all.iter().map(Vec::as_slice)).chain([END.as_bytes()]) {
        new.extend_from_slice(line);
        new.push(b'\n');
    }
    new.extend_from_slice(&text[to..]);
    let info = common_dir.join("info");
    std::fs::create_dir_all(&info)?;
    // Where the file is a link, what it names is replaced and not the link.
    let place = info.join("exclude");
    let place = place.canonicalize().unwrap_or(place);
    let folder = place.parent().unwrap_or(&info);
    leftovers::sweep(folder);
    let mut file = leftovers::file_in(folder)?;
    file.write_all(&new)?;
    if let Ok(meta) = place.metadata() {
        file.as_file().set_permissions(meta.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(place)?;
    Ok(())
}

/// A pattern that means this path and nothing else: relative to the top level, in bytes as git has them. A folder's
/// path ends with a slash.
#[must_use]
pub fn pattern(path: &[u8]) -> String {
    let mut pattern = "/".to_owned();
    for c in String::from_utf8_lossy(path).chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

fn read(common_dir: &Path) -> std::io::Result<Vec<u8>> {
    match std::fs::read(common_dir.join("info/exclude")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
}

/// Where our block begins and where the line after it does.
fn block(text: &[u8]) -> Option<(usize, usize)> {
    let line_at = |wanted: &str, from: usize| {
        let mut at = from;
        for line in lines(&text[from..]) {
            if line == wanted.as_bytes() {
                return Some(at);
            }
            at += line.len() + 1;
        }
        None
    };
    let from = line_at(BEGIN, 0)?;
    let end = line_at(END, from)?;
    Some((from, (end + END.len() + 1).min(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(before: &str, patterns: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("info")).unwrap();
        let place = dir.path().join("info/exclude");
        std::fs::write(&place, before).unwrap();
        for pattern in patterns {
            add(dir.path(), &[(*pattern).to_owned()]).unwrap();
        }
        std::fs::read_to_string(place).unwrap()
    }

    #[test]
    fn what_was_there_stays_and_each_pattern_stands_once() {
        let once = exclude("mine", &["/b", "/a", "/b"]);
        assert_eq!(once, format!("mine\n{BEGIN}\n/a\n/b\n{END}\n"));
        let again = exclude(&format!("{once}later"), &["/c"]);
        assert_eq!(again, format!("mine\n{BEGIN}\n/a\n/b\n/c\n{END}\nlater"));
        assert_eq!(exclude(&once, &["/a"]), once);
    }

    #[test]
    fn without_a_file_one_is_made() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), &["/a".to_owned()]).unwrap();
        assert!(has(dir.path(), &["/a".to_owned()]).unwrap());
        assert!(!has(dir.path(), &["/b".to_owned()]).unwrap());
    }

    #[test]
    fn a_pattern_means_the_path_and_nothing_else() {
        assert_eq!(pattern(b"a[1]/*/.firsttry/"), r"/a\[1]/\*/.firsttry/");
    }
}
