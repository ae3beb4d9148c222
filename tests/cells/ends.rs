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
const STUBBORN: [(&str, &str); 6] = [
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
        "forks for ever",
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nmain=os.getpid()\nwhile True:\n try:\n  if os.fork()==0 and os.getpid()%3: os._exit(0)\n except OSError: time.sleep(.001)\n if os.getpid()==main: time.sleep(.001)",
    ),
];

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
