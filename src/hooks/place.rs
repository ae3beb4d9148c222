//! Which folder git takes its hooks from, and whether it is this repository's own.

use super::{HookError, io};
use crate::git::{Git, GitError};
use crate::repo::{Repo, native};
use std::path::{Path, PathBuf};

/// Whose configuration a value stands in, as git names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The machine's.
    System,
    /// The user's.
    Global,
    /// The repository's.
    Local,
    /// This worktree's.
    Worktree,
    /// The command line's or the environment's.
    Command,
}

impl Scope {
    fn parse(word: &[u8]) -> Option<Scope> {
        Some(match word {
            b"system" => Scope::System,
            b"global" => Scope::Global,
            b"local" => Scope::Local,
            b"worktree" => Scope::Worktree,
            b"command" => Scope::Command,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Scope::System => "system",
            Scope::Global => "global",
            Scope::Local => "repository's",
            Scope::Worktree => "worktree's",
            Scope::Command => "command line's",
        })
    }
}

/// The folder that git takes hooks from, where it is one that we may write to.
pub fn hooks_dir(repo: &Repo) -> Result<PathBuf, HookError> {
    hooks_dir_for(repo, Git::at(&repo.top))
}

/// The same, as this call of git sees its configuration.
fn hooks_dir_for(repo: &Repo, git: Git) -> Result<PathBuf, HookError> {
    let dir = match configured(git)? {
        None => repo.common_dir.join("hooks"),
        Some((Scope::Local | Scope::Worktree, path)) => repo.top.join(path),
        Some((scope, path)) => return Err(HookError::NotOurs { scope, path }),
    };
    // The folder itself need not be there yet.
    let real = existing_part(&dir).canonicalize().map_err(io(&dir))?;
    let main_worktree = repo.common_dir.parent().filter(|_| repo.common_dir.ends_with(".git"));
    let own = [Some(&*repo.top), Some(&*repo.common_dir), main_worktree];
    if own.into_iter().flatten().any(|folder| real.starts_with(folder)) {
        Ok(dir)
    } else {
        Err(HookError::Outside(dir))
    }
}

/// `core.hooksPath` and whose it is; the last one counts, as for git.
fn configured(git: Git) -> Result<Option<(Scope, PathBuf)>, HookError> {
    let asked = git.args(["config", "--show-scope", "-z", "--type=path", "--get-all", "core.hooksPath"]).output();
    let output = match asked {
        Ok(output) => output,
        // Status 1: not set.
        Err(GitError::Failed { message, .. }) if message.starts_with("exit status: 1") => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut parts = output.split(|b| *b == 0);
    let mut last = None;
    while let (Some(scope), Some(value)) = (parts.next(), parts.next()) {
        last = Scope::parse(scope).map(|scope| (scope, native(value)));
    }
    Ok(last)
}

fn existing_part(dir: &Path) -> &Path {
    dir.ancestors().find(|at| at.exists()).unwrap_or(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::fixture::Fixture;

    #[test]
    fn a_global_or_system_folder_is_refused_and_the_repository_s_own_comes_before_it() {
        let fixture = Fixture::with(&[("a", "")]);
        let repo = Repo {
            root: fixture.top.clone(),
            top: fixture.top.clone(),
            git_dir: fixture.top.join(".git"),
            common_dir: fixture.top.join(".git"),
            head: None,
            object_format: "sha1".into(),
        };
        let config = fixture.dir.path().join("config");
        // Even where it lies inside the repository: the next one has it too.
        std::fs::write(&config, "[core]\n\thooksPath = .githooks\n").unwrap();
        for (variable, scope) in [("GIT_CONFIG_GLOBAL", Scope::Global), ("GIT_CONFIG_SYSTEM", Scope::System)] {
            let git = || {
                Git::at(&repo.top)
                    .env("GIT_CONFIG_GLOBAL", "/dev/null")
                    .env("GIT_CONFIG_SYSTEM", "/dev/null")
                    .env(variable, &config)
            };
            let error = hooks_dir_for(&repo, git()).unwrap_err();
            assert!(matches!(error, HookError::NotOurs { scope: found, .. } if found == scope), "{error}");
            assert!(error.hint().unwrap().contains("git config core.hooksPath .git/hooks"));
            fixture.git(["config", "core.hooksPath", ".git/hooks"]);
            assert_eq!(hooks_dir_for(&repo, git()).unwrap(), fixture.top.join(".git/hooks"));
            fixture.git(["config", "--unset", "core.hooksPath"]);
        }
    }
}
