//! `ft diff`: two reports, field by field. What differs between any two runs is left out: times, ids, sizes of memory.

use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that say when and how fast, and digests of what names times.
const PASSING: &[&str] = &[
    "id",
    "timestamp",
    "durations_sec",
    "duration_sec",
    "cpu_sec",
    "peak_memory_bytes",
    "stages",
    "built",
    "pid",
    "output",
];

/// One line per field that differs, in the order of the reports: `steps.pytest.exit: 0 | 1`. Lists are compared by name
/// where their entries have one, so that one more step is one line.
#[must_use]
pub fn differences(left: &Value, right: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", left, right, &mut lines);
    lines
}

fn compare(path: &str, left: &Value, right: &Value, lines: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            let keys = l.keys().chain(r.keys().filter(|key| !l.contains_key(*key)));
            for key in keys.filter(|key| !PASSING.contains(&key.as_str())) {
                entry(&join(path, key), l.get(key), r.get(key), lines);
            }
        }
        (Value::Array(l), Value::Array(r)) => {
            let (l, r) = (named(l), named(r));
            if l.iter().chain(&r).any(|(_, value)| attempted(value).is_some()) {
                return present(path, &l, &r, lines);
            }
            let names =
                l.iter().map(|(name, _)| name).chain(r.iter().map(|(name, _)| name).filter(|n| get(&l, n).is_none()));
            for name in names {
                entry(&join(path, name), get(&l, name), get(&r, name), lines);
            }
        }
        _ if left != right => lines.push(format!("{path}: {} | {}", short(left), short(right))),
        _ => {}
    }
}

/// An attempt to reach the network by what it is: who it was in a test, and where it went. Numbers of processes, times and
/// how often it was tried again differ between any two runs.
fn attempted(value: &Value) -> Option<String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (test, host) = (text("test"), if text("name").is_empty() { text("address") } else { text("name") });
    let port = value.get("port").and_then(Value::as_u64).unwrap_or_default();
    let who = if test.is_empty() { String::new() } else { format!("{test} ") };
    match (value.get("verdict"), value.get("protocol"), text("host")) {
        (Some(_), Some(_), _) => Some(format!("{who}{} {host}:{port}", text("call"))),
        (None, Some(_), host) if !host.is_empty() => {
            Some(format!("{} {host}:{port}/{}", text("step"), text("protocol")))
        }
        _ => None,
    }
}

/// Entries that are there or not, and no more about them.
fn present(path: &str, left: &Named<'_>, right: &Named<'_>, lines: &mut Vec<String>) {
    let only = |one: &Named<'_>, other: &Named<'_>| {
        let names = one.iter().map(|(name, _)| name).filter(|name| get(other, name).is_none());
        names.cloned().collect::<Vec<_>>()
    };
    lines.extend(only(left, right).iter().map(|name| format!("{path}: {name} | (absent)")));
    lines.extend(only(right, left).iter().map(|name| format!("{path}: (absent) | {name}")));
}

fn entry(path: &str, left: Option<&Value>, right: Option<&Value>, lines: &mut Vec<String>) {
    match (left, right) {
        (Some(left), Some(right)) => compare(path, left, right, lines),
        (Some(left), None) => lines.push(format!("{path}: {} | (absent)", short(left))),
        (None, Some(right)) => lines.push(format!("{path}: (absent) | {}", short(right))),
        (None, None) => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

type Named<'a> = Vec<(String, &'a Value)>;

fn get<'a>(list: &Named<'a>, name: &str) -> Option<&'a Value> {
    list.iter().find(|(have, _)| have == name).map(|(_, value)| *value)
}

/// Each entry under the name it has in its own words, or under its text; a name that repeats gets a number.
fn named(list: &[Value]) -> Named<'_> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let name = |value: &Value| {
        if let Some(attempted) = attempted(value) {
            return attempted;
        }
        let own =
            ["step", "path", "wall", "code", "id", "test_id", "stage"].iter().find_map(|key| value.get(key)?.as_str());
        own.map_or_else(|| short(value), str::to_owned)
    };
    let mut entries = Vec::new();
    for value in list {
        let name = name(value);
        // The same attempt once more, by another process, is the same attempt.
        if attempted(value).is_some() && seen.contains_key(&name) {
            continue;
        }
        let n = seen.entry(name.clone()).or_default();
        *n += 1;
        entries.push((if *n == 1 { name } else { format!("{name}#{n}") }, value));
    }
    entries
}

/// A value in one line, not too long.
fn short(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = match value {
        Value::String(text) => text.replace('\n', " "),
        other => other.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::report::{json, sample};
    use serde_json::json;

    fn value(outcome: &Outcome) -> Value {
        serde_json::from_slice(&json::json(outcome)).unwrap()
    }

    #[test]
    fn two_runs_that_differ_in_time_alone_do_not_differ() {
        let mut other = sample::failed();
        other.id = "another".into();
        other.timestamp = "2027-01-01T00:00:00Z".into();
        other.wall_ms = Some(1);
        other.steps[0].end.as_mut().unwrap().wall_ms = 7;
        assert_eq!(differences(&value(&sample::failed()), &value(&other)), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_named_by_its_path() {
        let mut other = sample::passed();
        other.steps[1].end.as_mut().unwrap().code = Some(1);
        other.environment.as_mut().unwrap().packages.insert("ruff".into(), "0.13.0".into());
        other.snapshot.as_mut().unwrap().untracked.pop();
        assert_eq!(
            differences(&value(&sample::passed()), &value(&other)),
            [
                "ok: true | false",
                "exit_code: 0 | 221",
                "exit_status: 0 | 221",
                "failures.PARITY-221: (absent) | {\"code\":\"PARITY-221\",\"gate\":\"pytest\",\"msg\":\"pytest exited with status 1\",\"hint\":\"read the step's log or junit.xml\"}",
                "snapshot.untracked.f.py: f.py | (absent)",
                "environment.packages.ruff: 0.14.4 | 0.13.0",
                "steps.pytest.state: good | failed",
                "steps.pytest.exit: 0 | 1",
            ]
        );
    }

    #[test]
    fn attempts_differ_by_where_they_went_and_not_by_when_and_how_often() {
        let mut other = sample::failed();
        let attempt = &mut other.steps[1].network[0];
        (attempt.pid, attempt.at_ms, attempt.count) = (99, 5, 1);
        let mut again = attempt.clone();
        again.id = 7;
        other.steps[1].network.push(again);
        assert_eq!(differences(&value(&sample::failed()), &value(&other))[1..], [] as [&str; 0]);
        other.steps[1].network[0].address = "192.0.2.9".into();
        let differ = differences(&value(&sample::failed()), &value(&other));
        assert!(
            differ.iter().any(|line| {
                line.starts_with("steps.pytest.network.denied: (absent) | ") && line.ends_with(" connect 192.0.2.9:443")
            }),
            "{differ:?}"
        );
    }

    #[test]
    fn entries_that_repeat_are_told_apart() {
        assert_eq!(differences(&json!([1, 1]), &json!([1])), ["1#2: 1 | (absent)"]);
    }
}
