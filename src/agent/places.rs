//! Where the places of a cell are: `/ft/work`, `/ft/env`, ... as they are written in manifests, or the same below
//! another root where no mount namespace can be had. Pure.

use crate::frame::Manifest;
use std::path::PathBuf;

/// The root that manifests are written for.
const ROOT: &str = "/ft";

/// The root as a URL names it.
const FILE_URL: &str = "file:///ft";

/// Kernels before Linux 5.1 cut the first line of a script after 127 bytes.
const LONGEST_SHEBANG: usize = 120;

/// Says of which cell a process is.
pub const MARKER: &str = "FT_CELL";

/// Variables that name the directory for temporary files, tempfile(3) and Python's `tempfile`.
const TEMPORARY: [&str; 3] = ["TMPDIR", "TEMP", "TMP"];

/// Where a cell's places are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What stands for `/ft`.
    pub root: String,
    /// What stands for `/tmp`, where a variable names it.
    pub temporary: String,
    /// The variable by which what a killed run left is found: its value names the run's starter.
    pub marker: String,
}

impl Default for Places {
    fn default() -> Self {
        Places { root: ROOT.to_owned(), temporary: "/tmp".to_owned(), marker: String::new() }
    }
}

impl Places {
    /// The step's view of the tree.
    pub fn work(&self) -> PathBuf {
        PathBuf::from(format!("{}/work", self.root))
    }

    /// Where a step puts what is to come back.
    pub fn out(&self) -> PathBuf {
        PathBuf::from(format!("{}/out", self.root))
    }

    /// The file in which the step says which test runs.
    pub fn slots(&self) -> String {
        format!("{}/witness", self.root)
    }

    /// A manifest as it is for these places. `FT_ROOT` says the root where it is another one.
    pub fn translate(&self, manifest: &mut Manifest) {
        if self.root == ROOT {
            return;
        }
        manifest.cwd = self.path(&manifest.cwd);
        for word in &mut manifest.argv {
            *word = self.path(word);
        }
        for (name, value) in &mut manifest.env {
            *value = if value == "/tmp" && TEMPORARY.contains(&name.as_str()) {
                self.temporary.clone()
            } else {
                self.path(value)
            };
        }
        if !manifest.env.iter().any(|(name, _)| name == TEMPORARY[0]) {
            manifest.env.push((TEMPORARY[0].to_owned(), self.temporary.clone()));
        }
        manifest.env.retain(|(name, _)| name != "FT_ROOT" && name != MARKER);
        manifest.env.push((MARKER.to_owned(), self.marker.clone()));
        manifest.env.push(("FT_ROOT".to_owned(), self.root.clone()));
        // The C library takes an answer over UDP from the address it asked alone, which is not where ours comes from.
        manifest.env.push(("RES_OPTIONS".to_owned(), "use-vc".to_owned()));
    }

    /// What a file of the project layer is here; `None` where it stays: it names no place of a cell, or is no text. URLs
    /// of files count too, and a first line that a kernel would not take (too long, or with a space) gets the form for
    /// that which Python knows.
    pub fn content(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
        let parts: Vec<String> = text.split(FILE_URL).map(|part| self.path(part)).collect();
        let text = parts.join(&format!("file://{}", self.root));
        let Some((line, rest)) = text.strip_prefix("#!").and_then(|rest| rest.split_once('\n')) else {
            return (text.as_bytes() != bytes).then(|| text.into_bytes());
        };
        let hard = self.root.contains(' ') || line.len() > LONGEST_SHEBANG;
        let text = match line.strip_prefix(&self.root).filter(|_| hard) {
            Some(program) => {
                let (program, options) = program.split_once(' ').unwrap_or((program, ""));
                let root = &self.root;
                format!("#!/bin/sh\n'''exec' \"{root}{program}\" {options} \"$0\" \"$@\"\n' '''\n{rest}")
            }
            None => text,
        };
        (text.as_bytes() != bytes).then(|| text.into_bytes())
    }

    /// A text with every `/ft` in it that is a path of its own, or begins one, turned into the root: `/ft/work`,
    /// `--config=/ft/work/x`, `/ft/env/bin:/usr/bin`. `/srv/ft` and `/ftp` stay.
    fn path(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(ROOT) {
            let (before, after) = (&rest[..at], &rest[at + ROOT.len()..]);
            let last = before.chars().next_back().or_else(|| out.chars().next_back());
            let begins = last.is_none_or(|c| !(c.is_alphanumeric() || "/._-~".contains(c)));
            let ends = after.chars().next().is_none_or(|c| !(c.is_alphanumeric() || "._-~".contains(c)));
            out.push_str(before);
            out.push_str(if begins && ends { &self.root } else { ROOT });
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn here() -> Places {
        Places { root: "/s/ft".into(), temporary: "/tmp/ft-1".into(), marker: "7-9".into() }
    }

    #[test]
    fn paths_of_the_cell_are_found_wherever_they_stand_and_others_stay() {
        for (text, expected) in [
            ("/ft/work", "/s/ft/work"),
            ("/ft", "/s/ft"),
            ("--config=/ft/work/a.toml", "--config=/s/ft/work/a.toml"),
            ("/ft/project/bin:/ft/env/bin:/usr/bin", "/s/ft/project/bin:/s/ft/env/bin:/usr/bin"),
            ("open('/ft/out/x').read() + \"/ft/work\"", "open('/s/ft/out/x').read() + \"/s/ft/work\""),
            ("/srv/ft/work /ftp /ft-1 /ft.d a/ft /ft_/x", "/srv/ft/work /ftp /ft-1 /ft.d a/ft /ft_/x"),
            ("file:///ft/work", "file:///ft/work"),
            ("", ""),
        ] {
            assert_eq!(here().path(text), expected);
        }
    }

    #[test]
    fn files_of_the_layer_name_the_places_of_this_cell_and_binary_ones_stay() {
        let said = |bytes: &[u8]| here().content(bytes).map(|new| String::from_utf8(new).unwrap());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(said(b"/ft/work/src\n"), some("/s/ft/work/src\n"));
        assert_eq!(said(b"M = {'a': '/ft/work/a'}"), some("M = {'a': '/s/ft/work/a'}"));
        assert_eq!(said(br#"{"url": "file:///ft/work"}"#), some(r#"{"url": "file:///s/ft/work"}"#));
        assert_eq!(said(b"#!/ft/env/bin/python\nx"), some("#!/s/ft/env/bin/python\nx"));
        for same in [&b"import a"[..], b"\x7fELF\0/ft/work", b"\xff/ft/work", b"#!/bin/sh\n", b""] {
            assert_eq!(said(same), None);
        }
        assert_eq!(Places::default().content(b"/ft/work file:///ft/work"), None);
        for root in ["/a place/ft".to_owned(), format!("/{}/ft", "a".repeat(150))] {
            let new = Places { root: root.clone(), ..here() }.content(b"#!/ft/env/bin/python\nx").unwrap();
            let expected = format!("#!/bin/sh\n'''exec' \"{root}/env/bin/python\"  \"$0\" \"$@\"\n' '''\nx");
            assert_eq!(String::from_utf8(new).unwrap(), expected);
        }
    }

    #[test]
    fn a_manifest_is_translated_with_its_variables() {
        let mut manifest = Manifest {
            argv: vec!["python".into(), "/ft/lib/x.py".into()],
            cwd: "/ft/work/sub".into(),
            env: vec![
                ("TMPDIR".into(), "/tmp".into()),
                ("A".into(), "/tmp".into()),
                ("HOME".into(), "/ft/home".into()),
            ],
            ..Manifest::default()
        };
        let untouched = manifest.clone();
        Places::default().translate(&mut manifest);
        assert_eq!(manifest, untouched);
        here().translate(&mut manifest);
        assert_eq!((manifest.argv[1].as_str(), manifest.cwd.as_str()), ("/s/ft/lib/x.py", "/s/ft/work/sub"));
        let expected = [
            ("TMPDIR", "/tmp/ft-1"),
            ("A", "/tmp"),
            ("HOME", "/s/ft/home"),
            ("FT_CELL", "7-9"),
            ("FT_ROOT", "/s/ft"),
            ("RES_OPTIONS", "use-vc"),
        ];
        assert_eq!(manifest.env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    proptest! {
        #[test]
        fn text_without_the_root_stays(text in "[a-z:= /.]{0,40}") {
            prop_assume!(!text.contains("/ft"));
            prop_assert_eq!(here().path(&text), text);
        }
    }
}
