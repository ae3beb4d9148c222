//! What can run on this machine, as this user: judged here, from what was tried. Pure.
//!
//! A wall counts as held only where it was seen to hold. What does not hold has the one thing to change beside it.

use crate::code::{ExitCode, ParityCode};
use crate::finding::Finding;
use crate::frame::Observed;
use crate::lock::CellKind;
use serde::{Deserialize, Serialize};

/// Version of the JSON of `ft doctor --json`. Fields may be added under the same number; none is removed or changes its
/// meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole cell of a kind: its walls as seen from inside, or why it can't be raised and what to change.
pub type Raised = Result<Vec<Observed>, (String, String)>;

/// What a cell without namespaces promises less.
const WEAKER: &str = "a cell was raised; weaker: paths differ, /tmp and loopback are the machine's (connections only to \
    what the step opened), one step at a time";

/// What was tried and read, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Version of this program.
    pub ft: String,
    /// The machine.
    pub system: System,
    /// Every wall and limit by itself, or why nothing could be tried.
    pub trials: Result<Vec<Observed>, String>,
    /// A whole cell: the walls as seen from inside, or why it can't be raised and what to change.
    pub namespaces: Raised,
    /// The same of a cell without namespaces.
    pub here: Raised,
    /// Container engines, the one that would be used first.
    pub engines: Vec<Engine>,
    /// Path and version of every Python.
    pub pythons: Vec<(String, String)>,
    /// `git version 2.39.2`, or why there is none.
    pub git: Result<String, String>,
    /// The lock of this repository, where there is one.
    pub lock: Option<LockExamined>,
}

/// The machine and the user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct System {
    /// `linux`.
    pub os: String,
    /// Release of the kernel: shown, and never judged by.
    pub kernel: String,
    /// `x86_64`.
    pub architecture: String,
    /// The user.
    pub uid: u32,
    /// Whether this is inside a container.
    pub container: bool,
    /// Control groups: `v1`, `v2`, or nothing where none are mounted.
    pub cgroups: String,
}

/// A lock in reach, and what the plan says of it here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockExamined {
    /// Its path.
    pub path: String,
    /// Its `cell.minimum`; none where the lock can't be read.
    pub minimum: Option<CellKind>,
    /// The limits that it asks for: name, value, unit.
    pub limits: Vec<(String, u64, String)>,
    /// `resource_limits.required`.
    pub limits_required: bool,
    /// Its network policy, in words.
    pub network: String,
    /// What keeps a run of it from starting on this machine.
    pub findings: Vec<Finding>,
}

/// What `ft doctor` says; its JSON is this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of this program.
    pub ft: String,
    /// Whether runs can work here; with a lock in reach, runs of that lock.
    pub ok: bool,
    /// 0, or that of what is in the way: 105 where no cell can be raised or a policy of the lock can't be enforced.
    pub exit_code: u16,
    /// The machine.
    pub system: System,
    /// The kinds of cell, the strongest first.
    pub cells: Vec<Check>,
    /// Every wall by itself.
    pub walls: Vec<Check>,
    /// Every limit by itself.
    pub limits: Vec<Check>,
    /// Container engines, the one that would be used first.
    pub engines: Vec<Engine>,
    /// Every Python that answers.
    pub pythons: Vec<Python>,
    /// The git that is used.
    pub git: Check,
    /// The lock in reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockDiagnosis>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `network`, `memory`, `namespaces`.
    pub name: String,
    /// Whether it was seen to hold.
    pub holds: bool,
    /// By what; empty where by nothing.
    pub mechanism: String,
    /// What was seen.
    pub detail: String,
    /// The one thing to change; empty where it holds, or where nothing can be done.
    pub fix: String,
}

/// A container engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// `unix:///var/run/docker.sock`.
    pub endpoint: String,
    /// Where it was found: `DOCKER_HOST`, `default socket`.
    pub from: String,
    /// Whether it answered.
    pub answers: bool,
    /// Its version, or why it did not answer.
    pub detail: String,
    /// The one thing to change; empty where it answers.
    pub fix: String,
}

/// An interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// Its real path.
    pub path: String,
    /// Its full version.
    pub version: String,
}

/// What a run of the lock in reach would meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDiagnosis {
    /// Its path.
    pub path: String,
    /// The kind of cell that a run would use; none where none can be raised.
    pub cell: Option<CellKind>,
    /// `cell.minimum`.
    pub minimum: Option<CellKind>,
    /// The limits that it asks for, and whether they hold.
    pub limits: Vec<Check>,
    /// Whether a limit that does not hold is PARITY-052 (`resource_limits.required`).
    pub limits_required: bool,
    /// Its network policy, in words.
    pub network: String,
    /// What keeps a run from starting.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// What `ft doctor` leaves with.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        ExitCode(self.exit_code)
    }
}

/// The trials that are limits; the others are walls.
const LIMITS: [&str; 8] = ["memory", "pids", "cpus", "disk", "output", "files", "file_size", "tmp"];

/// Judges what was tried.
#[must_use]
pub fn diagnose(examined: Examined) -> Diagnosis {
    let Examined { ft, system, trials, namespaces, here, engines, pythons, git, lock } = examined;
    let fix = namespaces.as_ref().err().map(|(_, fix)| fix.clone());
    let trials = trials.unwrap_or_default();
    // What a run would get.
    let inside = namespaces.as_deref().or(here.as_deref()).unwrap_or_default();
    // What the trial cell knows and no trial outside of one does.
    let more = inside.iter().filter(|seen| trials.iter().all(|t| t.wall != seen.wall) && is_limit(seen));
    let checks: Vec<Check> = trials.iter().chain(more).map(|seen| check(seen, fix.as_deref(), &system)).collect();
    let (limits, walls): (Vec<Check>, Vec<Check>) =
        checks.into_iter().partition(|check| LIMITS.contains(&check.name.as_str()));
    let cells = cells(&namespaces, &engines, &here);
    // A container is never taken in place of the walls of venv mode: only where the lock asks for it.
    let mut kinds = cells.iter().filter(|cell| cell.holds).filter_map(|cell| kind(&cell.name));
    let engine = kinds.clone().any(|kind| kind == CellKind::Container);
    let strongest = kinds.find(|kind| *kind != CellKind::Container);
    let lock = lock.map(|lock| judge_lock(lock, (strongest, engine), &limits, inside));
    let git = match git {
        Ok(version) => held("git", "", &version),
        Err(why) => failed("git", &why, "install git"),
    };
    let exit = exit(lock.as_ref(), strongest, &git);
    Diagnosis {
        schema_version: SCHEMA_VERSION,
        ft,
        ok: exit == ExitCode::PASSED,
        exit_code: exit.0,
        system,
        cells,
        walls,
        limits,
        engines,
        pythons: pythons.into_iter().map(|(path, version)| Python { path, version }).collect(),
        git,
        lock,
    }
}

fn is_limit(seen: &Observed) -> bool {
    LIMITS.contains(&seen.wall.as_str())
}

fn held(name: &str, mechanism: &str, detail: &str) -> Check {
    Check {
        name: name.to_owned(),
        holds: true,
        mechanism: mechanism.to_owned(),
        detail: detail.to_owned(),
        fix: String::new(),
    }
}

fn failed(name: &str, detail: &str, fix: &str) -> Check {
    Check { holds: false, fix: fix.to_owned(), ..held(name, "", detail) }
}

/// What a run can be put into: one row for each kind. A kind is added here when it is added to the product.
fn cells(namespaces: &Raised, engines: &[Engine], here: &Raised) -> Vec<Check> {
    vec![
        match namespaces {
            Ok(_) => held("namespaces", "namespaces", "a cell was raised, and its walls were seen from inside"),
            Err((why, fix)) => failed("namespaces", why, fix),
        },
        match engines.first().filter(|engine| engine.answers) {
            Some(engine) => {
                held("container", "container engine", &format!("{}, for locks that pin an image", engine.detail))
            }
            None => failed("container", "no engine answers", ""),
        },
        match here {
            Ok(_) => held("here", "seccomp broker, Landlock", WEAKER),
            Err((why, fix)) => failed("here", why, fix),
        },
    ]
}

fn kind(name: &str) -> Option<CellKind> {
    [("namespaces", CellKind::Namespaces), ("container", CellKind::Container), ("here", CellKind::Here)]
        .into_iter()
        .find_map(|(word, kind)| (word == name).then_some(kind))
}

/// The word for a kind of cell, as in the lock.
#[must_use]
pub fn word(kind: CellKind) -> &'static str {
    match kind {
        CellKind::Here => "here",
        CellKind::Namespaces => "namespaces",
        CellKind::Container => "container",
    }
}

fn check(seen: &Observed, namespaces: Option<&str>, system: &System) -> Check {
    let fix = if seen.enforced { String::new() } else { fix(&seen.wall, namespaces, system) };
    Check {
        name: seen.wall.clone(),
        holds: seen.enforced,
        mechanism: seen.mechanism.clone(),
        detail: seen.detail.clone(),
        fix,
    }
}

/// The one thing to change where this does not hold. `namespaces` is that of the whole cell, where it can't be raised.
fn fix(wall: &str, namespaces: Option<&str>, system: &System) -> String {
    let text = match wall {
        "memory" | "pids" => limits_fix(system),
        // Where a whole cell stands, none of these is needed by itself.
        "user" | "mounts" | "pid" | "proc" | "network" | "ipc" | "uts" | "cgroup" | "capabilities" => {
            namespaces.unwrap_or("nothing: cells stand here without it")
        }
        "tree" => "nothing: the tree is copied for each step instead, which takes longer",
        "notification" | "injection" if system.container => {
            "start the container without an own seccomp filter that watches, or with `--security-opt seccomp=unconfined`"
        }
        "notification" | "injection" => "run outside of programs that watch system calls themselves (other sandboxes)",
        "landlock" => "start the kernel with `lsm=landlock,...` (a second wall; cells of namespaces stand without it)",
        "seccomp" | "no_new_privs" => "use a kernel with CONFIG_SECCOMP_FILTER",
        _ => "",
    };
    text.to_owned()
}

fn limits_fix(system: &System) -> &'static str {
    match (system.cgroups.as_str(), system.container) {
        (_, true) => {
            "start the container with a control group that it may write to (`--cgroupns=private --privileged` in Docker), or set limits on the container itself"
        }
        ("v2", _) => {
            "delegate control groups to users: `sudo systemctl edit user@.service`, with `[Service]` and `Delegate=cpu memory pids`, then log in again; or start it as `systemd-run --user --scope -p Delegate=yes ft run`"
        }
        ("v1", _) => {
            "boot with `systemd.unified_cgroup_hierarchy=1`: control groups of version 1 can't be delegated to users"
        }
        _ => "mount control groups: `mount -t cgroup2 none /sys/fs/cgroup`",
    }
}

fn judge_lock(
    lock: LockExamined,
    (strongest, engine): (Option<CellKind>, bool),
    limits: &[Check],
    inside: &[Observed],
) -> LockDiagnosis {
    let asked = lock.limits.into_iter().map(|(name, value, unit)| {
        let asked = format!("{value} {unit}").trim_end().to_owned();
        // What a cell says of itself counts more than what was tried outside of one.
        let seen = inside.iter().find(|seen| seen.wall == name);
        let tried = limits.iter().find(|limit| limit.name == name);
        match (seen, tried) {
            (Some(seen), tried) => Check {
                name,
                holds: seen.enforced,
                mechanism: seen.mechanism.clone(),
                detail: asked,
                fix: tried.map_or(String::new(), |tried| tried.fix.clone()),
            },
            (None, Some(tried)) => Check { detail: asked, ..tried.clone() },
            (None, None) => failed(&name, &asked, ""),
        }
    });
    let contained = lock.minimum == Some(CellKind::Container);
    let mut findings = lock.findings;
    if contained && !engine && findings.is_empty() {
        let what = "the lock asks for a container, and no engine answers";
        findings.push(Finding::new(ParityCode::NO_ENGINE, "preflight", what));
    }
    LockDiagnosis {
        limits: asked.collect(),
        path: lock.path,
        cell: match contained {
            true => engine.then_some(CellKind::Container),
            false => strongest.filter(|kind| lock.minimum.is_some_and(|minimum| *kind >= minimum)),
        },
        minimum: lock.minimum,
        limits_required: lock.limits_required,
        network: lock.network,
        findings,
    }
}

/// The first finding of the lock decides, as in a run; without a lock, whether any cell can be raised at all.
fn exit(lock: Option<&LockDiagnosis>, strongest: Option<CellKind>, git: &Check) -> ExitCode {
    if let Some(finding) = lock.and_then(|lock| lock.findings.iter().find(|finding| !finding.warning)) {
        return finding.code.exit();
    }
    match strongest {
        None => ParityCode::POLICY_UNENFORCEABLE.exit(),
        // Without it there is no repository, and no run.
        Some(_) if !git.holds => ExitCode::INFRASTRUCTURE,
        Some(_) => ExitCode::PASSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(wall: &str, enforced: bool) -> Observed {
        let mechanism = if enforced { "by something" } else { "" };
        Observed { wall: wall.into(), mechanism: mechanism.into(), detail: "seen".into(), enforced }
    }

    /// A machine on which everything holds.
    fn good() -> Examined {
        let all = ["user", "network", "seccomp", "memory", "pids"];
        Examined {
            ft: "0.1.0".into(),
            system: System { os: "linux".into(), cgroups: "v2".into(), ..System::default() },
            trials: Ok(all.iter().map(|wall| seen(wall, true)).collect()),
            namespaces: Ok(vec![seen("network", true), seen("memory", true), seen("disk", true)]),
            here: Ok(vec![seen("network", true), seen("memory", true)]),
            engines: Vec::new(),
            pythons: vec![("/usr/bin/python3.11".into(), "3.11.2".into())],
            git: Ok("git version 2.39.2".into()),
            lock: None,
        }
    }

    #[test]
    fn where_everything_holds_there_is_nothing_to_change() {
        let diagnosis = diagnose(good());
        assert!(diagnosis.ok && diagnosis.exit() == ExitCode::PASSED);
        let fixes = diagnosis.walls.iter().chain(&diagnosis.limits).filter(|check| !check.fix.is_empty()).count();
        assert_eq!(fixes, 0);
        let limits: Vec<&str> = diagnosis.limits.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(limits, ["memory", "pids", "disk"]);
    }

    #[test]
    fn without_any_cell_no_run_can_work_and_every_wall_has_the_fix_of_the_cell() {
        let mut examined = good();
        examined.trials = Ok(vec![seen("user", false), seen("network", false), seen("seccomp", true)]);
        examined.namespaces = Err(("AppArmor restricts it".into(), "change the profile".into()));
        let weaker = diagnose(examined.clone());
        assert!(weaker.ok && weaker.cells[2].holds && weaker.cells[2].detail.contains("weaker: paths differ"));
        examined.here = Err(("no Landlock".into(), "start the kernel with it".into()));
        let diagnosis = diagnose(examined);
        assert_eq!(diagnosis.cells[2].fix, "start the kernel with it");
        assert_eq!((diagnosis.ok, diagnosis.exit_code), (false, 105));
        assert_eq!(diagnosis.cells[0].fix, "change the profile");
        let fixes: Vec<&str> = diagnosis.walls.iter().map(|check| check.fix.as_str()).collect();
        assert_eq!(fixes, ["change the profile", "change the profile", ""]);
    }

    #[test]
    fn a_limit_that_does_not_hold_is_no_reason_to_fail_until_a_lock_requires_it() {
        let mut examined = good();
        examined.trials = Ok(vec![seen("memory", false)]);
        examined.namespaces = Ok(vec![seen("memory", false)]);
        assert!(diagnose(examined.clone()).ok);
        assert!(diagnose(examined.clone()).limits[0].fix.contains("Delegate=cpu memory pids"));
        let finding = Finding::new(ParityCode::POLICY_UNENFORCEABLE, "preflight", "memory");
        examined.lock = Some(LockExamined {
            minimum: Some(CellKind::Here),
            limits: vec![("memory".into(), 512, "MiB".into())],
            limits_required: true,
            findings: vec![finding],
            ..LockExamined::default()
        });
        let diagnosis = diagnose(examined);
        assert_eq!(diagnosis.exit_code, 105);
        let lock = diagnosis.lock.unwrap();
        assert_eq!((lock.cell, lock.limits[0].holds), (Some(CellKind::Namespaces), false));
    }

    #[test]
    fn a_lock_that_wants_a_stronger_cell_than_there_is_has_none() {
        let mut examined = good();
        examined.lock = Some(LockExamined { minimum: Some(CellKind::Container), ..LockExamined::default() });
        assert_eq!(diagnose(examined).lock.unwrap().cell, None);
    }

    #[test]
    fn the_json_is_read_back_and_says_its_version() {
        let diagnosis = diagnose(good());
        let json = serde_json::to_value(&diagnosis).unwrap();
        assert_eq!(json["schema_version"], 1);
        assert_eq!(serde_json::from_value::<Diagnosis>(json).unwrap(), diagnosis);
    }

    #[test]
    fn without_git_there_is_no_run() {
        let mut examined = good();
        examined.git = Err("git was not found".into());
        assert_eq!(diagnose(examined).exit(), ExitCode::INFRASTRUCTURE);
    }
}
