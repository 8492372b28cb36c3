//! Inner loops that can run a turn.

pub(crate) mod native;
pub(crate) mod route;
pub(crate) mod tools;

use std::fmt;

use async_trait::async_trait;

use crate::app::{
    ending::Answer,
    run::{Run, RunError},
};

/// One inner loop. It takes a turn from its last committed step to its answer. Everything it writes goes
/// through [`Run`], so a fenced loop writes nothing more.
#[async_trait]
pub(crate) trait TurnBackend: fmt::Debug + Send + Sync {
    /// Runs the turn to its answer.
    async fn run(&self, run: &Run) -> Result<Answer, RunError>;
}
