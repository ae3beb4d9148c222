//! The stream of a container's output, as bollard hands it on: what its decoder makes of frames that are cut, foreign or
//! forged. Who reads such a stream must take every `Console` item for a broken one; these are the reasons.

use crate::connect;
use crate::script::{Reply, Script};
use bollard::container::LogOutput;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{AttachContainerOptions, CreateContainerOptions};
use futures_util::StreamExt;
use std::io::{Read, Write};
use tokio::io::AsyncWriteExt;

/// The items of a stream: `out TEXT`, `console TEXT`, `error`.
async fn items(reply: Reply) -> Vec<String> {
    let scripted = Script::docker("20.10", "1.41", "1.12").on("POST /containers/c/attach", reply).start();
    let engine = connect(&scripted).await.unwrap();
    let options =
        AttachContainerOptions { stream: true, stdout: true, stderr: true, stdin: true, ..Default::default() };
    let attached = engine.docker().attach_container("c", Some(options)).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_default().to_string();
    let output = attached.output.map(|item| match item {
        Ok(LogOutput::StdOut { message }) => format!("out {}", text(&message)),
        Ok(LogOutput::StdErr { message }) => format!("err {}", text(&message)),
        Ok(LogOutput::StdIn { message }) => format!("in {}", text(&message)),
        Ok(LogOutput::Console { message }) => format!("console {}", text(&message)),
        Err(_) => "error".to_owned(),
    });
    output.collect().await
}

#[tokio::test]
async fn whole_frames_come_as_they_were_sent_and_everything_else_as_console() {
    assert_eq!(
        items(Reply::hijack().frame(1, "one").frame(2, "two").frame(1, "")).await,
        ["out one", "err two", "out "]
    );
    // One frame in two pieces is whole.
    let bytes = crate::script::frame(1, b"pieces");
    assert_eq!(items(Reply::hijack().say(&bytes[..5]).say(&bytes[5..])).await, ["out pieces"]);
    for (case, reply, expected) in [
        (
            "cut in the header",
            Reply::hijack().frame(1, "one").say([1, 0, 0]),
            vec!["out one", r"console \u{1}\u{0}\u{0}"],
        ),
        ("cut in the payload", Reply::hijack().say([1, 0, 0, 0, 0, 0, 0, 9]).say("half"), vec!["console half"]),
        (
            "the engine's own error",
            Reply::hijack().frame(3, "log driver\n"),
            vec![r"console \u{3}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{b}log driver\n"],
        ),
        (
            "an error in words, without a frame",
            Reply::hijack().say("Error attaching: x\n"),
            vec![r"console Error attaching: x\n"],
        ),
    ] {
        assert_eq!(items(reply).await, expected, "{case}");
    }
}

#[tokio::test]
async fn a_conversation_over_a_hijacked_stream_goes_both_ways() {
    let reply = Reply::hijack().run(|connection| {
        let mut question = [0; 4];
        connection.read_exact(&mut question).unwrap();
        connection.frame(1, &question).unwrap();
        connection.flush().unwrap();
    });
    let scripted = Script::docker("20.10", "1.41", "1.12").on("POST /containers/c/attach", reply).start();
    let engine = connect(&scripted).await.unwrap();
    let options = AttachContainerOptions { stream: true, stdout: true, stdin: true, ..Default::default() };
    let mut attached = engine.docker().attach_container("c", Some(options)).await.unwrap();
    attached.input.write_all(b"ping").await.unwrap();
    attached.input.flush().await.unwrap();
    let answer = attached.output.next().await.unwrap().unwrap();
    assert_eq!(answer.into_bytes().as_ref(), b"ping");
    assert!(attached.output.next().await.is_none());
}

#[tokio::test]
async fn what_the_engine_discards_of_limits_is_heard() {
    let warning =
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.";
    let created = serde_json::json!({ "Id": "c", "Warnings": [warning] });
    let scripted =
        Script::docker("20.10", "1.41", "1.12").on("POST /containers/create", Reply::json(201, created)).start();
    let engine = connect(&scripted).await.unwrap();
    let body = ContainerCreateBody { image: Some("x".into()), ..Default::default() };
    let created = engine.docker().create_container(None::<CreateContainerOptions>, body).await.unwrap();
    assert_eq!(created.warnings, [warning]);
}
