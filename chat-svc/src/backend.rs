//! Backends of turns: loops that ask models and execute tools until a turn has its answer.

pub(crate) mod native;
pub(crate) mod route;
pub(crate) mod tools;

use std::fmt;

use async_trait::async_trait;

use crate::app::{
    ending::Answer,
    run::{Run, RunError},
};

/// Runs turns. It continues a turn from its last committed step until its answer. All its writes go through
/// [`Run`], so it writes nothing more once another worker has claimed the turn.
#[async_trait]
pub(crate) trait TurnBackend: fmt::Debug + Send + Sync {
    /// Runs the turn to its answer.
    async fn run(&self, run: &Run) -> Result<Answer, RunError>;
}
