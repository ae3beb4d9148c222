//! Attempts to reach the network in words: who tried to reach what, grouped by destination, and the line of the lock
//! that would make it expected or allowed. Pure; the text of attempts was made harmless when they came in.

use super::StepOutcome;
use crate::code::ParityCode;
use crate::event::{Attempt, Verdict};
use crate::finding::Finding;
use crate::lock::LOCK_PATH;
use crate::lock::host::HostPort;
use crate::step::{Network, Step};
use std::fmt::Write;

/// How many destinations a message tells in full, and how many more it names.
const TOLD: usize = 5;
const NAMED: usize = 20;
/// How much of a command line a message shows, in characters; the whole stands in the report.
const COMMAND: usize = 100;
/// Steps of ours, which have no policy of their own in the lock.
const OWN_STEPS: &[&str] = &["build", "import", "coverage", "exec"];
/// How many parents of a process a message shows.
const PARENTS: usize = 3;

/// What attempts have in common: where they wanted to go. The name comes first, for that is what a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// A name, else an address, else the path of a socket; empty where the witness could not see it.
    pub host: String,
    /// 0 where there is none.
    pub port: u16,
}

impl Destination {
    /// Where an attempt wanted to go.
    #[must_use]
    pub fn of(attempt: &Attempt) -> Destination {
        // A question to somebody else's name server goes to that server, whatever it asks for.
        let asks_elsewhere = attempt.protocol == "dns" && !attempt.address.is_empty();
        let host = if attempt.name.is_empty() || asks_elsewhere { &attempt.address } else { &attempt.name };
        Destination { host: host.clone(), port: if is_lookup(attempt) { 0 } else { attempt.port } }
    }

    /// As an entry of a list of the lock; none where no entry can mean it (a unix socket).
    #[must_use]
    pub fn entry(&self) -> Option<String> {
        HostPort::parse(&self.to_string()).ok().map(|entry| entry.to_string())
    }
}

impl std::fmt::Display for Destination {
    /// `host`, `host:port`, `[address]:port`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.host.as_str(), self.port) {
            ("", 0) => f.write_str("somewhere that could not be seen"),
            (host, 0) => f.write_str(host),
            (host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            (host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Attempts to reach one destination.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Where they went.
    pub destination: Destination,
    /// They, in the order in which they were made; at least one.
    pub attempts: Vec<&'a Attempt>,
}

impl Group<'_> {
    /// How often it was tried in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.attempts.iter().map(|attempt| attempt.count).sum()
    }
}

/// Attempts of one verdict by destination, each where its first attempt stands.
#[must_use]
pub fn groups(attempts: &[Attempt], verdict: Verdict) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.verdict == verdict) {
        let destination = Destination::of(attempt);
        match groups.iter_mut().find(|group| group.destination == destination) {
            Some(group) => group.attempts.push(attempt),
            None => groups.push(Group { destination, attempts: vec![attempt] }),
        }
    }
    groups
}

fn is_lookup(attempt: &Attempt) -> bool {
    attempt.call == "lookup"
}

/// `tests/test_api.py::test_fetch tried to reach api.example:443 (192.0.2.7, connect over tcp)`.
#[must_use]
pub fn sentence(attempt: &Attempt) -> String {
    let who = if attempt.test.is_empty() { process(attempt) } else { attempt.test.clone() };
    format!("{who} {}", deed(attempt))
}

fn deed(attempt: &Attempt) -> String {
    let Attempt { call, protocol, address, name, why, .. } = attempt;
    let destination = Destination::of(attempt);
    let mut text = if is_lookup(attempt) {
        format!("looked up {destination}")
    } else {
        let mut how = Vec::new();
        if *address != destination.host && !address.is_empty() {
            how.push(address.clone());
        }
        how.push(if protocol.is_empty() { call.clone() } else { format!("{call} over {protocol}") });
        let what = if protocol == "dns" && !name.is_empty() { format!(" for {name}") } else { String::new() };
        format!("tried to reach {destination}{what} ({})", how.join(", "))
    };
    if !why.is_empty() {
        let _ = write!(text, ": {why}");
    }
    text
}

/// Its command; the number stands in the report, and differs from run to run.
fn process(attempt: &Attempt) -> String {
    match (attempt.process.as_str(), attempt.pid) {
        ("", 0) => "a process that could not be seen".to_owned(),
        ("", pid) => format!("the process {pid}"),
        (command, _) => short(command),
    }
}

/// `make test < sh -c 'make test'`: the nearest parents, without their numbers.
fn parents(attempt: &Attempt) -> String {
    let command = |parent: &String| short(parent.split_once(' ').map_or(parent.as_str(), |(_, command)| command));
    let shown: Vec<String> = attempt.parents.iter().take(PARENTS).map(command).collect();
    shown.join(" < ")
}

fn short(command: &str) -> String {
    match command.char_indices().nth(COMMAND) {
        Some((at, _)) => format!("{}...", &command[..at]),
        None => command.to_owned(),
    }
}

fn more(tests: usize) -> String {
    format!("{tests} more test{}", if tests == 1 { "" } else { "s" })
}

fn times(count: u64) -> String {
    if count > 1 { format!(", {count} times") } else { String::new() }
}

/// The finding of a step that tried to reach what the lock does not allow, where it did.
///
/// The witness counts refused attempts beyond those that it lists one by one, and only refused ones: they are a violation
/// too, so that a flood hides none.
#[must_use]
pub(super) fn finding(step: &Step, result: &StepOutcome) -> Option<Finding> {
    let groups = groups(&result.network, Verdict::Denied);
    let unlisted = result.unlisted;
    if groups.is_empty() && unlisted == 0 {
        return None;
    }
    let (mut lines, mut last) = (Vec::new(), String::new());
    for group in groups.iter().take(TOLD) {
        let (deed, by) = told(group);
        lines.push(deed);
        // Attempts of one process are told one after the other.
        if !by.is_empty() && by != last {
            lines.push(format!("  {by}"));
        }
        last = by;
    }
    if groups.len() > TOLD {
        let rest = &groups[TOLD..];
        let names: Vec<String> = rest.iter().take(NAMED).map(|group| group.destination.to_string()).collect();
        let beyond = rest.len().saturating_sub(NAMED);
        let beyond = if beyond > 0 { format!(" and {beyond} more") } else { String::new() };
        lines.push(format!("also tried: {}{beyond}", names.join(", ")));
    }
    match (unlisted, groups.is_empty()) {
        (0, _) => {}
        (n, true) => {
            lines.push(format!("{n} refused attempts are not listed one by one: what they tried to reach is not known"))
        }
        (n, false) => lines.push(format!("and {n} more refused attempts that are not listed one by one")),
    }
    let finding = Finding::new(ParityCode::NETWORK_VIOLATED, &step.id, lines.join("\n"));
    Some(match hint(step, &groups) {
        Some(hint) => finding.hint(hint),
        None => finding,
    })
}

/// One destination in full: who tried it first, how often and which other tests did; and what process that was.
fn told(group: &Group<'_>) -> (String, String) {
    let first = group.attempts[0];
    let mut others: Vec<&str> = Vec::new();
    for attempt in &group.attempts {
        if !attempt.test.is_empty() && attempt.test != first.test && !others.contains(&attempt.test.as_str()) {
            others.push(&attempt.test);
        }
    }
    let also = match others.as_slice() {
        [] => String::new(),
        [one] => format!(", also {one}"),
        [one, rest @ ..] => format!(", also {one} and {}", more(rest.len())),
    };
    let by = if first.test.is_empty() { String::new() } else { format!("by {}", process(first)) };
    let parents = parents(first);
    let started = if parents.is_empty() { String::new() } else { format!("started by {parents}") };
    let joint = if by.is_empty() || started.is_empty() { "" } else { ", " };
    (format!("{}{}{also}", sentence(first), times(group.count())), format!("{by}{joint}{started}"))
}

/// The exact lines of the lock for these destinations, what is there already included.
fn hint(step: &Step, groups: &[Group<'_>]) -> Option<String> {
    let mut new: Vec<String> = Vec::new();
    for entry in groups.iter().filter_map(|group| group.destination.entry()) {
        if !new.contains(&entry) {
            new.push(entry);
        }
    }
    if new.is_empty() {
        return None;
    }
    let list = |old: &[String]| {
        let all: Vec<&String> = old.iter().chain(new.iter().filter(|entry| !old.contains(entry))).collect();
        serde_json::to_string(&all).unwrap_or_default().replace("\",\"", "\", \"")
    };
    let allowed = match &step.network {
        Network::Allow(hosts) => list(hosts),
        Network::Loopback | Network::Open => list(&[]),
    };
    let (place, line) = if OWN_STEPS.contains(&step.id.as_str()) {
        ("network_policy".to_owned(), format!("\"allowed_hosts\": {allowed}"))
    } else {
        (format!("tools.{}", step.id), format!("\"network\": {{\"allowed_hosts\": {allowed}}}"))
    };
    Some(format!(
        "remove the call, or mock it; if the refusal is expected, write in `network_policy` of {LOCK_PATH}\n  \
         \"deny_quietly\": {}\nif the step needs it, in `{place}`\n  {line}",
        list(&step.deny_quietly)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::step::{Gate, Reader};
    use proptest::prelude::*;

    fn tried(test: &str, name: &str, address: &str, port: u16) -> Attempt {
        Attempt {
            pid: 12,
            process: "python -m pytest -q".into(),
            parents: vec!["11 sh -c 'make test'".into(), "2 make test".into()],
            call: if address.is_empty() { "lookup".into() } else { "connect".into() },
            protocol: if address.is_empty() { "dns".into() } else { "tcp".into() },
            address: address.into(),
            port,
            name: name.into(),
            test: test.into(),
            count: 1,
            ..Attempt::default()
        }
    }

    fn step() -> Step {
        sample::step("pytest", Gate::Tests, Reader::Pytest)
    }

    fn found(step: &Step, network: Vec<Attempt>, unlisted: u64) -> Option<Finding> {
        finding(step, &StepOutcome { network, unlisted, ..StepOutcome::default() })
    }

    #[test]
    fn a_violation_names_the_test_the_host_and_the_lines_of_the_lock() {
        let mut again = tried("tests/test_a.py::test_two", "api.example", "", 0);
        again.count = 3;
        let network = vec![
            tried("tests/test_a.py::test_one", "api.example", "", 0),
            tried("tests/test_a.py::test_one", "", "192.0.2.1", 9),
            again,
            tried("", "cdn.example", "2001:db8::7", 443),
            Attempt { why: "private address".into(), ..tried("", "", "2001:db8::1", 80) },
            Attempt { verdict: Verdict::Quiet, ..tried("", "quiet.example", "", 0) },
        ];
        let finding = found(&step(), network, 7).unwrap();
        insta::assert_snapshot!(format!("{}\n{}", finding.message, finding.hint));
    }

    #[test]
    fn the_lines_of_the_lock_hold_what_is_there_already() {
        let mut step = step();
        step.deny_quietly = vec!["a.example".into()];
        step.network = Network::Allow(vec!["b.example:443".into()]);
        let hint = found(&step, vec![tried("", "c.example", "192.0.2.1", 80)], 0).unwrap().hint;
        assert!(hint.contains("\"deny_quietly\": [\"a.example\", \"c.example:80\"]"), "{hint}");
        assert!(
            hint.contains("`tools.pytest`\n  \"network\": {\"allowed_hosts\": [\"b.example:443\", \"c.example:80\"]}"),
            "{hint}"
        );
        step.id = "build".into();
        let hint = found(&step, vec![tried("", "c.example", "192.0.2.1", 80)], 0).unwrap().hint;
        assert!(hint.contains("`network_policy`\n  \"allowed_hosts\": ["), "{hint}");
    }

    #[test]
    fn many_destinations_are_told_in_short() {
        let network = (0..40).map(|n| tried("t.py::t", &format!("h{n}.example"), "", 0)).collect();
        let message = found(&step(), network, 0).unwrap().message;
        assert!(message.ends_with("h23.example, h24.example and 15 more"), "{message}");
        assert_eq!(message.lines().count(), TOLD + 2);
    }

    #[test]
    fn what_is_no_violation_is_none() {
        for verdict in [Verdict::Quiet, Verdict::Note, Verdict::Allowed] {
            let attempt = Attempt { verdict, ..tried("", "a.example", "", 0) };
            assert_eq!(found(&step(), vec![attempt], 0), None);
        }
    }

    #[test]
    fn a_flood_hides_no_violation() {
        let quiet = vec![Attempt { verdict: Verdict::Quiet, ..tried("", "a.example", "", 0) }];
        let finding = found(&step(), quiet, 5).unwrap();
        assert!(finding.message.starts_with("5 refused attempts are not listed one by one"), "{}", finding.message);
    }

    #[test]
    fn what_the_witness_could_not_see_is_a_violation_all_the_same() {
        let unseen = Attempt { call: "connect".into(), count: 1, ..Attempt::default() };
        let finding = found(&step(), vec![unseen], 0).unwrap();
        assert_eq!(
            finding.message,
            "a process that could not be seen tried to reach somewhere that could not be seen (connect)"
        );
        assert_eq!(finding.hint, ParityCode::NETWORK_VIOLATED.fix());
    }

    proptest! {
        /// The line that a hint gives means what was tried: written into the lock, it would cover the attempt.
        #[test]
        fn the_entry_of_an_attempt_covers_it(name in "([a-z]{1,5}\\.){1,2}[a-z]{2,4}", v6 in any::<bool>(), named in any::<bool>(), port in 1u16..) {
            let address = if v6 { "2001:db8::7" } else { "192.0.2.7" };
            let attempt = tried("", if named { &name } else { "" }, address, port);
            let entry = HostPort::parse(&Destination::of(&attempt).entry().unwrap()).unwrap().entry();
            let bytes = match address.parse().unwrap() {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let target = crate::network::Target { name: &attempt.name, address: &bytes, port: Some(port) };
            prop_assert!(entry.covers(&target));
        }
    }
}
