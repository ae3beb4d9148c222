//! Cells whose step is over and recorded, and that are not gone yet.

use crate::cell::Leaving;
use futures_util::future::{BoxFuture, FutureExt, Shared, join_all};
use std::collections::HashMap;

/// The cells that leave, by their step. The run goes on meanwhile; whoever needs what they wrote to, or removes it, waits
/// for them.
#[derive(Debug, Default)]
pub struct Departures {
    by_step: HashMap<String, Shared<BoxFuture<'static, ()>>>,
}

impl Departures {
    /// This step's cell leaves.
    pub fn add(&mut self, step: &str, leaving: Leaving) {
        self.by_step.insert(step.to_owned(), leaving.gone().boxed().shared());
    }

    /// Waits until nothing is left of the cells of these steps.
    pub fn of(&self, steps: &[String]) -> impl Future<Output = ()> + use<> {
        let all: Vec<_> = steps.iter().filter_map(|step| self.by_step.get(step).cloned()).collect();
        join_all(all).map(drop)
    }

    /// Waits until nothing is left of any.
    pub async fn all(self) {
        join_all(self.by_step.into_values()).await;
    }
}
