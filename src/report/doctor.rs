//! What `ft doctor` found, as a page.

use super::page::{Line, Page, Tone};
use super::text;
use crate::doctor::{Check, Diagnosis, Engine, LockDiagnosis, word};

/// The whole table, and what to change.
#[must_use]
pub fn page(diagnosis: &Diagnosis) -> Page {
    let mut page = Page::default();
    let system = &diagnosis.system;
    let inside = if system.container { ", in a container" } else { "" };
    let groups = if system.cgroups.is_empty() {
        "no control groups".to_owned()
    } else {
        format!("control groups {}", system.cgroups)
    };
    page.say(format!(
        "ft {}, {} {} {}, uid {}, {groups}{inside}",
        diagnosis.ft, system.os, system.kernel, system.architecture, system.uid
    ));
    table(&mut page, "cells", &diagnosis.cells);
    table(&mut page, "walls", &diagnosis.walls);
    table(&mut page, "limits", &diagnosis.limits);
    let engines: Vec<Check> = diagnosis.engines.iter().map(engine).collect();
    table(&mut page, "container engines", &engines);
    tools(&mut page, diagnosis);
    if let Some(lock) = &diagnosis.lock {
        say_lock(&mut page, lock);
    }
    page.gap();
    page.push(verdict(diagnosis));
    page
}

fn head(page: &mut Page, words: &str) {
    page.gap();
    page.push(Line::new(Tone::Strong, words));
}

fn table(page: &mut Page, words: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    head(page, words);
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in checks {
        row(page, check, width);
    }
}

fn row(page: &mut Page, check: &Check, width: usize) {
    let mark = if check.holds { Line::new(Tone::Good, "  yes  ") } else { Line::new(Tone::Bad, "  no   ") };
    let name = format!("{:width$}  ", check.name);
    let what = match (check.mechanism.as_str(), check.detail.as_str()) {
        ("", detail) => detail.to_owned(),
        (mechanism, "") => mechanism.to_owned(),
        (mechanism, detail) => format!("{mechanism}: {detail}"),
    };
    page.block(mark.and(Tone::Plain, name), Tone::Plain, &what);
    if !check.fix.is_empty() {
        page.push(Line::new(Tone::Strong, "       fix: ").and(Tone::Plain, &check.fix));
    }
}

fn engine(engine: &Engine) -> Check {
    Check {
        name: if engine.endpoint.is_empty() { "?".to_owned() } else { engine.endpoint.clone() },
        holds: engine.answers,
        mechanism: engine.from.clone(),
        detail: engine.detail.clone(),
        fix: engine.fix.clone(),
    }
}

fn tools(page: &mut Page, diagnosis: &Diagnosis) {
    head(page, "tools");
    row(page, &diagnosis.git, 6);
    if diagnosis.pythons.is_empty() {
        let fix = "install one, for example with `uv python install 3.11`".to_owned();
        let none = Check {
            name: "python".into(),
            holds: false,
            mechanism: String::new(),
            detail: "none was found".into(),
            fix,
        };
        row(page, &none, 6);
    }
    for python in &diagnosis.pythons {
        let found = Check {
            name: "python".into(),
            holds: true,
            mechanism: String::new(),
            detail: format!("{} ({})", python.version, python.path),
            fix: String::new(),
        };
        row(page, &found, 6);
    }
}

fn say_lock(page: &mut Page, lock: &LockDiagnosis) {
    head(page, &format!("the lock {}", lock.path));
    if let Some(minimum) = lock.minimum {
        let wants = format!("`cell.minimum` is {}", word(minimum));
        page.say(match lock.cell {
            Some(cell) => format!("  a run uses cells of the kind {}; {wants}", word(cell)),
            None => format!("  no cell that it accepts can be raised here; {wants}"),
        });
        page.say(format!("  network: {}", lock.network));
        let required = if lock.limits_required { "required" } else { "not required" };
        for limit in &lock.limits {
            let how = match (limit.holds, limit.mechanism.as_str()) {
                (true, mechanism) => format!("holds ({mechanism})"),
                (false, "") => format!("does not hold, {required}"),
                (false, mechanism) => format!("does not hold, {required} ({mechanism} only)"),
            };
            page.say(format!("  limit of {}: {}, {how}", limit.name, limit.detail));
        }
    }
    for finding in &lock.findings {
        page.gap();
        page.lines.extend(text::finding(finding).lines);
    }
}

fn verdict(diagnosis: &Diagnosis) -> Line {
    let of = if diagnosis.lock.is_some() { "runs of this lock" } else { "runs" };
    if !diagnosis.ok {
        return Line::new(Tone::Bad, format!("{of} can't work here ({})", text::exit_words(diagnosis.exit())));
    }
    let left = diagnosis.walls.iter().chain(&diagnosis.limits).filter(|check| !check.holds).count();
    let line = Line::new(Tone::Good, format!("{of} can work here"));
    match left {
        0 => line,
        1 => line.and(Tone::Warn, "; one wall or limit does not hold"),
        n => line.and(Tone::Warn, format!("; {n} walls or limits do not hold")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Examined, System, diagnose};
    use crate::frame::Observed;

    fn seen(wall: &str, mechanism: &str, detail: &str, enforced: bool) -> Observed {
        Observed { wall: wall.into(), mechanism: mechanism.into(), detail: detail.into(), enforced }
    }

    #[test]
    fn a_laptop_that_forbids_namespaces_reads_what_to_change() {
        let diagnosis = diagnose(Examined {
            ft: "0.1.0".into(),
            system: System {
                os: "linux".into(),
                kernel: "6.8.0".into(),
                architecture: "x86_64".into(),
                uid: 1000,
                container: false,
                cgroups: "v2".into(),
            },
            trials: Ok(vec![
                seen("user", "", "write /proc/self/setgroups: Permission denied", false),
                seen("seccomp", "filter", "refuses what its table says", true),
                seen("memory", "RLIMIT_DATA", "each process alone", false),
            ]),
            namespaces: Err((
                "AppArmor restricts unprivileged user namespaces".into(),
                "allow it with a profile".into(),
            )),
            here: Ok(vec![seen("network", "seccomp broker", "decides about every socket", true)]),
            engines: vec![Engine {
                endpoint: "unix:///var/run/docker.sock".into(),
                from: "default socket".into(),
                answers: false,
                detail: "Permission denied".into(),
                fix: "join the group".into(),
            }],
            pythons: Vec::new(),
            git: Ok("git version 2.43.0".into()),
            lock: None,
        });
        insta::assert_snapshot!(page(&diagnosis).plain());
    }
}
