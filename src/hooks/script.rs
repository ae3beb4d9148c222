//! The text of a hook. Pure.
//!
//! POSIX sh, because git brings one everywhere. A hook that finds no `ft` says in one line how to get it: `pre-commit`
//! then lets the commit go (it is local, and a push still asks), `pre-push` refuses (what was not checked must not look
//! checked).

use std::path::Path;

/// Stands in every version of our hooks, and nowhere else.
const MARK: &str = "# firsttry hook, version ";
/// Moves whenever [`hook`] writes something else.
const VERSION: u32 = 1;

/// The hook's text. `before` is the content of the hook that was there, if any; `ft` the running program;
/// `below` the repository relative to git's top level, empty where it is the same.
pub fn hook(name: &str, before: Option<&[u8]>, ft: &Path, below: &str) -> String {
    // git starts hooks at its top level; the lock may stand in a folder below it.
    let there = if below.is_empty() { String::new() } else { format!(" -C {}", quoted(below)) };
    let ft = quoted(&ft.to_string_lossy());
    let (read_input, send_input, without_ft) = match name {
        "pre-push" => (
            // Both the hook from before and ft get it. The mark keeps the last newline.
            "input=$(cat; printf x)\ninput=${input%x}\n",
            "printf '%s' \"$input\" | ",
            "echo \"ft: not found, so nothing was checked and nothing is pushed: get it with \\`cargo install firsttry\\`, or push once with SKIP_FT=1\" >&2\nexit 1\n",
        ),
        _ => (
            "",
            "",
            "echo \"ft: not found, so this commit was not checked: get it with \\`cargo install firsttry\\`\" >&2\nexit 0\n",
        ),
    };
    let first = before.map_or_else(String::new, |before| {
        let call = call(before);
        format!(
            "before=${{0%/*}}/{name}.ft-original\nif [ -x \"$before\" ]; then\n\
             \x20 [ \"$FT_HOOK\" = \"{name} $PWD\" ] && exit 0 # another tool has put itself between: not in circles\n\
             \x20 {send_input}FT_HOOK=\"{name} $PWD\" {call} || exit $?\nfi\n"
        )
    });
    format!(
        "#!/bin/sh\n{MARK}{VERSION}: written by `ft hooks install`, taken back by `ft hooks uninstall`.\n\
         {read_input}{first}\
         if [ \"$SKIP_FT\" = 1 ]; then\n  echo \"ft: {name} skipped, because SKIP_FT=1 is set\" >&2\n  exit 0\nfi\n\
         for ft in \"$(command -v ft)\" \"$HOME/.cargo/bin/ft\" \"$HOME/.local/bin/ft\" {ft}; do\n\
         \x20 if [ -f \"$ft\" ] && [ -x \"$ft\" ]; then\n\
         \x20   {send_input}\"$ft\"{there} {name} \"$@\"\n\
         \x20   exit $?\n\
         \x20 fi\ndone\n{without_ft}"
    )
}

/// Whether a hook is ours, of any version.
pub fn is_ours(text: &[u8]) -> bool {
    contains(text, MARK.as_bytes())
}

/// Whether a hook of ours is of this version.
pub fn is_current(text: &[u8]) -> bool {
    contains(text, format!("{MARK}{VERSION}:").as_bytes())
}

/// Whether someone else's hook calls ft itself.
pub fn calls_ft(text: &[u8], name: &str) -> bool {
    String::from_utf8_lossy(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| line.contains(&format!("ft {name}")))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// How the hook from before is called. A shell script is read by its own shell under the name that it had: husky, for
/// one, finds the script to run by the last part of `$0`. Anything else is simply executed.
fn call(before: &[u8]) -> String {
    match shell(before) {
        Some(shell) => format!("{shell} -c 'ft_before=$1; shift; . \"$ft_before\"' \"$0\" \"$before\" \"$@\""),
        None => "\"$before\" \"$@\"".to_owned(),
    }
}

/// The words of a script's first line, where they name a shell that reads another file with `.` as if it were its own.
fn shell(script: &[u8]) -> Option<&str> {
    let line = script.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let words = std::str::from_utf8(line).ok()?.trim();
    let plain = words.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_. -".contains(&b));
    let mut each = words.split_whitespace();
    let program = each.next()?.rsplit('/').next()?;
    let program = if program == "env" { each.next()? } else { program };
    // The kernel hands what follows on as one argument; more than one does not survive being split here.
    let few = each.count() <= 1;
    (plain && few && matches!(program, "sh" | "bash" | "dash")).then_some(words)
}

/// A word that a shell reads as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_shells_read_a_hook_under_its_old_name() {
        assert_eq!(shell(b"#!/bin/sh\nx"), Some("/bin/sh"));
        assert_eq!(shell(b"#!/usr/bin/env bash\n"), Some("/usr/bin/env bash"));
        assert_eq!(shell(b"#! /bin/bash -e\n"), Some("/bin/bash -e"));
        assert_eq!(shell(b"#!/usr/bin/env python3\n"), None);
        assert_eq!(shell(b"#!/bin/zsh\n"), None);
        assert_eq!(shell(b"#!/bin/sh;evil\n"), None);
        assert_eq!(shell(b"\x7fELF"), None);
    }

    #[test]
    fn a_hook_of_ours_is_known_and_its_version_too() {
        let text = hook("pre-commit", None, Path::new("/opt/it's/ft"), "");
        assert!(is_ours(text.as_bytes()) && is_current(text.as_bytes()));
        assert!(text.contains(r"'/opt/it'\''s/ft'"));
        let below = hook("pre-commit", None, Path::new("/opt/ft"), "services/a b");
        assert!(below.contains(r#""$ft" -C 'services/a b' pre-commit "$@""#), "{below}");
        let older = text.replace("version 1:", "version 0:");
        assert!(is_ours(older.as_bytes()) && !is_current(older.as_bytes()));
    }

    #[test]
    fn a_hook_that_calls_ft_by_itself_is_seen_and_a_comment_is_not() {
        assert!(calls_ft(b"#!/bin/sh\nft pre-commit \"$@\"\n", "pre-commit"));
        assert!(!calls_ft(b"#!/bin/sh\n# ft pre-commit\n", "pre-commit"));
    }
}
