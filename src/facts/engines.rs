//! Which container engines this user can reach: where the Docker command line would look, and what answers there.

use crate::doctor;
use crate::engine::endpoint::{Address, Disk, Endpoint, named, unnamed};
use crate::engine::{Engine, EngineError, Where};
use futures_util::future::join_all;
use std::time::Duration;

/// How long an engine on this machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long another machine's may take: a login stands before it.
const FAR_PATIENCE: Duration = Duration::from_secs(12);

/// Asks every engine that could be meant what it is. The first one is the one that would be used: the one that somebody
/// named, whether or not it answers; else the first that does.
#[must_use]
pub fn find(places: &Where) -> Vec<doctor::Engine> {
    let (mut found, mut endpoints) = (Vec::new(), Vec::new());
    match named(places, &Disk) {
        Ok(chosen) => endpoints.extend(chosen),
        Err(error) => found.extend(silences(&error)),
    }
    let is_named = !(found.is_empty() && endpoints.is_empty());
    for endpoint in unnamed(places, &Disk) {
        if endpoints.iter().all(|other: &Endpoint| other.address != endpoint.address) {
            endpoints.push(endpoint);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    found.extend(match runtime {
        Ok(runtime) => runtime.block_on(join_all(endpoints.into_iter().map(ask))),
        Err(error) => endpoints.iter().map(|endpoint| silent(endpoint, &error.to_string(), "")).collect(),
    });
    if !is_named {
        found.sort_by_key(|engine| !engine.answers);
    }
    found
}

async fn ask(endpoint: Endpoint) -> doctor::Engine {
    let near = matches!(endpoint.address, Address::Unix(_) | Address::Pipe(_));
    let patience = if near { PATIENCE } else { FAR_PATIENCE };
    match tokio::time::timeout(patience, Engine::at(endpoint.clone())).await {
        Ok(Ok(engine)) => {
            let facts = engine.facts();
            doctor::Engine {
                endpoint: facts.endpoint.clone(),
                from: facts.from.clone(),
                answers: true,
                detail: facts.name(),
                fix: String::new(),
            }
        }
        Ok(Err(error)) => match silences(&error).pop() {
            Some(engine) => engine,
            None => silent(&endpoint, &error.to_string(), &error.hint()),
        },
        Err(_) => {
            let why = format!("no answer within {} s", patience.as_secs());
            silent(&endpoint, &why, "look at the engine's own log")
        }
    }
}

fn silences(error: &EngineError) -> Vec<doctor::Engine> {
    let EngineError::None(silences) = error else { return Vec::new() };
    let silences = silences.iter().map(|silence| doctor::Engine {
        endpoint: silence.endpoint.clone(),
        from: silence.from.clone(),
        answers: false,
        detail: silence.why.clone(),
        fix: silence.fix.clone(),
    });
    silences.collect()
}

fn silent(endpoint: &Endpoint, why: &str, fix: &str) -> doctor::Engine {
    doctor::Engine {
        endpoint: endpoint.address.to_string(),
        from: endpoint.from.clone(),
        answers: false,
        detail: why.to_owned(),
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_engine_that_would_be_used_comes_first_and_a_broken_name_before_all() {
        let dir = tempfile::tempdir().unwrap();
        let host = format!("unix://{}/absent.sock", dir.path().display());
        let found = find(&Where { host: Some(host.clone()), ..Where::default() });
        assert_eq!((found[0].endpoint.as_str(), found[0].from.as_str()), (host.as_str(), "DOCKER_HOST"));
        assert!(!found[0].answers && found[0].detail.contains("No such file") && !found[0].fix.is_empty(), "{found:?}");
        assert_eq!(found[1].from, "default socket");
        let context =
            Where { context: Some("gone".to_owned()), config: Some(dir.path().to_owned()), ..Where::default() };
        let found = find(&context);
        assert_eq!(
            (found[0].from.as_str(), found[0].detail.as_str()),
            ("DOCKER_CONTEXT (gone)", "there is no such context")
        );
        assert_eq!(found[1].from, "default socket");
    }

    #[test]
    fn an_engine_that_hangs_does_not_hold_the_doctor() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("engine.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.map(|mut stream| stream.read_to_end(&mut Vec::new()));
            }
        });
        let host = Some(format!("unix://{}/engine.sock", dir.path().display()));
        let found = find(&Where { host, ..Where::default() });
        assert_eq!((found[0].answers, found[0].detail.as_str()), (false, "no answer within 3 s"));
    }
}
