//! Which steps a project's configuration asks for. A tool counts where it is configured, declared or a hook; nothing is
//! proposed that the project does not use.

use super::ProjectFiles;
use super::calls;
use super::declared::Declared;
use super::layout::{code_paths, test_paths};
use crate::lock::Severity;
use crate::lock::raw::RawTool;
use serde_json::Value;

/// What was decided about the checks of a project.
pub(super) struct Found {
    pub(super) steps: Vec<FoundStep>,
    pub(super) plugins: Vec<String>,
    /// Keys of `config_hashes`.
    pub(super) configs: Vec<String>,
    pub(super) coverage_min: Option<f64>,
    pub(super) bandit_severity_max: Option<Severity>,
}

/// One step, and why it is there.
pub(super) struct FoundStep {
    pub(super) name: String,
    pub(super) package: String,
    pub(super) raw: RawTool,
    pub(super) why: String,
}

/// Where the configuration of a tool may stand, the first that is there counting.
struct Known {
    package: &'static str,
    files: &'static [&'static str],
    tables: &'static [&'static str],
    sections: &'static [&'static str],
    hooks: &'static [&'static str],
    timeout_sec: u64,
}

const KNOWN: [Known; 7] = [
    Known {
        package: "ruff",
        files: &[".ruff.toml", "ruff.toml"],
        tables: &["tool.ruff"],
        sections: &[],
        hooks: &["ruff", "ruff-check", "ruff-format"],
        timeout_sec: 180,
    },
    Known { package: "black", files: &[], tables: &["tool.black"], sections: &[], hooks: &["black"], timeout_sec: 300 },
    Known {
        package: "isort",
        files: &[".isort.cfg"],
        tables: &["tool.isort"],
        sections: &["setup.cfg#isort", "tox.ini#isort"],
        hooks: &["isort"],
        timeout_sec: 300,
    },
    Known {
        package: "flake8",
        files: &[".flake8"],
        tables: &[],
        sections: &["setup.cfg#flake8", "tox.ini#flake8"],
        hooks: &["flake8"],
        timeout_sec: 300,
    },
    Known {
        package: "mypy",
        files: &["mypy.ini", ".mypy.ini"],
        tables: &["tool.mypy"],
        sections: &["setup.cfg#mypy"],
        hooks: &["mypy"],
        timeout_sec: 600,
    },
    Known {
        package: "pytest",
        files: &["pytest.ini", ".pytest.ini"],
        tables: &["tool.pytest"],
        sections: &["tox.ini#pytest", "setup.cfg#tool:pytest"],
        hooks: &[],
        timeout_sec: 1800,
    },
    Known {
        package: "bandit",
        files: &[".bandit"],
        tables: &["tool.bandit"],
        sections: &[],
        hooks: &["bandit"],
        timeout_sec: 300,
    },
];

pub(super) fn find(files: &ProjectFiles, declared: &Declared, imports: &[String], notes: &mut Vec<String>) -> Found {
    let mut found = Found {
        steps: Vec::new(),
        plugins: Vec::new(),
        configs: Vec::new(),
        coverage_min: None,
        bandit_severity_max: None,
    };
    let code = code_paths(files, imports);
    for tool in &KNOWN {
        let config = config_of(files, declared, tool);
        let hook = declared.hooks.iter().find(|hook| tool.hooks.contains(&hook.id.as_str()));
        let has_tests = tool.package == "pytest" && !test_paths(files).is_empty();
        let why = match (&config, hook) {
            (Some(config), _) => format!("configured in {config}"),
            (None, Some(hook)) => format!("hook {} of .pre-commit-config.yaml", hook.id),
            (None, None) if declared.declares(tool.package) => "declared as a dependency".to_owned(),
            (None, None) if has_tests => "there are test files".to_owned(),
            (None, None) => continue,
        };
        // A table that only other tools read (black's settings where ruff formats) is no wish to run the tool.
        let used =
            hook.is_some() || declared.declares(tool.package) || !matches!(tool.package, "black" | "isort" | "flake8");
        if !used {
            notes.push(format!("{} is configured and neither declared nor a hook; no step runs it", tool.package));
            continue;
        }
        // A linter with every rule switched on says something else with each release.
        let select = ["tool.ruff.lint.select", "tool.ruff.select"].into_iter().find_map(|path| declared.table(path));
        let every = select.and_then(Value::as_array).is_some_and(|rules| rules.iter().any(|rule| rule == "ALL"));
        if tool.package == "ruff" && every && hook.is_none() && !declared.declares("ruff") && !in_uv_lock(files, "ruff")
        {
            notes.push(
                "ruff is left out: it selects ALL rules and nothing pins its version; declare it, or add a step `ruff` \
                 with a `version`"
                    .to_owned(),
            );
            continue;
        }
        let version = hook.and_then(|hook| hook.version.clone()).filter(|_| !declared.declares(tool.package));
        let from_hook = if version.is_some() { ", version from .pre-commit-config.yaml" } else { "" };
        let mut step = |name: &str, args: Vec<String>, why: &str| {
            found.steps.push(FoundStep {
                name: name.to_owned(),
                package: tool.package.to_owned(),
                raw: RawTool {
                    version: version.clone(),
                    package: (name != tool.package).then(|| tool.package.to_owned()),
                    args: Some(args),
                    timeout_sec: Some(tool.timeout_sec),
                    ..RawTool::default()
                },
                why: format!("{why}{from_hook}"),
            });
        };
        let calls = calls::of(files, declared, tool.package);
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        match tool.package {
            "ruff" => {
                let only_format = hook.is_some()
                    && !declared.hooks.iter().any(|hook| matches!(hook.id.as_str(), "ruff" | "ruff-check"));
                if !only_format {
                    step("ruff", words(&["check", "."]), &why);
                }
                if declared.hooks.iter().any(|hook| hook.id == "ruff-format") {
                    step(
                        "ruff-format",
                        words(&["format", "--check", "."]),
                        "hook ruff-format of .pre-commit-config.yaml",
                    );
                } else if runs_in_ci(files, "ruff format") {
                    step("ruff-format", words(&["format", "--check", "."]), "run in .github/workflows");
                }
            }
            "black" => step("black", words(&["--check", "."]), &why),
            "isort" => step("isort", words(&["--check-only", "."]), &why),
            "flake8" if calls.len() == 1 => step("flake8", calls[0].args.clone(), &format!("as in {}", calls[0].place)),
            "flake8" => step("flake8", if code.is_empty() { words(&["."]) } else { code.clone() }, &why),
            "mypy" => {
                // Without what it is for it would check other files than the project does, or none.
                let with_paths = |call: &&calls::Call| call.args.iter().any(|arg| !arg.starts_with('-'));
                let calls: Vec<_> = calls.iter().filter(with_paths).collect();
                if names_files(files, declared, config.as_deref()) {
                    step("mypy", Vec::new(), &why);
                } else if calls.is_empty() {
                    notes.push(
                        "mypy is left out: neither its configuration (`files`) nor tox, CI or a hook says what it checks; \
                         add `files`, or a step `mypy` with its `args`"
                            .to_owned(),
                    );
                } else {
                    for (at, call) in calls.iter().enumerate() {
                        let name = if at == 0 { "mypy".to_owned() } else { format!("mypy-{}", at + 1) };
                        step(&name, call.args.clone(), &format!("{why}, called as in {}", call.place));
                    }
                }
            }
            "bandit" => {
                let mut args = words(&["-q", "-r"]);
                args.extend(if code.is_empty() { words(&["."]) } else { code.clone() });
                match config.as_deref() {
                    Some("pyproject.toml#tool.bandit") => args.extend(words(&["-c", "pyproject.toml"])),
                    Some(file) => args.extend(words(&["--ini", file])),
                    None => {}
                }
                step("bandit", args, &why);
                found.bandit_severity_max = Some(Severity::Low);
                notes.push("bandit: issues above LOW fail (`thresholds.bandit_severity_max`)".to_owned());
            }
            _ => {
                let has_paths = option_of(files, declared, config.as_deref(), "testpaths").is_some();
                let mut args = if has_paths { Vec::new() } else { test_paths(files) };
                coverage(
                    files,
                    declared,
                    config.as_deref(),
                    &mut args,
                    &mut found.coverage_min,
                    &mut found.plugins,
                    notes,
                );
                step("pytest", args, &why);
            }
        }
        if let Some(config) = config {
            found.configs.push(config);
        }
    }
    for (key, there) in [
        (".coveragerc", files.texts.contains_key(".coveragerc")),
        ("pyproject.toml#tool.coverage", declared.table("tool.coverage").is_some()),
    ] {
        if there && found.steps.iter().any(|step| step.package == "pytest") {
            found.configs.push(key.to_owned());
        }
    }
    found
}

fn config_of(files: &ProjectFiles, declared: &Declared, tool: &Known) -> Option<String> {
    let file = tool.files.iter().find(|path| files.texts.contains_key(**path)).map(ToString::to_string);
    let table = || {
        let table = tool.tables.iter().find(|table| declared.table(table).is_some())?;
        Some(format!("pyproject.toml#{table}"))
    };
    let section = || {
        let key = tool.sections.iter().find(|key| section(declared, key).is_some())?;
        Some((*key).to_owned())
    };
    file.or_else(table).or_else(section)
}

fn section<'d>(declared: &'d Declared, key: &str) -> Option<&'d crate::lock::ini::Section> {
    match key.split_once('#')? {
        ("setup.cfg", name) => declared.setup_cfg.get(name),
        ("tox.ini", name) => declared.tox_ini.get(name),
        _ => None,
    }
}

/// A setting of pytest or mypy, wherever its configuration stands.
fn option_of(files: &ProjectFiles, declared: &Declared, config: Option<&str>, name: &str) -> Option<String> {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    let config = config?;
    if let Some(table) = config.strip_prefix("pyproject.toml#") {
        let table = declared.table(table)?;
        return table.get("ini_options").and_then(|options| options.get(name)).or_else(|| table.get(name)).map(shown);
    }
    let own;
    let section = match section(declared, config) {
        Some(section) => section,
        None => {
            own = crate::lock::ini::sections(files.text(config)?);
            own.get("pytest").or_else(|| own.get("mypy"))?
        }
    };
    section.get(name).map(|lines| lines.join(" "))
}

fn names_files(files: &ProjectFiles, declared: &Declared, config: Option<&str>) -> bool {
    ["files", "packages", "modules"].iter().any(|name| option_of(files, declared, config, name).is_some())
}

/// Whether and how the project measures coverage, and the threshold that it sets for itself.
fn coverage(
    files: &ProjectFiles,
    declared: &Declared,
    pytest: Option<&str>,
    args: &mut Vec<String>,
    coverage_min: &mut Option<f64>,
    plugins: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let has_plugin = declared.declares("pytest-cov");
    let addopts = option_of(files, declared, pytest, "addopts").unwrap_or_default();
    let measures = addopts.split_whitespace().any(|word| word == "--cov" || word.starts_with("--cov="));
    if has_plugin || measures {
        plugins.push("pytest-cov".to_owned());
    }
    let rc = files.text(".coveragerc").map(crate::lock::ini::sections).unwrap_or_default();
    let setting = |section: &str, name: &str| -> Option<String> {
        let from_table = declared.table(&format!("tool.coverage.{section}.{name}")).map(|value| value.to_string());
        from_table.or_else(|| rc.get(section)?.get(name)?.first().cloned())
    };
    let Some(percent) = setting("report", "fail_under").and_then(|text| text.parse::<f64>().ok()) else {
        if measures {
            notes.push("coverage is measured and has no threshold of its own; none is set".to_owned());
        }
        return;
    };
    let combined = setting("run", "parallel").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    if combined && !measures {
        notes.push(format!("coverage: fail_under {percent} is for several runs combined; no threshold is set"));
    } else if !(50.0..=100.0).contains(&percent) {
        notes.push(format!("coverage: fail_under {percent} is below the floor of 50; no threshold is set"));
    } else {
        if !has_plugin && !measures {
            plugins.push("pytest-cov".to_owned());
        }
        if !measures {
            args.push("--cov".to_owned());
        }
        *coverage_min = Some(percent / 100.0);
        notes.push(format!("coverage: at least {percent} %, the project's own fail_under"));
    }
}

fn runs_in_ci(files: &ProjectFiles, command: &str) -> bool {
    files.texts.iter().any(|(path, text)| path.starts_with(".github/workflows/") && text.contains(command))
}

fn in_uv_lock(files: &ProjectFiles, package: &str) -> bool {
    files.text("uv.lock").is_some_and(|text| text.contains(&format!("\nname = \"{package}\"\n")))
}
