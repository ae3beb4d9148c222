//! The agents that travel inside this program: static programs for Linux, one for each architecture of cells.
//!
//! A build from source carries the one for its own machine; a release carries all (`build.rs`).

use crate::lock::image::goarch;

/// Each with its architecture; empty where this build has none for it.
static CARRIED: [(&str, &[u8]); 2] =
    [("amd64", include_bytes!(env!("FT_AGENT_AMD64"))), ("arm64", include_bytes!(env!("FT_AGENT_ARM64")))];

/// The architectures that there is an agent for, as images call them, in the order of their names.
#[must_use]
pub fn architectures() -> Vec<&'static str> {
    CARRIED.iter().filter(|(_, agent)| !agent.is_empty()).map(|(name, _)| *name).collect()
}

/// The agent for an architecture, as images call it.
#[must_use]
pub fn agent(architecture: &str) -> Option<&'static [u8]> {
    let found = CARRIED.iter().find(|(name, agent)| *name == architecture && !agent.is_empty());
    found.map(|(_, agent)| *agent)
}

/// The agent for this machine's own architecture.
#[must_use]
pub fn own() -> Option<&'static [u8]> {
    agent(goarch(std::env::consts::ARCH))
}
