//! A cell that plays frames from a list, for tests of what leads conversations. Nothing runs in it.

use super::{Cell, CellError, Handle, Live, Walls};
use crate::frame::{Frame, Payload};
use crate::lock::CellKind;
use sha2::{Digest, Sha256};
use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the cell says, whatever it is told.
#[derive(Debug, Clone)]
pub struct Scripted {
    bytes: Vec<u8>,
    stays: bool,
}

impl Scripted {
    /// Says these frames and an `end` that fits them.
    #[must_use]
    pub fn whole(frames: &[Frame]) -> Scripted {
        let mut cell = Scripted::cut(frames);
        let end = Frame::End { frames: frames.len() as u64, sha256: hex::encode(Sha256::digest(&cell.bytes)) };
        cell.bytes.extend(end.encode());
        cell
    }

    /// Says these frames; then its stream ends.
    #[must_use]
    pub fn cut(frames: &[Frame]) -> Scripted {
        Scripted { bytes: frames.iter().flat_map(Payload::encode).collect(), stays: false }
    }

    /// Says these bytes; then its stream ends.
    #[must_use]
    pub fn bytes(bytes: Vec<u8>) -> Scripted {
        Scripted { bytes, stays: false }
    }

    /// The same, but its stream stays open and silent afterwards.
    #[must_use]
    pub fn stalled(mut self) -> Scripted {
        self.stays = true;
        self
    }
}

impl Cell for Scripted {
    fn kind(&self) -> CellKind {
        CellKind::Here
    }

    async fn launch(&self, _: &Walls) -> Result<Live, CellError> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (from, to) = tokio::io::split(ours);
        let Scripted { bytes, stays } = self.clone();
        let task = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(theirs);
            // Takes whatever it is told, so that the host never waits in a write.
            let listen = tokio::spawn(async move {
                let mut sink = [0; 1024];
                while matches!(read.read(&mut sink).await, Ok(1..)) {}
            });
            let _ = write.write_all(&bytes).await;
            if stays {
                std::future::pending::<()>().await;
            }
            let _ = write.shutdown().await;
            listen.abort();
        });
        Ok(Live { to: Box::new(to), from: Box::new(from), errors: None, handle: Box::new(Played(task)) })
    }
}

struct Played(tokio::task::JoinHandle<()>);

impl Handle for Played {
    fn kill(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.abort();
        Box::pin(async {})
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>> {
        Box::pin(async {
            if !self.0.is_finished() {
                let _ = (&mut self.0).await;
            }
            Ok("played".to_owned())
        })
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.0.abort();
    }
}
