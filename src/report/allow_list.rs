//! An allow-list out of what a run with an open network did: the lock's text with the same steps closed but for those with
//! whom they talked. Decides and writes nothing; the caller reads report and lock, and shows the changes.
//!
//! Only policies that are open become narrower. A policy that is closed, or an allow-list, is never touched: a report can
//! widen nothing. Where all steps under the common policy need the same hosts, the common policy names them; else each
//! step that talked gets a policy of its own, and the common one is closed.

use super::fields::{Observed, Report, StepReport};
use crate::frame;
use crate::lock::edit::{self, EditError};
use crate::lock::host::HostPort;
use crate::lock::place::{Part, Place};
use crate::lock::{Lock, LockError};
use crate::network::Target;
use crate::outcome::violation::Destination;
use crate::step::Network;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList {
    /// The lock's new text; the old one where there is nothing to change.
    pub text: String,
    /// What is different, in the order of the lock.
    pub changes: Vec<Change>,
    /// Names that did not resolve, by step: an allow-list refuses their look-up, which is then a violation.
    pub unresolved: Vec<(String, String)>,
}

/// One policy that was open and is closed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `network_policy`, or `tools.NAME.network`.
    pub place: String,
    /// Its entries now, and who needed each: step, command, how often.
    pub added: Vec<(String, String)>,
    /// Entries that stood there while it was open, and that nobody needed.
    pub removed: Vec<String>,
}

/// Why a report makes no allow-list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAllowList {
    /// A self-check, or one command.
    #[error("this report is of a {0}, not of a run of all checks")]
    Kind(String),
    /// The digest in the report is not that of the lock here.
    #[error("this report was made with another lock")]
    OtherLock,
    /// No step of the lock has an open network.
    #[error("no step of this lock has an open network, so there is nothing to close")]
    NothingOpen,
    /// The network was closed in that run (`FT_NO_NETWORK`).
    #[error("the network of {0} was not open in this run, so nothing was observed")]
    NotObserved(String),
    /// A step did not come to its end, so that it may need more.
    #[error("what {0} needs is not known whole: {1}")]
    Incomplete(String, &'static str),
    /// A name that no entry can say.
    #[error("{0} talked to {1}, which can't stand in a list of hosts")]
    Unwritable(String, String),
    /// The lock's text.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// What was made is no lock.
    #[error("what would be written is refused: {0}")]
    Refused(Box<LockError>),
}

impl NoAllowList {
    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            NoAllowList::Kind(_) | NoAllowList::OtherLock | NoAllowList::NotObserved(_) => {
                "make a report with `ft run` and this lock, without FT_NO_NETWORK, then try again"
            }
            NoAllowList::NothingOpen => {
                "set `forbid_network` to false, in `network_policy` or for one step in `tools.NAME.network`, run `ft run`, then try again"
            }
            NoAllowList::Incomplete(..) => "run all steps to their end with `ft run`, then try again",
            NoAllowList::Unwritable(..) => "set `forbid_network` to true and write the list by hand",
            NoAllowList::Edit(_) | NoAllowList::Refused(_) => "mend the lock; `ft check` says where",
        }
    }
}

/// Where a policy stands, and the steps that it holds for.
struct Open<'a> {
    place: Place,
    steps: Vec<&'a str>,
}

/// The lock's text with every open policy closed but for what the report observed.
///
/// # Errors
/// Where the report is not one of this lock with an open network, or not a whole one.
pub fn allow_list(text: &str, lock: &Lock, report: &Report) -> Result<AllowList, NoAllowList> {
    if report.kind != "parity" {
        return Err(NoAllowList::Kind(report.kind.clone()));
    }
    let unresolved = unresolved(report);
    let open = open(lock, report);
    if open.is_empty() {
        // Done before, from this report: then everything in it is allowed by now.
        let learned = report.steps.iter().any(|step| step.network.policy == "open")
            && report.network.observed.iter().all(|seen| allowed(lock, seen));
        return match (learned, report.lock_sha256 == lock.sha256) {
            (true, false) => Ok(AllowList { text: text.to_owned(), changes: Vec::new(), unresolved }),
            (false, false) => Err(NoAllowList::OtherLock),
            (_, true) => Err(NoAllowList::NothingOpen),
        };
    }
    if report.lock_sha256 != lock.sha256 {
        return Err(NoAllowList::OtherLock);
    }
    let mut needed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for step in open.iter().flat_map(|open| &open.steps) {
        whole(step, report.steps.iter().find(|reported| reported.step == **step))?;
        needed.insert(step, entries(step, report)?);
    }
    let mut new = text.to_owned();
    let mut changes = Vec::new();
    for open in &open {
        let mut sets: Vec<&BTreeSet<String>> = open.steps.iter().map(|step| &needed[step]).collect();
        sets.dedup();
        // Gates of ours have no place of their own in the lock; they take the common policy.
        let ours: BTreeSet<String> = open
            .steps
            .iter()
            .filter(|step| !lock.tools.contains_key(**step))
            .flat_map(|step| needed[step].clone())
            .collect();
        let common = if let [all] = sets[..] { all.clone() } else { ours };
        close(&mut new, &mut changes, &open.place, &common, report, &open.steps)?;
        for step in open.steps.iter().filter(|step| lock.tools.contains_key(**step) && needed[*step] != common) {
            let place = Place::from(["tools", step, "network"]);
            close(&mut new, &mut changes, &place, &needed[step], report, &[step])?;
        }
    }
    let closed = Lock::parse(new.as_bytes()).map_err(|error| NoAllowList::Refused(Box::new(error)))?.0;
    debug_assert!(report.network.observed.iter().all(|seen| allowed(&closed, seen)));
    Ok(AllowList { text: new, changes, unresolved })
}

/// The open policies of the lock, the common one first. It holds for the tools that have none of their own, and for the
/// gates of ours that ran.
fn open<'a>(lock: &'a Lock, report: &'a Report) -> Vec<Open<'a>> {
    let mut all = Vec::new();
    if lock.network == Network::Open {
        let tools = lock.tools.iter().filter(|(_, tool)| tool.network.is_none()).map(|(name, _)| name.as_str());
        let ours = report.steps.iter().map(|step| step.step.as_str()).filter(|step| !lock.tools.contains_key(*step));
        all.push(Open { place: Place::from(["network_policy"]), steps: tools.chain(ours).collect() });
    }
    for (name, _) in lock.tools.iter().filter(|(_, tool)| tool.network == Some(Network::Open)) {
        all.push(Open { place: Place::from(["tools", name, "network"]), steps: vec![name] });
    }
    all
}

/// Whether a step was observed from its start to its end.
fn whole(step: &str, reported: Option<&StepReport>) -> Result<(), NoAllowList> {
    let incomplete = |why| Err(NoAllowList::Incomplete(step.to_owned(), why));
    let Some(reported) = reported else { return incomplete("it was not part of the run") };
    if reported.network.policy != "open" {
        return Err(NoAllowList::NotObserved(step.to_owned()));
    }
    if reported.cancelled || (reported.exit.is_none() && reported.signal.is_none()) {
        return incomplete("it did not come to its end");
    }
    if reported.timed_out {
        return incomplete("it was ended at its timeout");
    }
    if reported.network.observed.len() >= frame::LISTED {
        return incomplete("it talked to more hosts than a report lists");
    }
    Ok(())
}

/// The entries that a step needs, without those that others include.
fn entries(step: &str, report: &Report) -> Result<BTreeSet<String>, NoAllowList> {
    let mut hosts: Vec<HostPort> = Vec::new();
    for seen in report.network.observed.iter().filter(|seen| seen.step == step) {
        let entry = destination(seen).entry().and_then(|entry| HostPort::parse(&entry).ok());
        let unwritable = || NoAllowList::Unwritable(step.to_owned(), seen.host.clone());
        hosts.push(entry.ok_or_else(unwritable)?);
    }
    let included = |at: usize, host: &HostPort| {
        hosts.iter().enumerate().any(|(other, wider)| other != at && wider != host && wider.includes(host))
    };
    let needed = hosts.iter().enumerate().filter(|(at, host)| !host.is_loopback() && !included(*at, host));
    Ok(needed.map(|(_, host)| host.to_string()).collect())
}

fn destination(seen: &Observed) -> Destination {
    Destination { host: seen.host.clone(), port: seen.port }
}

/// Closes the policy at a place but for these entries. Loopback entries of the list stay: they say nothing, and somebody
/// wrote them.
fn close(
    text: &mut String,
    changes: &mut Vec<Change>,
    place: &Place,
    hosts: &BTreeSet<String>,
    report: &Report,
    steps: &[&str],
) -> Result<(), NoAllowList> {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let there = place.0.iter().try_fold(&document, |value, part| match part {
        Part::Key(key) => value.get(key),
        Part::Index(at) => value.get(at),
    });
    let old: Vec<String> = there
        .and_then(|policy| policy.get("allowed_hosts"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let is_loopback = |entry: &String| HostPort::parse(entry).is_ok_and(|host| host.is_loopback());
    let mut list: Vec<String> = old.iter().filter(|entry| is_loopback(entry)).cloned().collect();
    list.extend(hosts.iter().cloned());
    let allowed = place.key("allowed_hosts");
    if there.is_none() {
        let policy = if list.is_empty() { json!({"forbid_network": true}) } else { json!({"allowed_hosts": list}) };
        *text = edit::set(text, place, &policy)?;
    } else {
        *text = edit::set(text, &place.key("forbid_network"), &true.into())?;
        *text = if list.is_empty() && old.is_empty() {
            std::mem::take(text)
        } else {
            edit::set_after(text, &allowed, &json!(list), Some("forbid_network"))?
        };
    }
    let normal = |entry: &String| HostPort::parse(entry).map_or_else(|_| entry.clone(), |host| host.to_string());
    changes.push(Change {
        place: place.to_string(),
        added: hosts.iter().map(|entry| (entry.clone(), needed_by(entry, report, steps))).collect(),
        removed: old.into_iter().filter(|entry| !is_loopback(entry) && !hosts.contains(&normal(entry))).collect(),
    });
    Ok(())
}

/// `pytest: python -m pytest (3 times); build: ...`.
fn needed_by(entry: &str, report: &Report, steps: &[&str]) -> String {
    let Ok(entry) = HostPort::parse(entry) else { return String::new() };
    let mut by: Vec<String> = Vec::new();
    for step in steps {
        let seen: Vec<&Observed> = report
            .network
            .observed
            .iter()
            .filter(|seen| seen.step == **step)
            .filter(|seen| {
                let other = destination(seen).entry().and_then(|other| HostPort::parse(&other).ok());
                other.is_some_and(|other| entry.includes(&other))
            })
            .collect();
        let count: u64 = seen.iter().map(|seen| seen.count).sum();
        let process = seen.iter().flat_map(|seen| &seen.processes).next();
        if let Some(process) = process {
            let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
            by.push(format!("{step}: {process} ({times})"));
        }
    }
    by.join("; ")
}

/// Whether the lock lets that step do what was observed.
fn allowed(lock: &Lock, seen: &Observed) -> bool {
    let policy = lock.tools.get(&seen.step).and_then(|tool| tool.network.as_ref()).unwrap_or(&lock.network);
    let entry = destination(seen).entry().and_then(|entry| HostPort::parse(&entry).ok());
    let Some(seen) = entry.map(|entry| entry.entry()) else { return false };
    let target = Target { name: &seen.name, address: &seen.address.0, port: Some(seen.port).filter(|port| *port != 0) };
    match policy {
        Network::Open => true,
        Network::Loopback => false,
        Network::Allow(hosts) => {
            hosts.iter().filter_map(|entry| HostPort::parse(entry).ok()).any(|entry| entry.entry().covers(&target))
        }
    }
}

fn unresolved(report: &Report) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for step in report.steps.iter().filter(|step| step.network.policy == "open") {
        for name in step.network.notes.iter().filter(|note| note.call == "lookup").map(|note| &note.name) {
            let pair = (step.step.clone(), name.clone());
            if !all.contains(&pair) {
                all.push(pair);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Attempt, EventKind, Verdict};
    use crate::outcome::Outcome;
    use crate::report::{json as filled, sample};
    use proptest::prelude::*;

    const OPEN: &str = "{\n  \"version\": 2,\n  \"python\": \"3.11\",\n  \"tools\": {\n    \"ruff\": {},\n    \"pytest\": {\"args\": [\"-q\"]},\n    \"bandit\": {}\n  },\n  \"network_policy\": {\"forbid_network\": false, \"allowed_hosts\": [\"localhost\", \"old.example\"]}\n}\n";

    fn parsed(text: &str) -> Lock {
        Lock::parse(text.as_bytes()).unwrap().0
    }

    /// A run with this lock, in which steps talked to hosts (0: looked up only).
    fn run(text: &str, talked: &[(&str, &str, u16)]) -> Report {
        let lock = parsed(text);
        let mut plan = sample::plan();
        plan.lock_sha256.clone_from(&lock.sha256);
        for step in &mut plan.steps {
            let own = lock.tools.get(&step.id).and_then(|tool| tool.network.clone());
            step.network = own.unwrap_or_else(|| lock.network.clone());
        }
        let mut kinds = vec![sample::start("parity"), EventKind::Planned { plan: Box::new(plan) }];
        for id in ["ruff", "pytest", "bandit", "coverage"] {
            kinds.push(sample::started(id));
            for (_, host, port) in talked.iter().filter(|(step, ..)| *step == id) {
                let address = host.parse::<std::net::IpAddr>().is_ok();
                let attempt = Attempt {
                    verdict: Verdict::Allowed,
                    process: format!("python -m {id}"),
                    call: if *port == 0 { "lookup".into() } else { "connect".into() },
                    protocol: if *port == 0 { "dns".into() } else { "tcp".into() },
                    name: if address { String::new() } else { (*host).into() },
                    address: if address { (*host).into() } else { "192.0.2.80".into() },
                    port: *port,
                    count: 1,
                    ..Attempt::default()
                };
                let attempt = if *port == 0 { Attempt { address: String::new(), ..attempt } } else { attempt };
                kinds.push(EventKind::NetworkAttempted { step: id.into(), attempt: Box::new(attempt) });
            }
            kinds.push(sample::ended(id, 0, 1));
        }
        kinds.push(EventKind::RunFinished { wall_ms: 1 });
        filled::report(&Outcome::fold(&sample::events(kinds)))
    }

    fn learn(text: &str, talked: &[(&str, &str, u16)]) -> AllowList {
        allow_list(text, &parsed(text), &run(text, talked)).unwrap()
    }

    #[test]
    fn the_step_that_talked_gets_a_list_and_the_rest_is_closed() {
        let talked = [("pytest", "api.example", 443), ("pytest", "api.example", 0), ("pytest", "192.0.2.7", 80)];
        let learned = learn(OPEN, &talked);
        assert_eq!(
            learned.text,
            OPEN.replace(
                "{\"args\": [\"-q\"]}",
                "{\"args\": [\"-q\"], \"network\": {\"allowed_hosts\": [\"192.0.2.7:80\", \"api.example:443\"]}}"
            )
            .replace(
                "false, \"allowed_hosts\": [\"localhost\", \"old.example\"]",
                "true, \"allowed_hosts\": [\"localhost\"]"
            )
        );
        insta::assert_debug_snapshot!(learned.changes);
    }

    #[test]
    fn what_all_steps_need_and_what_gates_of_ours_need_is_common() {
        let all = ["ruff", "pytest", "bandit", "coverage"].map(|step| (step, "api.example", 443));
        let learned = learn(OPEN, &all);
        assert_eq!(learned.changes.len(), 1);
        assert_eq!(parsed(&learned.text).network, Network::Allow(vec!["api.example:443".into()]));
        let lock = parsed(&learn(OPEN, &[("coverage", "c.example", 1), ("pytest", "p.example", 2)]).text);
        assert_eq!(lock.network, Network::Allow(vec!["c.example:1".into()]));
        assert_eq!(lock.tools["pytest"].network, Some(Network::Allow(vec!["p.example:2".into()])));
        assert_eq!(lock.tools["ruff"].network, Some(Network::Loopback));
    }

    #[test]
    fn a_run_that_talked_to_nobody_closes_the_network() {
        let learned = learn(OPEN, &[]);
        assert_eq!((parsed(&learned.text).network, learned.changes.len()), (Network::Loopback, 1));
        assert_eq!(learned.changes[0].removed, ["old.example"]);
    }

    #[test]
    fn a_policy_that_is_not_open_is_never_touched() {
        let text = OPEN
            .replace(
                "\"forbid_network\": false, \"allowed_hosts\": [\"localhost\", \"old.example\"]",
                "\"allowed_hosts\": [\"old.example\"]",
            )
            .replace("\"ruff\": {}", "\"ruff\": {\"network\": {\"forbid_network\": false}}");
        let learned = learn(&text, &[("ruff", "r.example", 0), ("pytest", "old.example", 443)]);
        assert_eq!(
            learned.text,
            text.replace("\"forbid_network\": false", "\"forbid_network\": true, \"allowed_hosts\": [\"r.example\"]")
        );
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let talked = [("pytest", "api.example", 443), ("ruff", "a.example", 0)];
        let report = run(OPEN, &talked);
        let once = allow_list(OPEN, &parsed(OPEN), &report).unwrap();
        let twice = allow_list(&once.text, &parsed(&once.text), &report).unwrap();
        assert_eq!((twice.text, twice.changes), (once.text, vec![]));
    }

    #[test]
    fn a_report_that_does_not_say_it_all_is_refused() {
        let lock = parsed(OPEN);
        let refused = |change: &dyn Fn(&mut Report)| {
            let mut report = run(OPEN, &[("pytest", "api.example", 443)]);
            change(&mut report);
            allow_list(OPEN, &lock, &report).unwrap_err().to_string()
        };
        let say = [
            refused(&|report| report.kind = "self-check".into()),
            refused(&|report| report.lock_sha256 = "00".into()),
            refused(&|report| report.steps[1].network.policy = "loopback".into()),
            refused(&|report| drop(report.steps.remove(0))),
            refused(&|report| report.steps[1].cancelled = true),
            refused(&|report| report.steps[1].exit = None),
            refused(&|report| report.steps[1].timed_out = true),
            refused(&|report| report.network.observed[0].host = "no host at all".into()),
        ];
        insta::assert_snapshot!(say.join("\n"));
        let closed = OPEN.replace("\"forbid_network\": false", "\"forbid_network\": true");
        let error = allow_list(&closed, &parsed(&closed), &run(&closed, &[])).unwrap_err();
        assert_eq!(error, NoAllowList::NothingOpen);
        // A lock that was closed by hand since then, and does not allow what the report shows.
        assert_eq!(
            allow_list(&closed, &parsed(&closed), &run(OPEN, &[("pytest", "x.example", 1)])),
            Err(NoAllowList::OtherLock)
        );
    }

    proptest! {
        /// Whatever was observed: the lock that comes of it allows that, and nothing is open any more.
        #[test]
        fn the_list_allows_what_was_observed(
            talked in prop::collection::vec((prop::sample::select(vec!["ruff", "pytest", "bandit", "coverage"]), prop::sample::select(vec!["a.example", "b.a.example", "192.0.2.9", "2001:db8::9"]), 0u16..3), 0..8)
        ) {
            let talked: Vec<_> = talked.into_iter().filter(|(_, host, port)| *port > 0 || !host.contains(':') && !host.starts_with("192")).collect();
            let report = run(OPEN, &talked);
            let learned = allow_list(OPEN, &parsed(OPEN), &report).unwrap();
            let lock = parsed(&learned.text);
            prop_assert!(report.network.observed.iter().all(|seen| allowed(&lock, seen)));
            prop_assert!(lock.network != Network::Open && lock.tools.values().all(|tool| tool.network != Some(Network::Open)));
            prop_assert_eq!(allow_list(&learned.text, &lock, &report).map(|again| again.changes), Ok(vec![]));
        }
    }
}
