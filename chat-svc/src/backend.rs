//! The inner loops that can run a turn.

pub mod native;
pub mod route;
pub mod tools;

use std::fmt;

use async_trait::async_trait;

use crate::app::{
    ending::Answer,
    run::{Run, Stop},
};

/// One inner loop. It takes a turn from wherever its last committed step left it to its answer; everything it does
/// on the way goes through [`Run`], so whoever is fenced out writes nothing more.
#[async_trait]
pub trait TurnBackend: fmt::Debug + Send + Sync {
    /// Runs the turn to its answer.
    ///
    /// # Errors
    /// [`Stop`] says why there is none.
    async fn run(&self, run: &Run) -> Result<Answer, Stop>;
}
