//! The host's side of a conversation, with a cell that says what it is told to say.

use firsttry::cell::scripted::Scripted;
use firsttry::cell::{CellError, Finished, Walls, Work, run};
use firsttry::frame::{Bytes, Ended, Frame, Manifest, PROTOCOL, Payload, ToAgent};
use firsttry::step::{Limits, Network};
use tokio::sync::mpsc;

fn lead(cell: &Scripted, manifest: Manifest) -> (Result<Finished, CellError>, Vec<Frame>) {
    lead_with(cell, manifest, &[])
}

fn lead_with(cell: &Scripted, manifest: Manifest, asked: &[ToAgent]) -> (Result<Finished, CellError>, Vec<Frame>) {
    let dir = tempfile::tempdir().unwrap();
    let walls = Walls {
        work: Work::Empty,
        mounts: Vec::new(),
        interpreter: None,
        network: Network::Loopback,
        limits: Limits::default(),
        keep: true,
        scratch: dir.path().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ask, control) = mpsc::channel(8);
        for request in asked {
            ask.send(request.clone()).await.unwrap();
        }
        let (send, mut receive) = mpsc::channel(8);
        let tar = dir.path().join("tar");
        let listen = async {
            let mut frames = Vec::new();
            while let Some(frame) = receive.recv().await {
                frames.push(frame);
            }
            frames
        };
        let (result, frames) = tokio::join!(run(cell, &walls, manifest, &tar, control, send), listen);
        drop(ask);
        if result.is_ok() {
            assert_eq!(std::fs::read(&tar).unwrap(), b"tarred");
        }
        (result, frames)
    })
}

fn story() -> Vec<Frame> {
    vec![
        Frame::Hello { protocol: PROTOCOL, version: "0".into() },
        Frame::Ready { observed: vec![] },
        Frame::Started { pid: 2 },
        Frame::Output { stream: 1, bytes: Bytes(b"hello".to_vec()) },
        Frame::Exited { ended: Ended { code: 5, ..Ended::default() } },
        Frame::Tar { bytes: Bytes(b"tar".to_vec()) },
        Frame::Refused { path: "out/x".into(), why: "a socket".into() },
        Frame::Tar { bytes: Bytes(b"red".to_vec()) },
    ]
}

#[test]
fn a_whole_story_gives_a_result_and_passes_on_what_concerns_the_run() {
    let (result, frames) = lead(&Scripted::whole(&story()), Manifest::default());
    let finished = result.unwrap();
    assert_eq!(finished.ended.unwrap().code, 5);
    assert_eq!(finished.refused, [("out/x".to_owned(), "a socket".to_owned())]);
    let story = story();
    assert_eq!(frames, [&story[1..5], &story[6..7]].concat());
}

#[test]
fn a_story_cut_at_any_byte_gives_no_result() {
    let whole: Vec<u8> = story().iter().flat_map(Payload::encode).collect();
    for length in 0..=whole.len() {
        let (result, _) = lead(&Scripted::bytes(whole[..length].to_vec()), Manifest::default());
        let error = result.unwrap_err();
        assert!(matches!(error, CellError::Cut(_) | CellError::Frame(_)), "{length}: {error}");
        assert!(!error.is_unenforceable());
    }
}

#[test]
fn a_story_in_another_order_gives_no_result() {
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] {
        let mut story = story();
        story.swap(a, b);
        let (result, _) = lead(&Scripted::whole(&story), Manifest::default());
        assert!(matches!(result, Err(CellError::Protocol(_))), "{a} and {b}: {result:?}");
    }
}

#[test]
fn walls_that_fell_are_unenforceable_and_a_command_that_did_not_start_is_a_result() {
    let broken = Frame::Broken { stage: "user namespace".into(), message: "EPERM".into() };
    let (result, _) = lead(&Scripted::whole(&[broken]), Manifest::default());
    assert!(result.as_ref().is_err_and(CellError::is_unenforceable), "{result:?}");
}

#[test]
fn a_cell_that_says_nothing_more_is_ended_from_outside() {
    let manifest = Manifest { timeout_ms: 60_000, grace_ms: 5_000, ..Manifest::default() };
    for length in [0, 1, 2, 3, 5, 8] {
        let (result, _) = lead(&Scripted::cut(&story()[..length]).stalled(), manifest.clone());
        assert!(matches!(result, Err(CellError::Stalled { .. })), "{length}: {result:?}");
    }
    // Also one without a timeout, once it was asked to end.
    let (result, _) = lead_with(&Scripted::cut(&story()[..3]).stalled(), Manifest::default(), &[ToAgent::Kill {}]);
    assert!(matches!(result, Err(CellError::Stalled { .. })), "{result:?}");
}

#[test]
fn a_request_does_not_wait_behind_frames_that_nobody_takes() {
    let mut story = story();
    for _ in 0..100 {
        story.insert(4, Frame::Output { stream: 1, bytes: Bytes(b"more".to_vec()) });
    }
    let (cell, dir) = (Scripted::whole(&story), tempfile::tempdir().unwrap());
    let walls = Walls {
        work: Work::Empty,
        mounts: Vec::new(),
        interpreter: None,
        network: Network::Loopback,
        limits: Limits::default(),
        keep: true,
        scratch: dir.path().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ask, control) = mpsc::channel(1);
        let (send, mut receive) = mpsc::channel(1);
        let tar = dir.path().join("tar");
        let listen = async {
            // The first frame fills the channel; from here on the conversation can't hand anything over.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            for _ in 0..3 {
                let asked = tokio::time::timeout(std::time::Duration::from_secs(5), ask.send(ToAgent::Kill {})).await;
                asked.expect("a request waits behind frames").unwrap();
            }
            while receive.recv().await.is_some() {}
        };
        let (result, ()) = tokio::join!(run(&cell, &walls, Manifest::default(), &tar, control, send), listen);
        result.unwrap();
    });
}

#[test]
fn a_manifest_that_no_frame_holds_is_an_error_of_ours_and_not_sent() {
    let manifest = Manifest { env: vec![("BIG".into(), "x".repeat(1 << 20))], ..Manifest::default() };
    let (result, _) = lead(&Scripted::whole(&story()), manifest);
    assert!(
        matches!(result, Err(CellError::Frame(firsttry::frame::FrameError::Length(n))) if n > 1 << 20),
        "{result:?}"
    );
}
