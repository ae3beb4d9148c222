//! How commands end: by themselves, by their timeout, by the host; and that nothing of them stays.

use super::harness::Fixture;
use firsttry::frame::{Frame, ToAgent};
use std::time::{Duration, Instant};

#[test]
fn output_and_exit_status_come_back() {
    let ran = Fixture::sh("echo out; echo err >&2; exit 7").run();
    assert_eq!((ran.output.as_str(), ran.error.as_str()), ("out\n", "err\n"));
    assert_eq!((ran.ended().code, ran.ended().signal), (7, 0));
    assert!(ran.ended().survivors.is_empty());
}

#[test]
fn every_exit_status_passes_through_also_those_with_a_meaning_of_ours() {
    for code in [0, 1, 2, 69, 70, 101, 125, 126, 127, 128, 137, 222, 251, 255] {
        let ran = Fixture::sh(&format!("exit {code}")).run();
        assert_eq!((ran.ended().code, ran.ended().signal), (code, 0));
        assert!(!ran.ended().timed_out);
    }
}

#[test]
fn a_signal_is_told_from_an_exit_status() {
    let ran = Fixture::sh("kill -SEGV $$").run();
    assert_eq!((ran.ended().code, ran.ended().signal), (0, libc::SIGSEGV));
}

#[test]
fn a_command_that_is_not_there_is_told_from_one_that_exits_with_127() {
    let ran = Fixture::argv(&["no-such-command"]).run();
    assert_eq!(ran.finished().ended, None);
    let (stage, message) = ran.finished().broken.clone().unwrap();
    assert_eq!(stage, "exec");
    assert!(message.contains("no-such-command") && message.contains("PATH=/usr/local/bin"), "{message}");
}

#[test]
fn a_timeout_sends_sigterm_and_the_command_may_still_speak() {
    let start = Instant::now();
    let ran = Fixture::sh("trap 'echo bye; exit 3' TERM; sleep 60 & wait").with(|_, m| m.timeout_ms = 300).run();
    assert!(ran.ended().timed_out && !ran.ended().killed);
    assert_eq!((ran.output.as_str(), ran.ended().code), ("bye\n", 3));
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Programs that do not want to end, each with what it does.
const STUBBORN: [(&str, &str); 9] = [
    ("ignores SIGTERM", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"),
    (
        "stops itself again and again",
        "import os,signal; signal.signal(15, signal.SIG_IGN)\nwhile True: os.kill(os.getpid(), signal.SIGSTOP)",
    ),
    (
        "forks twice, in a session of its own, ignoring SIGTERM, and waits",
        "import os,signal,time; signal.signal(15, signal.SIG_IGN)\nif os.fork()==0:\n os.setsid()\n if os.fork()==0: time.sleep(60)\n os._exit(0)\ntime.sleep(60)",
    ),
    (
        "spins with many threads",
        "import threading,signal; signal.signal(15, signal.SIG_IGN)\nfor _ in range(8): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    ),
    (
        "ends others first",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n  try: os.kill(1, 9); os.kill(1, 19)\n  except OSError: pass\n  time.sleep(.01)",
    ),
    (
        "signals everybody that it can name",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n for to in (0, -1, 1):\n  try: os.kill(to, 15)\n  except OSError: pass\n time.sleep(.01)",
    ),
    (
        "leaves zombies until it may have no more",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n try:\n  if os.fork()==0: os._exit(0)\n except OSError: time.sleep(.001)",
    ),
    (
        "spawns as fast as it can",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n try: os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 60 & sleep 60'], {'PATH': '/bin:/usr/bin'})\n except OSError: time.sleep(.001)",
    ),
    (
        "forks for ever",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nmain=os.getpid()\nwhile True:\n try:\n  if os.fork()==0 and os.getpid()%3: os._exit(0)\n except OSError: time.sleep(.001)\n if os.getpid()==main: time.sleep(.001)",
    ),
];

/// No number of the manifest is too large to be added to another; 0 is no timeout.
#[test]
fn the_longest_timeout_is_no_timeout_at_all() {
    for (timeout_ms, grace_ms) in [(u64::MAX, u64::MAX), (u64::MAX - 1, 1), (0, u64::MAX)] {
        let ran = Fixture::sh("echo done").with(|_, m| (m.timeout_ms, m.grace_ms) = (timeout_ms, grace_ms)).run();
        assert_eq!(ran.passed(), "done\n");
        assert!(!ran.ended().timed_out);
    }
}

#[test]
fn whatever_it_does_sigkill_comes_after_timeout_and_grace() {
    for (what, script) in STUBBORN {
        let fixture = Fixture::python(script).with(|w, m| {
            (m.timeout_ms, m.grace_ms) = (700, 300);
            w.limits.pids = Some(60);
        });
        let start = Instant::now();
        let ran = fixture.run();
        let took = start.elapsed();
        assert!(ran.ended().timed_out && ran.ended().killed, "{what}: {:?}", ran.ended());
        assert_eq!(ran.ended().signal, libc::SIGKILL, "{what}");
        assert!(took < Duration::from_millis(700 + 300 + 1000 + 1000), "{what}: {took:?}");
    }
}

#[test]
fn what_a_command_leaves_behind_is_named_and_ended() {
    let start = Instant::now();
    let ran = Fixture::python(
        "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  os.execvp('sleep', ['sleep', '77'])\n os._exit(0)\nos.wait()\ntime.sleep(.2)",
    )
    .run();
    assert_eq!((ran.ended().code, ran.ended().signal), (0, 0));
    let survivors = &ran.ended().survivors;
    assert_eq!(survivors.len(), 1, "{survivors:?}");
    assert!(survivors[0].ends_with(" sleep 77"), "{survivors:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn cancel_asks_and_kill_does_not() {
    let once = |what: fn() -> ToAgent| {
        Fixture::sh("trap 'exit 4' TERM; echo go; sleep 60 & wait").run_with(|frame, ask| {
            if matches!(frame, Frame::Output { .. }) {
                ask.try_send(what()).unwrap();
            }
        })
    };
    let ran = once(|| ToAgent::Cancel {});
    assert!(ran.ended().cancelled && !ran.ended().timed_out && !ran.ended().killed);
    assert_eq!(ran.ended().code, 4);
    let ran = once(|| ToAgent::Kill {});
    assert!(ran.ended().cancelled && !ran.ended().timed_out && ran.ended().killed);
    assert_eq!(ran.ended().signal, libc::SIGKILL);
}

#[test]
fn a_pause_stops_the_command_and_its_timer_and_resume_lets_both_go_on() {
    let script = "i=0; while [ $i -lt 6 ]; do echo $i; i=$((i+1)); sleep .1; done";
    let fixture = Fixture::sh(script).with(|_, m| m.timeout_ms = 1500);
    let mut resume_at = None;
    let ran = fixture.run_with(|frame, ask| match frame {
        Frame::Output { .. } if resume_at.is_none() => ask.try_send(ToAgent::Pause {}).unwrap(),
        Frame::Paused { paused: true } => {
            // Longer than the whole timeout.
            resume_at = Some(Instant::now() + Duration::from_secs(2));
            let ask = ask.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                ask.send(ToAgent::Resume {}).await.unwrap();
            });
        }
        Frame::Output { .. } => {
            // What was written before the stop may still be on its way.
            let early = resume_at.is_some_and(|at| Instant::now() < at - Duration::from_millis(1900));
            assert!(early || resume_at.is_some_and(|at| Instant::now() >= at), "output during the pause");
        }
        _ => {}
    });
    assert_eq!(ran.passed(), "0\n1\n2\n3\n4\n5\n");
    assert!(!ran.ended().timed_out);
    assert!(ran.ended().wall_ms < 1500, "{} ms", ran.ended().wall_ms);
    assert!(ran.frames.contains(&Frame::Paused { paused: false }));
}

/// What the next test starts: a cell on this process's own standard descriptors.
#[test]
fn a_command_may_have_the_callers_own_descriptors() {
    let fixture = Fixture::sh("echo straight to the caller; echo and here >&2").with(|_, m| m.passthrough = true);
    let ran = fixture.run_in(&firsttry::cell::Namespaces { terminal: true });
    assert_eq!((ran.passed(), ran.error.as_str()), ("", ""));
    assert_eq!(ran.ended().output_total, 0);
}

#[test]
fn passthrough_goes_past_the_frames() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::a_command_may_have_the_callers_own_descriptors"])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("straight to the caller\n"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("and here\n"), "{}", text(&output.stderr));
}

#[test]
fn passthrough_without_a_terminal_that_was_handed_in_is_refused() {
    let ran = Fixture::sh("true").with(|_, m| m.passthrough = true).run();
    assert!(ran.finished().broken.as_ref().is_some_and(|(stage, _)| stage == "exec"));
}

#[test]
fn a_file_that_can_not_be_executed_says_why() {
    for (path, why) in
        [("/etc/passwd", "Permission denied"), ("/ft/work", "Permission denied"), ("/no/such", "No such file")]
    {
        let ran = Fixture::argv(&[path]).run();
        let (stage, message) = ran.finished().broken.clone().unwrap();
        assert_eq!(stage, "exec");
        assert!(message.contains(path) && message.contains(why), "{message}");
    }
    let ran = Fixture::sh("true").with(|_, m| m.cwd = "/ft/nowhere".into()).run();
    assert!(ran.finished().broken.as_ref().is_some_and(|(_, message)| message.contains("/ft/nowhere")));
}
