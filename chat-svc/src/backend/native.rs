//! The native loop: ask a model, run its tools, ask again, until it answers.
//!
//! It starts from what is committed: messages of the turn are its done steps, journaled calls are carried out or
//! resolved, and the step that a lost worker had open is begun anew. Which model is asked, and what a failed
//! call does to what clients saw, is decided by [`Walk`]; what a model said, and for how long it may be silent,
//! by [`Step`]. No model is read while the journal's queue is full, and none is asked inside a transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::StreamExt;
use svc_core::{
    run::{
        breaker::{BreakerPolicy, Verdict},
        failpoint,
    },
    wire::error::Chain,
};
use tracing::Instrument;

use super::{
    TurnBackend,
    route::{self, RouteModel, Routes},
    tools::Toolbox,
};
use crate::{
    app::{
        ending::Answer,
        run::{Loaded, Run, Stop},
    },
    domain::{
        event::{OpenStep, TurnEvent},
        failover::{Failure, Next, RetryPolicy, Shown, Walk},
        message::{self, Message, Role},
        step::{ClockLimits, Clocks, Step, StepError, StepRecord, Usage},
        tool_call::JournaledCall,
        tools,
        turn::FailCause,
    },
    model::{
        breakers::{self, Breakers, Ticket},
        model_client::{ModelError, ModelRequest, ModelStream},
    },
    store::messages::StoredMessage,
};

/// Limits of the loop.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// Instructions above every conversation.
    pub system: Option<String>,
    /// Steps of one turn at most.
    pub max_steps: i32,
    /// How often and how patiently one model is tried.
    pub retry: RetryPolicy,
    /// For how long a model may be silent.
    pub clocks: ClockLimits,
    /// When an upstream is left alone.
    pub breaker: BreakerPolicy,
}

/// The native loop.
#[derive(Debug)]
pub struct Native {
    config: NativeConfig,
    routes: Routes,
    breakers: Arc<dyn Breakers>,
    toolbox: Option<Toolbox>,
}

/// A step under way: everything that changes from one try to the next.
struct Trying<'a> {
    run: &'a Run,
    models: &'a [RouteModel],
    conversation: &'a [Message],
    number: i32,
    /// What clients see of the step.
    shown: Shown,
    /// That text, for a model that goes on from it.
    kept: String,
    /// The try that came to nothing and is not settled yet.
    lost: Option<Lost>,
}

struct Lost {
    attempt: i32,
    model: String,
    spent: Option<Usage>,
}

/// Why one call came to nothing.
enum CallEnd {
    Failed { failure: Failure, spent: Option<Usage> },
    Stopped(Stop),
}

impl Native {
    /// A loop over these routes; without a toolbox, models are offered no tools.
    #[must_use]
    pub fn new(
        config: NativeConfig,
        routes: Routes,
        breakers: Arc<dyn Breakers>,
        toolbox: Option<Toolbox>,
    ) -> Self {
        Self { config, routes, breakers, toolbox }
    }
}

#[async_trait]
impl TurnBackend for Native {
    async fn run(&self, run: &Run) -> Result<Answer, Stop> {
        let Loaded { history, own, open, route } = run.load().await?;
        let models = self.routes.get(&route).ok_or(FailCause::RouteUnknown)?;
        let mut walk =
            Walk::new(route::candidates(&models), position(&models, &own, &open), self.config.retry);
        let mut conversation = history;
        conversation.extend(own.iter().map(|stored| stored.message.clone()));
        let mut step = own
            .iter()
            .filter(|stored| stored.message.role == Role::Assistant)
            .map(|stored| stored.step)
            .max()
            .unwrap_or(0);
        // A step whose results are not committed is not done.
        if own.last().is_some_and(|last| last.message.tool_calls().next().is_some()) {
            let calls = run.calls(step).await?;
            conversation.push(self.carry_out(run, step, calls).await?);
        }
        let mut left_open = Some(open).filter(|open| open.step == step + 1);
        loop {
            step += 1;
            if step > self.config.max_steps {
                return Err(FailCause::StepLimit.into());
            }
            let whole = message::answered(conversation.clone());
            let (mut trying, first) = Trying::begin(run, &models, &whole, step, left_open.take(), &mut walk);
            let answer = self.take_step(&mut trying, &mut walk, first).await?;
            if answer.message.tool_calls().next().is_none() {
                return Ok(answer);
            }
            let calls = run.commit_step(&answer).await?;
            failpoint::hit("chat.tool.intended").await;
            conversation.push(answer.message);
            conversation.push(self.carry_out(run, step, calls).await?);
        }
    }
}

impl Native {
    async fn carry_out(&self, run: &Run, step: i32, mut calls: Vec<JournaledCall>) -> Result<Message, Stop> {
        for call in &mut calls {
            let span = tracing::info_span!(
                "execute_tool",
                otel.name = format!("execute_tool {}", call.call.name),
                gen_ai.operation.name = "execute_tool",
                gen_ai.tool.name = call.call.name,
                gen_ai.tool.call.id = call.call.id,
                turn.step = step,
            );
            match &self.toolbox {
                Some(toolbox) => toolbox.carry_out(run, call).instrument(span).await?,
                None if call.result.is_some() => {}
                None => {
                    let refused = tools::BadCall::UnknownTool { name: call.call.name.clone() };
                    run.finish_call(call, tools::Outcome::Refused(refused).render()).await?;
                }
            }
        }
        run.commit_results(step, &calls).await
    }

    /// Asks models until one ends its message well.
    async fn take_step(
        &self,
        trying: &mut Trying<'_>,
        walk: &mut Walk,
        mut next: Next,
    ) -> Result<Answer, Stop> {
        loop {
            let candidate = match &next {
                Next::Ask { candidate, .. }
                | Next::Splice { candidate, .. }
                | Next::Reset { candidate, .. } => *candidate,
                Next::GiveUp { primary } => {
                    let spent = trying.lost.take().and_then(|lost| lost.spent);
                    return Err(Stop::Failed { cause: FailCause::Model(*primary), spent });
                }
            };
            let Some(model) = trying.models.get(candidate) else {
                return Err(FailCause::Internal.into());
            };
            // Before anything is shown or waited for: a model that is left alone was never tried.
            let Ok(ticket) = self.breakers.admit(model.client.endpoint()).await else {
                next = walk.refused(trying.shown);
                continue;
            };
            let attempt = match trying.enter(&next, model).await {
                Ok(attempt) => attempt,
                Err(stop) => {
                    self.breakers.record(ticket, Verdict::Nothing).await;
                    return Err(stop);
                }
            };
            match self.call(trying, model, ticket).await {
                Ok(record) => {
                    return Ok(Answer {
                        step: trying.number,
                        attempt,
                        model: model.name.clone(),
                        message: record.message,
                        finish: record.finish,
                        usage: record.usage,
                    });
                }
                Err(CallEnd::Stopped(stop)) => return Err(stop),
                Err(CallEnd::Failed { failure, spent }) => {
                    trying.lost = Some(Lost { attempt, model: model.name.clone(), spent });
                    trying.look().await?;
                    next = walk.failed(failure, trying.shown, rand::random());
                }
            }
        }
    }

    /// One model call, and its outcome told to its breaker.
    async fn call(
        &self,
        trying: &Trying<'_>,
        model: &RouteModel,
        ticket: Ticket,
    ) -> Result<StepRecord, CallEnd> {
        let clocks = Clocks::start(self.config.clocks, trying.run.deadline(), Instant::now());
        let mut step = Step::new(trying.number, trying.kept.clone(), clocks);
        let outcome = self.ask(trying, model, &mut step).await;
        let spent = step.usage();
        let outcome = match outcome {
            Ok(()) => step.end().map_err(CallFailure::Step),
            Err(error) => Err(error),
        };
        let verdict = match &outcome {
            Ok(_) => breakers::verdict(Ok(()), &self.config.breaker),
            Err(CallFailure::Model(error)) => breakers::verdict(Err(error), &self.config.breaker),
            Err(CallFailure::Step(error)) if error.class().is_some() => Verdict::Failure,
            Err(CallFailure::Step(_) | CallFailure::Stopped(_)) => Verdict::Nothing,
        };
        self.breakers.record(ticket, verdict).await;
        outcome.map_err(|failure| {
            let failure = match failure {
                CallFailure::Stopped(stop) => return CallEnd::Stopped(stop),
                CallFailure::Model(error) => {
                    tracing::warn!(error = %Chain(&error), model = model.name, "model call failed");
                    Failure { class: error.class(), retry_after: error.retry_after() }
                }
                CallFailure::Step(error) => {
                    tracing::warn!(error = %Chain(&error), model = model.name, "model call failed");
                    match error.class() {
                        Some(class) => Failure { class, retry_after: None },
                        None => {
                            let cause = FailCause::DeadlineExceeded;
                            return CallEnd::Stopped(Stop::Failed { cause, spent });
                        }
                    }
                }
            };
            CallEnd::Failed { failure, spent }
        })
    }

    /// Reads one model to its end, showing what comes.
    async fn ask(&self, trying: &Trying<'_>, model: &RouteModel, step: &mut Step) -> Result<(), CallFailure> {
        let mut stream = self.start(trying, model, step).await?;
        loop {
            let event = tokio::select! {
                biased;
                stop = trying.run.interrupted() => return Err(CallFailure::Stopped(stop)),
                event = stream.next() => event,
                () = tokio::time::sleep_until(step.poll_timeout().into()) => {
                    match step.fired(Instant::now()) {
                        Some(firing) => return Err(CallFailure::Step(firing.into())),
                        None => continue,
                    }
                }
            };
            let Some(event) = event else { return Ok(()) };
            let event = event.map_err(CallFailure::Model)?;
            if let Some(shown) = step.handle(event, Instant::now()).map_err(CallFailure::Step)? {
                trying.run.show(shown).await.map_err(CallFailure::Stopped)?;
            }
        }
    }

    async fn start(
        &self,
        trying: &Trying<'_>,
        model: &RouteModel,
        step: &Step,
    ) -> Result<ModelStream, CallFailure> {
        let mut messages = trying.conversation.to_vec();
        if !trying.kept.is_empty() {
            messages.push(Message::assistant(trying.kept.clone()));
        }
        let offers_tools = model.tools && self.toolbox.is_some();
        let request = ModelRequest {
            model: model.id.clone(),
            system: self.config.system.clone(),
            messages,
            tools: if offers_tools { tools::specs() } else { Vec::new() },
            max_output_tokens: model.max_output_tokens,
            conversation_id: Some(trying.run.turn().session_id.to_string()),
        };
        tokio::select! {
            biased;
            stop = trying.run.interrupted() => Err(CallFailure::Stopped(stop)),
            stream = model.client.stream(request) => stream.map_err(CallFailure::Model),
            () = tokio::time::sleep_until(step.poll_timeout().into()) => {
                let after = self.config.clocks.bytes;
                Err(CallFailure::Model(ModelError::NoAnswer { after }))
            }
        }
    }
}

/// Why reading a model ended early.
enum CallFailure {
    Model(ModelError),
    Step(StepError),
    Stopped(Stop),
}

impl<'a> Trying<'a> {
    /// A step begins, or is begun again after a worker was lost.
    fn begin(
        run: &'a Run,
        models: &'a [RouteModel],
        conversation: &'a [Message],
        number: i32,
        open: Option<OpenStep>,
        walk: &mut Walk,
    ) -> (Self, Next) {
        let mut trying = Self {
            run,
            models,
            conversation,
            number,
            shown: Shown::default(),
            kept: String::new(),
            lost: None,
        };
        let Some(open) = open else { return (trying, walk.begin_step()) };
        trying.shown = shown(&open);
        trying.kept.clone_from(&open.text);
        if !(open.voided || open.settled) {
            // Its worker took with it what it cost.
            trying.lost = Some(Lost { attempt: open.attempt, model: open.model, spent: None });
        }
        let next = walk.take_over(open.attempt, trying.shown);
        (trying, next)
    }

    /// Makes the step ready for the next call, as `next` says: settles the try before, shows a reset or a splice,
    /// waits. Returns which try it is.
    async fn enter(&mut self, next: &Next, model: &RouteModel) -> Result<i32, Stop> {
        let (attempt, follow, delay) = match next {
            Next::Ask { attempt, delay, .. } => {
                self.kept.clear();
                (*attempt, None, *delay)
            }
            Next::Reset { attempt, from_seq, cause, .. } => {
                self.kept.clear();
                (*attempt, Some(TurnEvent::reset(*from_seq, *attempt, *cause)), Duration::ZERO)
            }
            Next::Splice { attempt, kept_bytes, cause, .. } => {
                let splice = TurnEvent::Splice {
                    step: self.number,
                    attempt: *attempt,
                    from_model: self.lost.as_ref().map(|lost| lost.model.clone()).unwrap_or_default(),
                    to_model: model.name.clone(),
                    kept_bytes: i64::try_from(*kept_bytes).unwrap_or(i64::MAX),
                    cause: cause.reason().to_owned(),
                };
                (*attempt, Some(splice), Duration::ZERO)
            }
            Next::GiveUp { .. } => return Err(FailCause::Internal.into()),
        };
        let goes_on = matches!(next, Next::Splice { .. });
        if let Some(Lost { attempt: tried, model, spent }) = self.lost.take() {
            self.run.give_up_attempt((self.number, tried), &model, spent, follow).await?;
        }
        if !goes_on {
            self.shown = Shown::default();
            tokio::select! {
                biased;
                stop = self.run.interrupted(), if !delay.is_zero() => return Err(stop),
                () = tokio::time::sleep(delay) => {}
            }
            let started = TurnEvent::StepStarted { step: self.number, attempt, model: model.name.clone() };
            self.run.show(started).await?;
        }
        Ok(attempt)
    }

    /// Reads back what clients have seen of the step.
    async fn look(&mut self) -> Result<(), Stop> {
        let open = self.run.open_step().await?;
        self.shown = shown(&open);
        self.kept = open.text;
        Ok(())
    }
}

fn shown(open: &OpenStep) -> Shown {
    Shown {
        from_seq: open.is_visible().then_some(open.from_seq),
        text_bytes: open.text.len(),
        beyond_text: !open.reasoning.is_empty(),
        // Tools run only after their step is committed.
        tool_effects: false,
    }
}

/// Where the turn stands in its route: at the model that was asked last.
fn position(models: &[RouteModel], own: &[StoredMessage], open: &OpenStep) -> usize {
    let last = own.iter().rev().map(|stored| stored.model.as_str()).find(|model| !model.is_empty());
    let asked = if open.model.is_empty() { last } else { Some(open.model.as_str()) };
    asked.and_then(|name| models.iter().position(|model| model.name == name)).unwrap_or(0)
}
