//! The native loop: it asks a model, runs the tools that the model calls, and asks again, until the model
//! answers.
//!
//! It starts from the committed state: the turn's messages are its completed steps, journaled calls are
//! executed or resolved, and the step that the previous worker left open starts again. [`Attempt`] asks
//! models until one step has its answer.

mod attempt;

use async_trait::async_trait;
use svc_core::run::{breaker::BreakerPolicy, failpoint};
use tracing::Instrument;

use self::attempt::Attempt;
use super::{
    TurnBackend,
    route::{self, RouteModel, Routes},
    tools::Toolbox,
};
use crate::{
    app::{
        ending::Answer,
        run::{Loaded, Run, RunError},
    },
    domain::{
        event::OpenStep,
        failover::{RetryPolicy, Walk},
        message::{self, Message, Role, StoredMessage},
        step::ClockLimits,
        tool_call::JournaledCall,
        turn::FailCause,
    },
    model::breakers::Breakers,
};

/// Limits of the loop.
#[derive(Debug, Clone)]
pub(crate) struct NativeConfig {
    /// Instructions above every conversation.
    pub system: Option<String>,
    /// Maximum steps of one turn.
    pub max_steps: i32,
    pub retry: RetryPolicy,
    pub clocks: ClockLimits,
    pub breaker: BreakerPolicy,
}

#[derive(Debug)]
pub(crate) struct Native {
    pub config: NativeConfig,
    pub routes: Routes,
    pub breakers: Breakers,
    pub toolbox: Toolbox,
}

impl Native {
    /// Executes a step's calls in order and commits their results.
    async fn execute(
        &self,
        run: &Run,
        step: i32,
        mut calls: Vec<JournaledCall>,
    ) -> Result<Message, RunError> {
        for call in &mut calls {
            let span = tracing::info_span!(
                "execute_tool",
                otel.name = format!("execute_tool {}", call.call.name),
                gen_ai.operation.name = "execute_tool",
                gen_ai.tool.name = call.call.name,
                gen_ai.tool.call.id = call.call.id,
                turn.step = step,
            );
            self.toolbox.execute(run, call).instrument(span).await?;
        }
        run.commit_results(step, &calls).await
    }
}

#[async_trait]
impl TurnBackend for Native {
    async fn run(&self, run: &Run) -> Result<Answer, RunError> {
        let Loaded { history, own, open, route } = run.load().await?;
        let models = self.routes.get(&route).ok_or(FailCause::RouteUnknown)?;
        let at = position(&models, &own, &open);
        let mut walk = Walk::new(route::candidates(&models), at, self.config.retry);
        let mut conversation = history;
        conversation.extend(own.iter().map(|stored| stored.message.clone()));
        let answered = own.iter().filter(|stored| stored.message.role == Role::Assistant);
        let mut step = answered.map(|stored| stored.step).max().unwrap_or(0);
        // A step with tool calls is complete only with their results, so its calls are executed or resolved
        // first.
        if own.last().is_some_and(|last| last.message.tool_calls().next().is_some()) {
            let calls = run.calls(step).await?;
            conversation.push(self.execute(run, step, calls).await?);
        }
        let mut left_open = Some(open).filter(|open| open.step == step + 1);
        loop {
            step += 1;
            if step > self.config.max_steps {
                return Err(FailCause::StepLimit.into());
            }
            let whole = message::with_all_results(conversation.clone());
            let mut attempt = Attempt::new(self, run, &models, &whole, step);
            let first = attempt.begin(left_open.take(), &mut walk);
            let answer = attempt.run(&mut walk, first).await?;
            if answer.message.tool_calls().next().is_none() {
                return Ok(answer);
            }
            let calls = run.commit_step(&answer).await?;
            failpoint::hit("chat.tool.intended").await;
            conversation.push(answer.message);
            conversation.push(self.execute(run, step, calls).await?);
        }
    }
}

/// Returns the index in `models` of the model that was asked last, or 0.
fn position(models: &[RouteModel], own: &[StoredMessage], open: &OpenStep) -> usize {
    let last = own.iter().rev().map(|stored| stored.model.as_str()).find(|model| !model.is_empty());
    let asked = if open.model.is_empty() { last } else { Some(open.model.as_str()) };
    asked.and_then(|name| models.iter().position(|model| model.name == name)).unwrap_or(0)
}
