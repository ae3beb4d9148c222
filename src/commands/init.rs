//! `ft init`: looks at the project and writes a lock for it. Asks nothing.

use super::context::Context;
use super::{lock, survey};
use crate::cli::Init;
use crate::code::ExitCode;
use crate::lock::LOCK_PATH;
use crate::lock::collection::with_git_attribute;
use crate::lock::init::{self, ProjectFiles};
use crate::repo::{Repo, native, path_bytes};
use crate::ui;
use std::path::Path;

/// The Pythons that are looked for when the project does not name one: those that are supported, newest last.
const PYTHONS: &[&str] = &["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"];

pub(super) fn init(context: &Context, args: &Init) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    if repo.root.join(LOCK_PATH).exists() && !args.force && !args.dry_run {
        ui::error(
            &format!("{LOCK_PATH} is there already"),
            Some("refresh it with `ft lock`, or replace it with `ft init --force`"),
        );
        return ExitCode::USAGE;
    }
    let files = match project_files(&repo) {
        Ok(files) => files,
        Err(message) => {
            ui::error(&message, None);
            return ExitCode::USAGE;
        }
    };
    let pythons: Vec<String> =
        PYTHONS.iter().filter_map(|python| Some(survey::installed(context, &repo, python)?.facts.version)).collect();
    let made = match init::init(&files, &pythons, env!("CARGO_PKG_VERSION")) {
        Ok(made) => made,
        Err(error) => {
            ui::error(&error.to_string(), Some("mend that file, then run `ft init` again"));
            return ExitCode::USAGE;
        }
    };
    if args.dry_run {
        ui::out(&made.lock);
    }
    made.notes.iter().for_each(|note| ui::note(note));
    made.warnings.iter().for_each(|warning| ui::warning(warning, None));
    for job in &made.uncovered {
        ui::warning(&format!("CI runs more than this lock: {job}"), None);
    }
    if args.dry_run {
        return ExitCode::PASSED;
    }
    let written = lock::write(&repo, Path::new(LOCK_PATH), &made.lock).and_then(|()| attribute(&repo));
    if let Err(error) = written {
        ui::error(&error.to_string(), None);
        return ExitCode::INFRASTRUCTURE;
    }
    ui::note(&format!("wrote {LOCK_PATH}"));
    if args.no_lock {
        ui::note("next: `ft lock` resolves and hashes everything");
        return ExitCode::PASSED;
    }
    let code = lock::whole(context, &repo, false);
    if code == ExitCode::PASSED {
        ui::note("next: commit the files in ci/ (and .gitattributes), then `ft run`");
    }
    code
}

/// Lets git merge the collection manifest of two branches (see [`crate::lock::collection`]).
fn attribute(repo: &Repo) -> std::io::Result<()> {
    let path = repo.root.join(".gitattributes");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    match with_git_attribute(&text) {
        Some(new) => lock::write(repo, Path::new(".gitattributes"), &new),
        None => Ok(()),
    }
}

/// What git tracks here, and the text of the files that say something about tools.
pub(super) fn project_files(repo: &Repo) -> Result<ProjectFiles, String> {
    let tracked = crate::git::tracked(&repo.root, None).map_err(|error| error.to_string())?;
    let tracked: Vec<String> = tracked.iter().filter_map(|entry| String::from_utf8(entry.path.clone()).ok()).collect();
    let mut texts = std::collections::BTreeMap::new();
    for path in ProjectFiles::wanted(&tracked) {
        // A file that is deleted in the worktree, or no text, says nothing.
        if let Ok(text) = std::fs::read_to_string(repo.root.join(native(path_bytes(Path::new(&path))))) {
            texts.insert(path, text);
        }
    }
    Ok(ProjectFiles { tracked, texts })
}
