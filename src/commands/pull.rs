//! An image from its registry into the engine, with this user's login, and a line of progress for each layer.

use super::context::Context;
use crate::engine::{self, DockerCredentials, Engine, Where};
use crate::image::identity::Seen;
use crate::image::store::{self, ImageError, Progress};
use crate::lock::image::Reference;
use crate::ui::{self, Transfers};
use std::time::Duration;

/// Pulls what is called so there.
pub(super) async fn pull(context: &Context, engine: &Engine, name: &Reference) -> Result<Seen, ImageError> {
    ui::note(&format!("pulling {name}"));
    let login = login(context, name).await;
    let mut lines = Transfers::new(&context.style);
    let mut report = |progress: Progress<'_>| show(&mut lines, &progress);
    store::pull(engine, name, login, &mut report).await
}

/// Shows how far a layer is.
pub(super) fn show(lines: &mut Transfers, progress: &Progress<'_>) {
    let megabytes = format!("{} {} MB", progress.status, progress.done / 1_000_000);
    lines.show(progress.what, &megabytes, progress.done, progress.total);
}

/// How long the keeper of a login may take. One that waits for somebody to type is not waited for.
const ASKING: Duration = Duration::from_secs(30);

/// What this user logged in with to the registry of an image. One that can't be had is told: the pull goes on without.
async fn login(context: &Context, reference: &Reference) -> Option<DockerCredentials> {
    let places = Where::from_variables(|name| context.vars.text(name));
    let (say, said) = tokio::sync::oneshot::channel();
    let domain = reference.domain.clone();
    // A thread of its own: a runtime would wait at its end for one that never comes back, and then there is nobody to tell.
    std::thread::spawn(move || drop(say.send(engine::login(&places, domain.as_deref()))));
    let answer = match tokio::time::timeout(ASKING, said).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err("it broke off".to_owned())),
        Err(_) => Err(format!("no answer within {} s", ASKING.as_secs())),
    };
    answer.unwrap_or_else(|why| {
        let what = format!("the login to the registry of {reference} can't be read: {why}");
        ui::warning(&what, Some("`docker login` again, if the registry asks for one"));
        None
    })
}
