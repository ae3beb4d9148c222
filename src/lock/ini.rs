//! Sections of `.cfg` and `.ini` files as Python's configparser sees them: keys in lower case, values with their
//! continuation lines, comment lines and empty lines left out. No interpolation.

use std::collections::BTreeMap;

/// One section: each key with the lines of its value. A key that comes twice has its last value.
pub type Section = BTreeMap<String, Vec<String>>;

/// The sections of a file by name. Lines before the first section are left out.
#[must_use]
pub fn sections(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut current: Option<(String, Option<String>)> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        if !indented && trimmed.starts_with('[') && trimmed.ends_with(']') {
            let name = trimmed[1..trimmed.len() - 1].trim().to_owned();
            sections.entry(name.clone()).or_default();
            current = Some((name, None));
            continue;
        }
        let Some((section, key)) = &mut current else { continue };
        let section = sections.entry(section.clone()).or_default();
        match key {
            Some(key) if indented => section.entry(key.clone()).or_default().push(trimmed.to_owned()),
            _ => {
                let (name, value) = trimmed.split_once(['=', ':']).unwrap_or((trimmed, ""));
                let name = name.trim().to_ascii_lowercase();
                let value = value.trim();
                section.insert(name.clone(), if value.is_empty() { Vec::new() } else { vec![value.to_owned()] });
                *key = Some(name);
            }
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_as_configparser_reads_it() {
        let text = "lost=1\n[tool:pytest]\n# comment\nAddOpts = -q\n  --strict\n\n  ; no\ntestpaths: tests\nflag\n[x]\n[tool:pytest]\nlate=1\n";
        let sections = sections(text);
        let pytest = &sections["tool:pytest"];
        assert_eq!(pytest["addopts"], ["-q", "--strict"]);
        assert_eq!(pytest["testpaths"], ["tests"]);
        assert_eq!(pytest["late"], ["1"]);
        assert!(pytest["flag"].is_empty() && sections["x"].is_empty());
    }
}
