//! When a command is asked to end, and when it is ended: SIGTERM, a grace period, SIGKILL. Decides and does nothing; time
//! comes in as the monotonic time since the start.

use std::time::Duration;

/// What is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// SIGTERM to everything, because the timeout ran out.
    Terminate,
    /// SIGKILL to everything, because the grace period ran out.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// SIGTERM was sent; SIGKILL is due at this time.
    Terminated(Duration),
    Killed,
}

/// The timers of one command. A pause stops them.
#[derive(Debug)]
pub struct Escalation {
    timeout: Option<Duration>,
    grace: Duration,
    stage: Stage,
    paused_since: Option<Duration>,
    paused: Duration,
}

impl Escalation {
    /// Of a command that starts now, at zero. No timeout: it may run for ever.
    pub fn new(timeout: Option<Duration>, grace: Duration) -> Escalation {
        Escalation { timeout, grace, stage: Stage::Running, paused_since: None, paused: Duration::ZERO }
    }

    /// The time at `now` with all pauses taken out.
    pub fn running_time(&self, now: Duration) -> Duration {
        self.paused_since.map_or(now, |since| since.min(now)).saturating_sub(self.paused)
    }

    /// How long nothing will be due; `None` for ever.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        if self.paused_since.is_some() {
            return None;
        }
        let at = match self.stage {
            Stage::Running => self.timeout?,
            Stage::Terminated(kill_at) => kill_at,
            Stage::Killed => return None,
        };
        Some(at.saturating_sub(self.running_time(now)))
    }

    /// What is due at `now`; each thing once.
    pub fn due(&mut self, now: Duration) -> Option<Due> {
        if self.wait(now)? > Duration::ZERO {
            return None;
        }
        if self.stage == Stage::Running && self.grace > Duration::ZERO {
            self.stage = Stage::Terminated(self.running_time(now) + self.grace);
            return Some(Due::Terminate);
        }
        self.stage = Stage::Killed;
        Some(Due::Kill)
    }

    /// The host wants the end: SIGTERM is sent now and the grace period starts. False where it has started already.
    pub fn cancel(&mut self, now: Duration) -> bool {
        self.resume(now);
        if self.stage != Stage::Running {
            return false;
        }
        self.stage = Stage::Terminated(self.running_time(now) + self.grace);
        true
    }

    /// SIGKILL is sent now. False where it was before.
    pub fn kill(&mut self, now: Duration) -> bool {
        self.resume(now);
        std::mem::replace(&mut self.stage, Stage::Killed) != Stage::Killed
    }

    /// Stops the timers. False where they stand already, or where everything was killed.
    pub fn pause(&mut self, now: Duration) -> bool {
        if self.paused_since.is_some() || self.stage == Stage::Killed {
            return false;
        }
        self.paused_since = Some(now);
        true
    }

    /// Lets them go on. False where they do.
    pub fn resume(&mut self, now: Duration) -> bool {
        let Some(since) = self.paused_since.take() else { return false };
        self.paused += now.saturating_sub(since);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn timeout_then_grace_then_nothing_more() {
        let mut timers = Escalation::new(Some(s(10)), s(5));
        assert_eq!(timers.due(s(9)), None);
        assert_eq!(timers.wait(s(9)), Some(s(1)));
        assert_eq!(timers.due(s(10)), Some(Due::Terminate));
        assert_eq!(timers.due(s(14)), None);
        assert_eq!(timers.due(s(15)), Some(Due::Kill));
        assert_eq!(timers.due(s(99)), None);
        assert_eq!(timers.wait(s(99)), None);
    }

    #[test]
    fn without_a_timeout_nothing_is_ever_due_until_the_host_cancels() {
        let mut timers = Escalation::new(None, s(5));
        assert_eq!(timers.due(s(1_000_000)), None);
        assert!(timers.cancel(s(1_000_000)));
        assert!(!timers.cancel(s(1_000_001)));
        assert_eq!(timers.due(s(1_000_005)), Some(Due::Kill));
    }

    #[test]
    fn without_a_grace_period_the_timeout_kills() {
        assert_eq!(Escalation::new(Some(s(1)), s(0)).due(s(1)), Some(Due::Kill));
    }

    #[test]
    fn a_pause_stops_timeout_and_grace_alike() {
        let mut timers = Escalation::new(Some(s(10)), s(5));
        assert!(timers.pause(s(4)));
        assert_eq!(timers.due(s(100)), None);
        assert!(timers.resume(s(100)));
        assert_eq!(timers.running_time(s(100)), s(4));
        assert_eq!(timers.due(s(105)), None);
        assert_eq!(timers.due(s(106)), Some(Due::Terminate));
        assert!(timers.pause(s(107)));
        assert!(timers.resume(s(207)));
        assert_eq!(timers.due(s(210)), None);
        assert_eq!(timers.due(s(211)), Some(Due::Kill));
    }

    #[test]
    fn a_cancel_or_kill_ends_a_pause() {
        let mut timers = Escalation::new(Some(s(10)), s(5));
        timers.pause(s(1));
        assert!(timers.cancel(s(2)));
        assert_eq!(timers.wait(s(2)), Some(s(5)));
        timers.pause(s(3));
        assert!(timers.kill(s(4)));
        assert!(!timers.pause(s(5)));
    }

    proptest! {
        #[test]
        fn a_kill_is_due_by_timeout_plus_grace_however_often_we_look(
            timeout in 0u64..1000, grace in 0u64..1000, looks in proptest::collection::vec(0u64..3000, 0..50),
        ) {
            let mut looks = looks;
            looks.sort_unstable();
            let mut timers = Escalation::new(Some(s(timeout)), s(grace));
            let mut killed = looks.iter().any(|at| timers.due(s(*at)) == Some(Due::Kill));
            // At most two looks are left to take once both times are over: one for each thing that is due.
            killed |= timers.due(s(4000)) == Some(Due::Kill);
            killed |= timers.due(s(4000 + grace)) == Some(Due::Kill);
            prop_assert!(killed);
        }
    }
}
