//! What goes into an engine and comes out of it in one piece: trees, images, archives of images.
//!
//! A stream that breaks off decides nothing: what the engine has now is asked for afterwards. bollard 0.21 may end a good
//! stream of progress with "bytes remaining on stream", and an engine may end a bad one without a word.

use super::{Engine, EngineError};
use bollard::container::PathStatResponse;
use bollard::models::{BuildInfo, CreateImageInfo, ErrorDetail, ImageInspect};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateImageOptions, DownloadFromContainerOptions, ImportImageOptions,
    UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::io::{self, Read};
use tokio::sync::mpsc;

pub use bollard::auth::DockerCredentials;

/// Pieces in which a body is read and sent, in bytes; a few of them are in memory at a time.
const PIECE: usize = 256 * 1024;

/// One message of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer, by the first digits of its digest; empty for what is about the whole image.
    pub layer: String,
    /// The engine's words: `Downloading`, `Extracting`, `Pull complete`.
    pub phase: String,
    /// Bytes so far.
    pub done: Option<u64>,
    /// Bytes in all, where the engine knows.
    pub total: Option<u64>,
}

impl Engine {
    /// Unpacks a tar at `path` inside a container. The tar must not be compressed (the engine would run the image's own
    /// program to unpack it), `path` must be a directory that is no link, and the container must not have been started:
    /// what runs in it could swap a directory for a link meanwhile.
    ///
    /// # Errors
    /// The tar can't be read here, the engine is lost, or says no.
    pub async fn upload(
        &self,
        container: &str,
        path: &str,
        tar: impl Read + Send + 'static,
    ) -> Result<(), EngineError> {
        let doing = format!("uploading a tree to {path}");
        let options = UploadToContainerOptions { path: path.to_owned(), ..Default::default() };
        let (body, failed) = body(tar);
        let sent = self.patient().upload_to_container(container, Some(options), bollard::body_try_stream(body)).await;
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.sending(&doing, error, &failed)),
        }
    }

    /// What stands at a path of a container that is not started, links on the way followed; none where nothing does, or
    /// where there is no such container.
    ///
    /// # Errors
    /// The engine is lost, or says something else than yes and no.
    pub async fn look(&self, container: &str, path: &str) -> Result<Option<PathStatResponse>, EngineError> {
        let options = ContainerArchiveInfoOptions { path: path.to_owned() };
        let said = self.docker().get_container_archive_info(container, Some(options)).await;
        match said.map_err(|error| self.error("looking at a path of the image", error)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies what stands in a directory of one container to the same directory of another, neither of them started. What is
    /// not there is nothing to copy.
    ///
    /// # Errors
    /// The engine is lost, or says no.
    pub async fn copy(&self, from: &str, to: &str, path: &str) -> Result<(), EngineError> {
        let doing = format!("copying what the image has at {path}");
        if self.look(from, path).await?.is_none() {
            return Ok(());
        }
        // With a dot the tar has the names below the directory, without its own.
        let out = DownloadFromContainerOptions { path: format!("{path}/.") };
        let tar = self.patient().download_from_container(from, Some(out)).map_err(io::Error::other);
        let into = UploadToContainerOptions { path: path.to_owned(), ..Default::default() };
        let sent = self.patient().upload_to_container(to, Some(into), bollard::body_try_stream(tar)).await;
        sent.map_err(|error| self.error(&doing, error))
    }

    /// What the engine knows of an image, by name or id; none where it has no such image.
    ///
    /// # Errors
    /// The engine is lost, or says something else than yes and no.
    pub async fn image(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.docker().inspect_image(name).await.map_err(|error| self.error(&format!("inspecting {name}"), error))
        {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image by `repository@sha256:…`, and says what the engine has then. A stream that breaks off is asked
    /// about, and tried once more; an engine's own no is final.
    ///
    /// # Errors
    /// The reference is no digest, the registry or the engine says no, or nothing is there afterwards.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<DockerCredentials>,
        mut on: impl FnMut(Progress),
    ) -> Result<ImageInspect, EngineError> {
        let doing = format!("pulling {reference}");
        if !reference.rsplit_once('@').is_some_and(|(name, digest)| !name.is_empty() && is_digest(digest)) {
            // Without one, the engine pulls every tag of the repository.
            return Err(self.refused(&doing, "a reference without a digest can be another image tomorrow".to_owned()));
        }
        let mut last = None;
        for _ in 0..2 {
            match self.pull_once(reference, credentials.clone(), &doing, &mut on).await {
                Ok(()) => last = None,
                Err(error @ EngineError::Refused { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
            if let Some(image) = self.image(reference).await? {
                return Ok(image);
            }
        }
        Err(last.unwrap_or_else(|| {
            self.refused(&doing, "the engine says that it is done and does not have the image".to_owned())
        }))
    }

    async fn pull_once(
        &self,
        reference: &str,
        credentials: Option<DockerCredentials>,
        doing: &str,
        on: &mut impl FnMut(Progress),
    ) -> Result<(), EngineError> {
        let options = CreateImageOptions { from_image: Some(reference.to_owned()), ..Default::default() };
        let mut stream = self.patient().create_image(Some(options), None, credentials);
        while let Some(said) = stream.next().await {
            let CreateImageInfo { id, error_detail, status, progress_detail } =
                said.map_err(|error| self.error(doing, error))?;
            self.no_error(doing, error_detail)?;
            let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
            let detail = progress_detail.unwrap_or_default();
            on(Progress {
                layer: id.unwrap_or_default(),
                phase: status.unwrap_or_default(),
                done: bytes(detail.current),
                total: bytes(detail.total).filter(|total| *total > 0),
            });
        }
        Ok(())
    }

    /// Loads an archive of images. Returns what the engine says it has loaded, names or ids: what it *has* is to be
    /// inspected.
    ///
    /// # Errors
    /// The archive can't be read here, the engine is lost, or can't make an image of it.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<String>, EngineError> {
        let doing = "loading an archive of images";
        let (body, failed) = body(archive);
        let options = ImportImageOptions { quiet: true, ..Default::default() };
        let patient = self.patient();
        let mut stream = patient.import_image(options, bollard::body_try_stream(body), None);
        let mut loaded = Vec::new();
        while let Some(said) = stream.next().await {
            let BuildInfo { stream: text, error_detail, .. } = match said {
                Ok(said) => said,
                // The engine has unpacked the archive by the time it speaks.
                Err(bollard::errors::Error::IOError { err }) if !loaded.is_empty() && is_remaining(&err) => break,
                Err(error) => return Err(self.sending(doing, error, &failed)),
            };
            self.no_error(doing, error_detail)?;
            let text = text.unwrap_or_default();
            let name = text.trim().strip_prefix("Loaded image").and_then(|rest| rest.split_once(": "));
            loaded.extend(name.map(|(_, name)| name.trim().to_owned()));
        }
        if loaded.is_empty() {
            return Err(self.refused(doing, "the engine says nothing of an image that it has loaded".to_owned()));
        }
        Ok(loaded)
    }

    /// An image as an archive, in pieces.
    pub fn save(&self, name: &str) -> impl Stream<Item = Result<Bytes, EngineError>> + Unpin + use<> {
        let doing = format!("saving {name}");
        let patient = self.patient();
        let engine = self.clone();
        Box::pin(patient.export_image(name).map(move |piece| piece.map_err(|error| engine.error(&doing, error))))
    }

    fn no_error(&self, doing: &str, detail: Option<ErrorDetail>) -> Result<(), EngineError> {
        match detail {
            Some(detail) => {
                let message = detail.message.unwrap_or_else(|| "an error without words".to_owned());
                Err(self.refused(doing, message))
            }
            None => Ok(()),
        }
    }

    /// An error of a request with a body of ours: where that could not be read, that is what happened.
    fn sending(&self, doing: &str, error: bollard::errors::Error, failed: &Failed) -> EngineError {
        match failed.lock().ok().and_then(|mut failed| failed.take()) {
            Some(own) => EngineError::Unsendable { doing: doing.to_owned(), why: own.to_string() },
            None => self.error(doing, error),
        }
    }
}

/// Why a body of ours broke off.
type Failed = std::sync::Arc<std::sync::Mutex<Option<io::Error>>>;

/// Reads on a thread of its own: files and pipes block.
fn body(mut from: impl Read + Send + 'static) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Failed) {
    let failed = Failed::default();
    let ours = failed.clone();
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match from.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let kind = error.kind();
                    // Before it is known: who gets the one asks for the other.
                    if let Ok(mut failed) = ours.lock() {
                        *failed = Some(error);
                    }
                    let _ = send.blocking_send(Err(kind.into()));
                    return;
                }
            };
            piece.truncate(read);
            // Nobody takes it: the request is over.
            if send.blocking_send(Ok(piece.into())).is_err() {
                return;
            }
        }
    });
    let stream = futures_util::stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
    (stream, failed)
}

/// bollard's decoder, at the end of a stream that was good.
fn is_remaining(error: &io::Error) -> bool {
    error.to_string().contains("bytes remaining on stream")
}

/// `sha256:` and 64 hexadecimal digits.
fn is_digest(text: &str) -> bool {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|rest| rest.len() == 64 && rest.as_bytes().iter().all(hex))
}
