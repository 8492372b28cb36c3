//! A model that needs no key and no network, for first steps, tests and benchmarks.
//!
//! It is deterministic: one conversation has one answer, sent word by word. The newest user message decides:
//!
//! | Input | What it does |
//! |---|---|
//! | `run <command>` | calls `shell` with the command, then answers with what came back |
//! | `read <path>` | calls `read_file`, then answers with the content |
//! | `write <path> <text>` | calls `write_file` |
//! | `list [<path>]` | calls `list_files` |
//! | several of these, one a line | makes all calls in one message |
//! | `… then …` between them | makes them one after the other, in steps of their own |
//! | `remember <text>` | acknowledges |
//! | `what did I say?`, `what did I ask before?` | repeats the earlier inputs |
//! | `count to <n>` | counts; with `slowly` one number a second, with `every <k>ms` at that pace |
//! | `think about <text>` | reasons before it answers |
//! | `say <text>` | says exactly that |
//! | `fail [<way>] [after <n> words]` | fails in one of the ways below |
//! | anything else | repeats it and says what it can do |
//!
//! Ways to fail: `cut`, `stall`, `malformed`, `error`, `busy`, `limit`, `reject`, `invalid`, `empty`.
//!
//! A tool that is not offered is not called; the answer says so. Tokens in its usage are words. If a prefill
//! is the beginning of its answer, it sends the rest; after any other prefill it sends its whole answer.

mod script;

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::model_client::{ModelClient, ModelError, ModelEvent, ModelRequest, ModelStream};
use script::{Item, Script};

#[derive(Debug, Clone)]
pub(crate) struct Demo {
    pace: Duration,
}

impl Demo {
    /// `pace` is the pause before every word; zero sends as fast as the client reads.
    pub(crate) const fn new(pace: Duration) -> Self {
        Self { pace }
    }
}

#[async_trait]
impl ModelClient for Demo {
    fn endpoint(&self) -> &str {
        "demo"
    }

    fn provider(&self) -> &str {
        "demo"
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let Script { refusal, items } = Script::of(&request);
        if let Some(refusal) = refusal {
            return Err(refusal.error());
        }
        let pace = self.pace;
        let items = stream::iter(items).then(move |item| async move {
            match item {
                Item::Say(event) => {
                    if matches!(event, ModelEvent::TextDelta(_) | ModelEvent::ReasoningDelta(_)) {
                        wait(pace).await;
                    }
                    Some(Ok(event))
                }
                Item::Wait(delay) => {
                    wait(delay).await;
                    None
                }
                Item::Stall => std::future::pending().await,
                Item::Fail(way) => Some(Err(way.error())),
            }
        });
        Ok(items.filter_map(|item| async move { item }).boxed())
    }
}

/// Waits for `delay`. A zero delay uses no timer, because a timer takes at least a millisecond.
async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests;
