//! The run as a state machine: what happened goes in, what to do comes out. No clock, no await, no effects.
//!
//! [`crate::session`] performs the actions. Timeouts of steps belong to their agents; what is decided here is order,
//! parallelism, `needs`, fail-fast, interruption and pause.

use crate::event::EventKind;
use crate::frame::ToAgent;
use crate::plan::Plan;
use crate::step::Step;
use std::collections::VecDeque;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Everything is in place; steps may start.
    Ready,
    /// Something of a step that is to be recorded while it runs.
    Happened(EventKind),
    /// A step is over. `ok`: it did what it should, so that steps that need it may start.
    Over {
        /// Index in the plan.
        step: usize,
        /// What to record about it, in order.
        events: Vec<EventKind>,
        /// Whether it succeeded.
        ok: bool,
    },
    /// A signal arrived.
    Signal(Signal),
    /// What the command says can't be passed on any more.
    Unheard {
        /// Why not; `None` where the reader is gone, as in `ft exec ... | head`.
        error: Option<String>,
    },
}

/// The signals that a run knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, a CI job that is cancelled.
    Terminate,
    /// The terminal is gone.
    Hangup,
    /// Ctrl-Z.
    Stop,
    /// `fg`.
    Continue,
    /// Nobody reads the output any more. Never sent as a signal: a write says so.
    Pipe,
}

impl Signal {
    /// Whether it asks the run to end, and not only to stand still.
    #[must_use]
    pub fn ends(self) -> bool {
        !matches!(self, Signal::Stop | Signal::Continue)
    }

    /// As the system calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::Hangup => "SIGHUP",
            Signal::Stop => "SIGTSTP",
            Signal::Continue => "SIGCONT",
            Signal::Pipe => "SIGPIPE",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Raise the cell of this step and start it.
    Start(usize),
    /// Append to the record.
    Record(EventKind),
    /// Say this to the agents of these steps.
    Send(Vec<usize>, ToAgent),
    /// Stop this process as the terminal asked (after the agents were paused).
    StopSelf,
    /// All steps are over.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Succeeded,
    Failed,
    Skipped,
}

/// The state of a run.
#[derive(Debug)]
pub struct Run {
    steps: Vec<Step>,
    states: Vec<State>,
    parallel: usize,
    fail_fast: bool,
    ready: bool,
    interrupts: u32,
    finished: bool,
}

impl Run {
    /// A run that waits for [`Input::Ready`].
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Run {
            states: vec![State::Waiting; plan.steps.len()],
            steps: plan.steps.clone(),
            parallel: plan.parallel.max(1),
            fail_fast: plan.fail_fast,
            ready: false,
            interrupts: 0,
            finished: false,
        }
    }

    /// Takes in what happened and says what to do, in order.
    pub fn on(&mut self, input: Input) -> Vec<Action> {
        let mut actions = VecDeque::new();
        match input {
            Input::Ready => self.ready = true,
            Input::Happened(event) => actions.push_back(Action::Record(event)),
            Input::Over { step, events, ok } => {
                self.states[step] = if ok { State::Succeeded } else { State::Failed };
                actions.extend(events.into_iter().map(Action::Record));
                if !ok && self.fail_fast {
                    self.skip(
                        step + 1,
                        &format!("{} failed and --fail-fast is set", self.steps[step].id),
                        &mut actions,
                    );
                    let later: Vec<_> = self.running().filter(|i| *i > step).collect();
                    if !later.is_empty() {
                        actions.push_back(Action::Send(later, ToAgent::Cancel {}));
                    }
                }
            }
            Input::Signal(Signal::Stop) => {
                actions.push_back(Action::Send(self.running().collect(), ToAgent::Pause {}));
                actions.push_back(Action::Record(EventKind::Paused { paused: true }));
                actions.push_back(Action::StopSelf);
            }
            Input::Signal(Signal::Continue) => {
                actions.push_back(Action::Send(self.running().collect(), ToAgent::Resume {}));
                actions.push_back(Action::Record(EventKind::Paused { paused: false }));
            }
            Input::Signal(signal) => self.interrupt(signal, &mut actions),
            Input::Unheard { error: None } => self.interrupt(Signal::Pipe, &mut actions),
            Input::Unheard { error: Some(message) } => {
                let hint = "the command was ended; what it said until then is incomplete".to_owned();
                actions.push_back(Action::Record(EventKind::Broken { stage: "output".to_owned(), message, hint }));
                actions.push_back(Action::Send(self.running().collect(), ToAgent::Cancel {}));
                self.skip(0, "the output could not be written", &mut actions);
            }
        }
        self.schedule(&mut actions);
        actions.into()
    }

    /// The first signal asks every step to end; the second one skips the grace.
    fn interrupt(&mut self, signal: Signal, actions: &mut VecDeque<Action>) {
        self.interrupts += 1;
        let say = if self.interrupts == 1 {
            actions.push_back(Action::Record(EventKind::Interrupted { signal: signal.name().to_owned() }));
            ToAgent::Cancel {}
        } else {
            ToAgent::Kill {}
        };
        actions.push_back(Action::Send(self.running().collect(), say));
        self.skip(0, "the run was interrupted", actions);
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.states.iter().enumerate().filter(|(_, state)| **state == State::Running).map(|(i, _)| i)
    }

    fn skip(&mut self, from: usize, why: &str, actions: &mut VecDeque<Action>) {
        for i in from..self.states.len() {
            if self.states[i] == State::Waiting {
                self.states[i] = State::Skipped;
                actions.push_back(Action::Record(EventKind::StepSkipped {
                    step: self.steps[i].id.clone(),
                    why: why.to_owned(),
                }));
            }
        }
    }

    fn schedule(&mut self, actions: &mut VecDeque<Action>) {
        // A skipped step makes those that need it skipped as well, so one pass is not always enough.
        while self.ready && self.pass(actions) {}
        let over = |state: &State| !matches!(state, State::Waiting | State::Running);
        if self.ready && !self.finished && self.states.iter().all(over) {
            self.finished = true;
            actions.push_back(Action::Finish);
        }
    }

    fn pass(&mut self, actions: &mut VecDeque<Action>) -> bool {
        let mut changed = false;
        for i in 0..self.steps.len() {
            if self.states[i] != State::Waiting {
                continue;
            }
            match self.needs_of(i) {
                Needs::Wait => {}
                Needs::Never(why) => {
                    self.states[i] = State::Skipped;
                    actions.push_back(Action::Record(EventKind::StepSkipped { step: self.steps[i].id.clone(), why }));
                    changed = true;
                }
                Needs::Met => {
                    if self.running().count() < self.parallel {
                        self.states[i] = State::Running;
                        actions.push_back(Action::Start(i));
                    }
                }
            }
        }
        changed
    }

    fn needs_of(&self, step: usize) -> Needs {
        // Coverage reads what failed tests left as well: a failing suite still has a coverage.
        let any_end = self.steps[step].gate == crate::step::Gate::Coverage;
        for need in &self.steps[step].needs {
            let Some(i) = self.steps.iter().position(|s| s.id == *need) else { continue };
            match self.states[i] {
                State::Succeeded => {}
                State::Failed if any_end => {}
                State::Waiting | State::Running => return Needs::Wait,
                State::Failed => return Needs::Never(format!("it needs {need}, which failed")),
                State::Skipped => return Needs::Never(format!("it needs {need}, which did not run")),
            }
        }
        Needs::Met
    }
}

enum Needs {
    Met,
    Wait,
    Never(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::ParityCode;
    use crate::lock::CellKind;
    use crate::plan::Judge;
    use crate::step::{Gate, Limits, Network, Reader};
    use proptest::prelude::*;

    fn plan(steps: &[(&str, &[&str])], parallel: usize, fail_fast: bool) -> Plan {
        let step = |(id, needs): &(&str, &[&str])| Step {
            id: (*id).to_owned(),
            gate: Gate::Lint,
            argv: vec!["true".into()],
            env: [].into(),
            cwd: "".into(),
            timeout_ms: 1000,
            grace_ms: 100,
            network: Network::Loopback,
            deny_quietly: Vec::new(),
            limits: Limits::default(),
            needs: needs.iter().map(|n| (*n).to_owned()).collect(),
            project: true,
            tree: true,
            collect: vec![],
            on_fail: ParityCode::LINT_FAILED,
            on_timeout: ParityCode::STEP_TIMEOUT,
            reader: Reader::Plain,
        };
        Plan {
            command: "run".into(),
            lock_sha256: String::new(),
            cell: CellKind::Namespaces,
            python: "3.11.7".into(),
            environment: None,
            tool_versions: [].into(),
            parallel,
            fail_fast,
            advisory: false,
            steps: steps.iter().map(step).collect(),
            judge: Judge::default(),
        }
    }

    fn started(actions: &[Action]) -> Vec<usize> {
        actions.iter().filter_map(|a| if let Action::Start(i) = a { Some(*i) } else { None }).collect()
    }

    fn over(step: usize, ok: bool) -> Input {
        Input::Over { step, events: vec![], ok }
    }

    #[test]
    fn no_more_steps_run_at_once_than_the_plan_allows() {
        let mut run = Run::new(&plan(&[("a", &[]), ("b", &[]), ("c", &[])], 2, false));
        assert_eq!(started(&run.on(Input::Ready)), [0, 1]);
        assert_eq!(started(&run.on(over(1, false))), [2]);
        assert!(!run.on(over(0, true)).contains(&Action::Finish));
        assert!(run.on(over(2, true)).contains(&Action::Finish));
    }

    #[test]
    fn a_step_waits_for_what_it_needs_and_is_skipped_when_that_failed() {
        let mut run = Run::new(&plan(&[("a", &[]), ("b", &["a"]), ("c", &["b"])], 4, false));
        assert_eq!(started(&run.on(Input::Ready)), [0]);
        let actions = run.on(over(0, false));
        let skipped = actions.iter().filter(|a| matches!(a, Action::Record(EventKind::StepSkipped { .. }))).count();
        assert_eq!(skipped, 2);
        assert_eq!(actions.last(), Some(&Action::Finish));
    }

    #[test]
    fn fail_fast_ends_only_steps_that_come_later_in_the_plan() {
        let mut run = Run::new(&plan(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])], 3, true));
        run.on(Input::Ready);
        let actions = run.on(over(1, false));
        assert!(actions.contains(&Action::Send(vec![2], ToAgent::Cancel {})));
        assert!(started(&actions).is_empty());
    }

    #[test]
    fn the_second_interrupt_skips_the_grace() {
        let mut run = Run::new(&plan(&[("a", &[]), ("b", &[])], 1, false));
        run.on(Input::Ready);
        let first = run.on(Input::Signal(Signal::Interrupt));
        assert!(first.contains(&Action::Send(vec![0], ToAgent::Cancel {})));
        let second = run.on(Input::Signal(Signal::Interrupt));
        assert_eq!(second, [Action::Send(vec![0], ToAgent::Kill {})]);
        assert!(run.on(over(0, false)).contains(&Action::Finish));
    }

    proptest! {
        #[test]
        fn every_run_ends_whatever_fails(
            needs in proptest::collection::vec(proptest::collection::vec(0usize..6, 0..3), 1..7),
            results in proptest::collection::vec(any::<bool>(), 7),
            parallel in 1usize..4,
            fail_fast: bool,
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g"];
            let needs: Vec<Vec<&str>> =
                needs.iter().enumerate().map(|(i, n)| n.iter().filter(|x| **x < i).map(|x| names[*x]).collect()).collect();
            let steps: Vec<(&str, &[&str])> = needs.iter().enumerate().map(|(i, n)| (names[i], n.as_slice())).collect();
            let mut run = Run::new(&plan(&steps, parallel, fail_fast));
            let mut actions: VecDeque<Action> = run.on(Input::Ready).into();
            let mut finished = 0;
            while let Some(action) = actions.pop_front() {
                match action {
                    Action::Start(i) => actions.extend(run.on(over(i, results[i]))),
                    Action::Finish => finished += 1,
                    _ => {}
                }
            }
            prop_assert_eq!(finished, 1);
        }
    }
}
