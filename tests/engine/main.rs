//! The engine's room, against a scripted engine (what no real one can be made to show) and real ones (images made here, a
//! registry of our own, private engines where one must die). An engine is a must: without one these tests fail.

#![cfg(target_os = "linux")]

mod connect;
mod images;
mod leftovers;
#[allow(dead_code, reason = "made for more tests than these")]
mod private;
mod real;
mod script;
mod ssh;
mod streams;

use firsttry::engine::endpoint::{Address, Endpoint};
use firsttry::engine::{Engine, EngineError, Where};
use script::Scripted;

/// Connects as the program does, to a scripted engine.
async fn connect(scripted: &Scripted) -> Result<Engine, EngineError> {
    Engine::connect(&Where { host: Some(scripted.host()), ..Where::default() }).await
}

/// The engine of this machine.
async fn real() -> Engine {
    let address = Address::Unix("/var/run/docker.sock".into());
    Engine::at(Endpoint { address, from: "the tests".into() }).await.expect("a Docker engine on its default socket")
}
