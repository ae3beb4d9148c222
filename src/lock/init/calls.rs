//! How a project itself calls a tool: the command lines of tox, CI, make and just, and the hooks of pre-commit. A type
//! checker means what it means with the arguments of its own project and no others. Knows a few words of shell; a line
//! that only a shell or tox understands is passed over.

use super::ProjectFiles;
use super::declared::{Declared, Hook};
use super::workflow::command_words;
use crate::lock::ini;
use crate::lock::stale::toml_value;
use serde_json::Value;

/// One call, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) args: Vec<String>,
    pub(super) place: String,
}

/// The distinct calls of a tool in the first place that has any: tox, then CI, then make or just, then pre-commit.
pub(super) fn of(files: &ProjectFiles, declared: &Declared, tool: &str) -> Vec<Call> {
    let mut lines = tox(files, declared);
    let mut found = calls(&lines, tool);
    for more in [workflows, recipes] {
        if found.is_empty() {
            lines = more(files);
            found = calls(&lines, tool);
        }
    }
    if found.is_empty() {
        found.extend(declared.hooks.iter().filter(|hook| hook.id == tool).filter_map(|hook| by_hook(files, hook)));
    }
    found
}

/// A command line, and the file that it is from.
type Line = (String, String);

fn calls(lines: &[Line], tool: &str) -> Vec<Call> {
    let mut found: Vec<Call> = Vec::new();
    for (place, line) in lines {
        let words = command_words(line);
        let Some((first, args)) = words.split_first() else { continue };
        let shell = |word: &&str| word.contains(['$', '|', '>', '<', ';', '`', '{', '*', '"', '\'', '&']);
        let asks = |word: &&str| matches!(*word, "--version" | "--help" | "--install-types");
        if *first != tool || args.iter().any(shell) || args.iter().any(asks) {
            continue;
        }
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        if !found.iter().any(|call| call.args == args) {
            found.push(Call { args, place: place.clone() });
        }
    }
    found
}

fn tox(files: &ProjectFiles, declared: &Declared) -> Vec<Line> {
    let mut lines = of_sections("tox.ini", &declared.tox_ini);
    if let Some(text) = declared.table("tool.tox.legacy_tox_ini").and_then(Value::as_str) {
        lines.extend(of_sections("pyproject.toml", &ini::sections(text)));
    }
    if let Some(table) = declared.table("tool.tox") {
        lines.extend(of_tables("pyproject.toml", table));
    }
    let toml = files.text("tox.toml").and_then(|text| toml_value("tox.toml", text.as_bytes()).ok());
    lines.extend(toml.iter().flat_map(|table| of_tables("tox.toml", table)));
    lines
}

fn of_sections(place: &str, sections: &std::collections::BTreeMap<String, ini::Section>) -> Vec<Line> {
    let mut found = Vec::new();
    for (name, section) in sections.iter().filter(|(name, _)| name.starts_with("testenv")) {
        let commands = section.get("commands").into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        for line in commands.join("\n").replace("\\\n", " ").lines() {
            // `mypy: mypy src` holds for the environments of that factor.
            let line = match line.split_once(": ") {
                Some((factor, rest)) if !factor.contains(' ') => rest,
                _ => line,
            };
            let line = line.trim().trim_start_matches(['-', '!', '@']).trim_start();
            found.push((format!("{place} [{name}]"), without_posargs(line).replace("{toxinidir}/", "")));
        }
    }
    found
}

/// `{posargs:src}` is `src` where tox is called without arguments.
fn without_posargs(line: &str) -> String {
    let mut text = line.to_owned();
    while let Some(start) = text.find("{posargs") {
        let Some(length) = text[start..].find('}') else { break };
        let inner = text[start + "{posargs".len()..start + length].trim_start_matches(':').to_owned();
        text.replace_range(start..=start + length, &inner);
    }
    text
}

/// The form of tox 4: a list of words for each command, in which a table stands for the arguments of the caller.
fn of_tables(place: &str, tox: &Value) -> Vec<Line> {
    let environments = tox.get("env").and_then(Value::as_object).into_iter().flatten();
    let base = tox.get("env_run_base").map(|base| ("env_run_base".to_owned(), base));
    let named = environments.map(|(name, table)| (format!("env.{name}"), table)).chain(base);
    let mut found = Vec::new();
    for (name, table) in named {
        for command in table.get("commands").and_then(Value::as_array).into_iter().flatten() {
            let mut words: Vec<&str> = Vec::new();
            for word in command.as_array().into_iter().flatten() {
                match word {
                    Value::String(word) => words.push(word),
                    other => {
                        let default = other.get("default").and_then(Value::as_array).into_iter().flatten();
                        words.extend(default.filter_map(Value::as_str));
                    }
                }
            }
            found.push((format!("{place} [{name}]"), words.join(" ")));
        }
    }
    found
}

fn workflows(files: &ProjectFiles) -> Vec<Line> {
    let mut found = Vec::new();
    for (path, text) in files.texts.iter().filter(|(path, _)| path.starts_with(".github/workflows/")) {
        let Ok(document) = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text) else { continue };
        let Some(jobs) = document.get("jobs").and_then(|jobs| jobs.as_mapping()) else { continue };
        for job in jobs.values().filter_map(|job| serde_json::to_value(job).ok()) {
            for step in job.get("steps").and_then(Value::as_array).into_iter().flatten() {
                // Elsewhere its paths would mean something else.
                if step.get("working-directory").is_some() {
                    continue;
                }
                let script = step.get("run").and_then(Value::as_str).unwrap_or_default().replace("\\\n", " ");
                let lines = script.lines().flat_map(|line| line.split("&&")).map(str::trim);
                found.extend(lines.map(|line| (path.clone(), line.to_owned())));
            }
        }
    }
    found
}

/// The lines of recipes of a Makefile or justfile.
fn recipes(files: &ProjectFiles) -> Vec<Line> {
    let there = ["Makefile", "justfile"].into_iter().filter_map(|path| Some((path, files.text(path)?)));
    let lines = there.flat_map(|(path, text)| {
        let recipe = text.lines().filter(|line| line.starts_with([' ', '\t']));
        recipe.map(move |line| (path.to_owned(), line.trim().trim_start_matches(['@', '-']).trim_start().to_owned()))
    });
    lines.collect()
}

/// What pre-commit makes of a hook: its arguments, and the files that its pattern names, where that is a plain list of
/// folders.
fn by_hook(files: &ProjectFiles, hook: &Hook) -> Option<Call> {
    let pattern = hook.files.as_deref()?;
    let plain = pattern.strip_prefix('^').unwrap_or(pattern);
    let plain = plain.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(plain);
    let paths: Vec<String> = plain.split('|').map(|path| path.trim_end_matches('/').replace("\\.", ".")).collect();
    let known = |path: &String| files.tracked.iter().any(|file| file == path || file.starts_with(&format!("{path}/")));
    let args = || hook.args.iter().chain(&paths).cloned().collect();
    paths
        .iter()
        .all(known)
        .then(|| Call { args: args(), place: format!("hook {} of .pre-commit-config.yaml", hook.id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(texts: &[(&str, &str)], others: &[&str]) -> (ProjectFiles, Declared) {
        let tracked = texts.iter().map(|(path, _)| *path).chain(others.iter().copied()).map(str::to_owned).collect();
        let texts = texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let files = ProjectFiles { tracked, texts };
        let declared = Declared::read(&files).unwrap();
        (files, declared)
    }

    fn found(texts: &[(&str, &str)]) -> Vec<String> {
        let (files, declared) = project(texts, &["src/a/b.py", "testing/t.py"]);
        of(&files, &declared, "mypy").iter().map(|call| format!("{}: {}", call.place, call.args.join(" "))).collect()
    }

    #[test]
    fn every_form_of_tox_is_read() {
        let ini = "[testenv]\ncommands =\n    tests: pytest\n    mypy: mypy examples\n    mypy: mypy src/a.pyi \\\n        src/b.pyi\n[testenv:typing]\ncommands = python -m mypy {posargs:src tests}\n[testenv:x]\ncommands = mypy {envtmpdir}\n";
        let expected = [
            "tox.ini [testenv]: examples",
            "tox.ini [testenv]: src/a.pyi src/b.pyi",
            "tox.ini [testenv:typing]: src tests",
        ];
        assert_eq!(found(&[("tox.ini", ini)]), expected);
        let toml = "[tool.tox.env.typing]\ncommands = [['mypy', '--strict', {replace='posargs', default=['src'], extend=true}]]";
        assert_eq!(found(&[("pyproject.toml", toml)]), ["pyproject.toml [env.typing]: --strict src"]);
        assert_eq!(
            found(&[("tox.toml", "[env_run_base]\ncommands=[['mypy','src']]")]),
            ["tox.toml [env_run_base]: src"]
        );
    }

    #[test]
    fn ci_recipes_and_hooks_count_in_this_order() {
        let ci = "jobs:\n  a:\n    steps:\n    - run: pip install x && uv run mypy src\n    - run: mypy $FILES\n    - run: mypy --version\n";
        let make = "types:\n\t@mypy lib\n";
        let hooks = "repos:\n- repo: https://example.org/mirrors-mypy\n  rev: v1.0\n  hooks:\n  - id: mypy\n    files: ^(src/|testing/)\n    args: [--strict]\n";
        let all = [(".github/workflows/ci.yml", ci), ("Makefile", make), (".pre-commit-config.yaml", hooks)];
        assert_eq!(found(&all), [".github/workflows/ci.yml: src"]);
        assert_eq!(found(&all[1..]), ["Makefile: lib"]);
        assert_eq!(found(&all[2..]), ["hook mypy of .pre-commit-config.yaml: --strict src testing"]);
        assert_eq!(found(&[(".pre-commit-config.yaml", &hooks.replace("testing/", ".*x"))]), [""; 0], "no plain list");
    }
}
