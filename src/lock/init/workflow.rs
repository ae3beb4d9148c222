//! What the CI of a project runs and its lock does not. Reads `.github/workflows`; knows a few words of shell, and calls
//! everything that it does not know uncovered.

use super::ProjectFiles;
use crate::lock::Lock;
use serde_json::Value;

/// A command of CI that no step of the lock runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// Path of the workflow.
    pub workflow: String,
    /// Id of the job.
    pub job: String,
    /// Name of the step, or its place in the job from 1.
    pub step: String,
    /// The line, or the action.
    pub command: String,
    /// Why the lock does not cover it.
    pub reason: String,
}

impl std::fmt::Display for Uncovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} / {}: {} ({})", self.workflow, self.job, self.step, self.command, self.reason)
    }
}

/// Everything that the workflows run and the lock does not, in the order of the files. What can't be read becomes a
/// warning that names the file.
#[must_use]
pub fn uncovered(files: &ProjectFiles, lock: &Lock, warnings: &mut Vec<String>) -> Vec<Uncovered> {
    let mut found = Vec::new();
    for (path, text) in files.texts.iter().filter(|(path, _)| path.starts_with(".github/workflows/")) {
        // YAML's own value first: JSON has no key that is no string (`on` is a boolean to YAML 1.1).
        let document: serde_yaml_ng::Value = match serde_yaml_ng::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                warnings.push(format!("{path}: not YAML: {error}"));
                continue;
            }
        };
        let Some(jobs) = document.get("jobs").and_then(|jobs| jobs.as_mapping()) else {
            warnings.push(format!("{path}: has no jobs"));
            continue;
        };
        for (job, content) in jobs {
            let job = job.as_str().map_or_else(|| format!("{job:?}"), str::to_owned);
            let Ok(content) = serde_json::to_value(content) else {
                warnings.push(format!("{path}: the job {job} can't be read"));
                continue;
            };
            python_floats(&content, path, &job, warnings);
            if let Some(called) = content.get("uses").and_then(Value::as_str) {
                found.push(Uncovered {
                    workflow: path.clone(),
                    job: job.clone(),
                    step: "-".to_owned(),
                    command: called.to_owned(),
                    reason: "a reusable workflow, which is not looked into".to_owned(),
                });
            }
            for (at, step) in content.get("steps").and_then(Value::as_array).into_iter().flatten().enumerate() {
                let name = step.get("name").and_then(Value::as_str).map_or_else(|| (at + 1).to_string(), str::to_owned);
                for (command, reason) in commands(step, lock) {
                    found.push(Uncovered {
                        workflow: path.clone(),
                        job: job.clone(),
                        step: name.clone(),
                        command,
                        reason,
                    });
                }
            }
        }
    }
    found
}

/// `python-version: 3.10` without quotes is the number 3.1.
fn python_floats(value: &Value, path: &str, job: &str, warnings: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                if name.contains("python") {
                    let list = inner.as_array().map_or(std::slice::from_ref(inner), Vec::as_slice);
                    for number in list.iter().filter(|value| value.is_f64()) {
                        warnings.push(format!(
                            "{path}: job {job}: {name}: {number} is a number; quote it (3.10 without quotes is 3.1)"
                        ));
                    }
                }
                python_floats(inner, path, job, warnings);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| python_floats(value, path, job, warnings)),
        _ => {}
    }
}

fn commands(step: &Value, lock: &Lock) -> Vec<(String, String)> {
    if let Some(action) = step.get("uses").and_then(Value::as_str) {
        const CHECKS: [&str; 5] = ["pre-commit/action", "ruff-action", "action-ruff", "psf/black", "mypy-action"];
        let check = CHECKS.iter().any(|name| action.contains(name));
        return if check {
            vec![(action.to_owned(), "an action that runs checks of its own".to_owned())]
        } else {
            Vec::new()
        };
    }
    let script = step.get("run").and_then(Value::as_str).unwrap_or_default().replace("\\\n", " ");
    let lines = script.lines().flat_map(|line| line.split("&&")).map(str::trim);
    lines.filter_map(|line| Some((line.to_owned(), reason(line, lock)?))).collect()
}

/// Why a line of a script is not covered; `None` where it is, or where it checks nothing.
fn reason(line: &str, lock: &Lock) -> Option<String> {
    let words = command_words(line);
    if words.first().is_some_and(|word| word.starts_with('$')) {
        return Some("what it runs is known only to the shell".to_owned());
    }
    let (first, second) = (words.first().copied()?, words.get(1).copied().unwrap_or_default());
    let prepares = match first {
        "pip" | "pip3" | "pipx" | "apt-get" | "apt" | "brew" | "choco" | "conda" | "npm" => {
            matches!(second, "install" | "update" | "upgrade" | "freeze" | "list" | "ci" | "cache" | "-y")
        }
        "uv" | "poetry" | "pdm" | "hatch" => {
            matches!(
                second,
                "sync" | "install" | "pip" | "venv" | "python" | "lock" | "tool" | "env" | "cache" | "self"
            )
        }
        "git" | "echo" | "printf" | "cd" | "mkdir" | "export" | "source" | "." | "set" | "curl" | "wget" | "sudo"
        | "cat" | "ls" | "cp" | "mv" | "rm" | "chmod" | "if" | "then" | "else" | "fi" | "for" | "do" | "done"
        | "exit" | "which" | "virtualenv" | "venv" | "ensurepip" | "docker" | "tar" | "unzip" | "}" | "{" | "true"
        | "sleep" | "tee" => true,
        _ => line.starts_with('#'),
    };
    if prepares {
        return None;
    }
    if matches!(first, "tox" | "nox") || (matches!(first, "hatch" | "make" | "just" | "invoke") && !second.is_empty()) {
        return Some(format!("what {first} runs is not looked into"));
    }
    if first == "pre-commit" || first == "prek" {
        return Some("hooks that are no step of the lock are not run".to_owned());
    }
    let same_command = |tool: &&crate::lock::Tool| tool.command == first || tool.package.as_deref() == Some(first);
    let covering: Vec<_> = lock.tools.values().filter(same_command).collect();
    if first == "build" && lock.build {
        return None;
    }
    if covering.is_empty() {
        return Some(format!("no step of the lock runs {first}"));
    }
    // `ruff format` is another check than `ruff check`.
    let is_subcommand = first == "ruff" && matches!(second, "check" | "format");
    let same = !is_subcommand || covering.iter().any(|tool| tool.args.first().is_some_and(|arg| arg == second));
    (!same).then(|| format!("no step of the lock runs {first} {second}"))
}

/// The words of a command without what only says how to start it: variables, `python -m`, `uv run`, `coverage run -m`.
pub(super) fn command_words(line: &str) -> Vec<&str> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    loop {
        let start: usize = match words.as_slice() {
            [first, ..] if first.contains('=') && !first.starts_with('-') => 1,
            ["python" | "python3" | "py", "-m", ..] => 2,
            ["uv", "run", "--with" | "--group" | "--extra" | "--python" | "-p", _, ..] => 4,
            ["uv" | "poetry" | "pdm" | "pipenv" | "hatch" | "rye", "run", ..] => 2,
            ["coverage", "run", "-m", ..] => 3,
            ["coverage", "run", flag, ..] if flag.starts_with('-') => return vec!["coverage"],
            ["uvx" | "time" | "xvfb-run" | "env" | "pipx", ..] if words.len() > 1 => 1,
            [flag, ..] if flag.starts_with('-') => 1,
            _ => return words,
        };
        words.drain(..start);
    }
}
