//! One step of a turn: asks the models of the route until one ends its message.
//!
//! [`Walk`] decides which model is asked, and whether the text that clients saw stays valid after a failed
//! call. [`Step`] decides which events and which record follow from the model's answer, and for how long the
//! model may be silent. While the journal's queue is full, the model's stream is not read. No model is asked
//! inside a transaction.

use std::time::Instant;

use futures::StreamExt;
use svc_core::{error::Chain, run::breaker::Verdict};

use super::Native;
use crate::{
    app::{
        ending::Answer,
        run::{Run, RunError},
    },
    backend::route::RouteModel,
    domain::{
        event::{OpenStep, TurnEvent},
        failover::{Failure, Next, Shown, Walk},
        message::Message,
        step::{Clocks, Step, StepError, StepRecord},
        tools,
        turn::FailCause,
        usage::{self, Usage},
    },
    model::{
        breakers::{self, Ticket},
        model_client::{ModelError, ModelRequest, ModelStream},
    },
};

/// The attempts at one step, and the state that the last attempt left.
pub(super) struct Attempt<'a> {
    native: &'a Native,
    run: &'a Run,
    models: &'a [RouteModel],
    conversation: &'a [Message],
    step: i32,
    /// Content of the step that clients see.
    shown: Shown,
    /// The step's visible text, which the next model may continue.
    kept: String,
    /// The failed attempt that is not in the usage ledger yet.
    unsettled: Option<usage::Attempt>,
}

/// Why a model call failed.
enum CallError {
    Model(ModelError),
    Step(StepError),
    /// The run must end; the model did not fail.
    Run(RunError),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        native: &'a Native,
        run: &'a Run,
        models: &'a [RouteModel],
        conversation: &'a [Message],
        step: i32,
    ) -> Self {
        let (shown, kept) = (Shown::default(), String::new());
        Self { native, run, models, conversation, step, shown, kept, unsettled: None }
    }

    /// Returns the first action of a new step, or of the step that the previous worker left `open`.
    pub(super) fn begin(&mut self, open: Option<OpenStep>, walk: &mut Walk) -> Next {
        let Some(open) = open else { return walk.begin_step() };
        self.load_visible(&open);
        if !(open.voided || open.settled) {
            // The previous worker did not record the usage, so it is unknown.
            self.unsettled = Some(self.attempt(open.attempt, open.model, None));
        }
        walk.take_over(open.attempt, self.shown)
    }

    /// Asks models until one ends its message.
    pub(super) async fn run(&mut self, walk: &mut Walk, mut next: Next) -> Result<Answer, RunError> {
        loop {
            let (candidate, attempt) = match next {
                Next::Ask { candidate, attempt, .. }
                | Next::Splice { candidate, attempt, .. }
                | Next::Reset { candidate, attempt, .. } => (candidate, attempt),
                Next::GiveUp { primary } => {
                    let spent = self.unsettled.take().and_then(|attempt| attempt.usage);
                    return Err(RunError::Failed { cause: FailCause::Model(primary), spent });
                }
            };
            let Some(model) = self.models.get(candidate) else {
                return Err(FailCause::Internal.into());
            };
            // The breaker is asked before anything is shown or waited for, because a refused call is not an
            // attempt.
            let Ok(ticket) = self.native.breakers.admit(model.client.endpoint()) else {
                next = walk.refused(self.shown);
                continue;
            };
            if let Err(error) = self.prepare(&next, attempt, model).await {
                self.native.breakers.record(ticket, Verdict::Nothing);
                return Err(error);
            }
            let (outcome, spent) = self.call(model, ticket).await;
            let failure = match outcome {
                Ok(StepRecord { message, usage, finish }) => {
                    let (step, model) = (self.step, model.name.clone());
                    return Ok(Answer { step, attempt, model, message, finish, usage });
                }
                Err(error) => failure(error, model, spent)?,
            };
            self.unsettled = Some(self.attempt(attempt, model.name.clone(), spent));
            self.load_visible(&self.run.open_step().await?);
            next = walk.failed(failure, self.shown, rand::random());
        }
    }

    /// Prepares the next call: records the usage of the failed attempt, shows a reset, a splice or the start
    /// of the step, and waits for the delay.
    async fn prepare(&mut self, next: &Next, attempt: i32, model: &RouteModel) -> Result<(), RunError> {
        let follow = match next {
            Next::Ask { .. } | Next::GiveUp { .. } => None,
            Next::Reset { from_seq, cause, .. } => Some(TurnEvent::reset(*from_seq, attempt, *cause)),
            Next::Splice { kept_bytes, cause, .. } => Some(TurnEvent::Splice {
                step: self.step,
                attempt,
                from_model: self.unsettled.as_ref().map(|last| last.model.clone()).unwrap_or_default(),
                to_model: model.name.clone(),
                kept_bytes: i64::try_from(*kept_bytes).unwrap_or(i64::MAX),
                cause: cause.reason().to_owned(),
            }),
        };
        if let Some(last) = self.unsettled.take() {
            self.run.give_up_attempt(&last, follow).await?;
        }
        if matches!(next, Next::Splice { .. }) {
            return Ok(());
        }
        (self.shown, self.kept) = (Shown::default(), String::new());
        if let Next::Ask { delay, .. } = next
            && !delay.is_zero()
        {
            tokio::select! {
                biased;
                error = self.run.interrupted() => return Err(error),
                () = tokio::time::sleep(*delay) => {}
            }
        }
        self.run.show(TurnEvent::StepStarted { step: self.step, attempt, model: model.name.clone() }).await
    }

    /// Makes one model call and reports its outcome to the breaker. Also returns the usage that the upstream
    /// reported.
    async fn call(
        &self,
        model: &RouteModel,
        ticket: Ticket,
    ) -> (Result<StepRecord, CallError>, Option<Usage>) {
        let clocks = Clocks::start(self.native.config.clocks, self.run.deadline(), Instant::now());
        let mut step = Step::new(self.step, self.kept.clone(), clocks);
        let read = self.read(model, &mut step).await;
        let spent = step.usage();
        let outcome = match read {
            Ok(()) => step.end().map_err(CallError::Step),
            Err(error) => Err(error),
        };
        let verdict = match &outcome {
            Ok(_) => breakers::verdict(Ok(()), &self.native.config.breaker),
            Err(CallError::Model(error)) => breakers::verdict(Err(error), &self.native.config.breaker),
            Err(CallError::Step(error)) if error.class().is_some() => Verdict::Failure,
            Err(CallError::Step(_) | CallError::Run(_)) => Verdict::Nothing,
        };
        self.native.breakers.record(ticket, verdict);
        (outcome, spent)
    }

    /// Reads one model's stream to its end and shows its content.
    async fn read(&self, model: &RouteModel, step: &mut Step) -> Result<(), CallError> {
        let mut stream = self.start(model, step).await?;
        loop {
            let event = tokio::select! {
                biased;
                error = self.run.interrupted() => return Err(CallError::Run(error)),
                event = stream.next() => event,
                () = tokio::time::sleep_until(step.poll_timeout().into()) => {
                    match step.fired(Instant::now()) {
                        Some(firing) => return Err(CallError::Step(firing.into())),
                        None => continue,
                    }
                }
            };
            let Some(event) = event else { return Ok(()) };
            let event = event.map_err(CallError::Model)?;
            if let Some(shown) = step.handle(event, Instant::now()).map_err(CallError::Step)? {
                self.run.show(shown).await.map_err(CallError::Run)?;
            }
        }
    }

    async fn start(&self, model: &RouteModel, step: &Step) -> Result<ModelStream, CallError> {
        let config = &self.native.config;
        let mut messages = self.conversation.to_vec();
        if !self.kept.is_empty() {
            messages.push(Message::assistant(self.kept.clone()));
        }
        let request = ModelRequest {
            model: model.id.clone(),
            system: config.system.clone(),
            messages,
            tools: if model.tools { tools::specs() } else { Vec::new() },
            max_output_tokens: model.max_output_tokens,
            conversation_id: Some(self.run.turn().session_id.to_string()),
        };
        tokio::select! {
            biased;
            error = self.run.interrupted() => Err(CallError::Run(error)),
            stream = model.client.stream(request) => stream.map_err(CallError::Model),
            () = tokio::time::sleep_until(step.poll_timeout().into()) => {
                Err(CallError::Model(ModelError::NoAnswer { after: config.clocks.bytes }))
            }
        }
    }

    /// Loads the content of the step that clients have seen.
    fn load_visible(&mut self, open: &OpenStep) {
        self.shown = Shown {
            from_seq: open.is_visible().then_some(open.from_seq),
            text_bytes: open.text.len(),
            beyond_text: !open.reasoning.is_empty(),
        };
        self.kept.clone_from(&open.text);
    }

    fn attempt(&self, attempt: i32, model: String, usage: Option<Usage>) -> usage::Attempt {
        usage::Attempt::of(self.run.turn(), self.step, attempt, model, usage)
    }
}

/// Returns the failure of a model, for the walk to decide on. Returns an error if the run must end: the
/// turn's deadline has passed, or the worker must stop.
fn failure(error: CallError, model: &RouteModel, spent: Option<Usage>) -> Result<Failure, RunError> {
    match error {
        CallError::Run(error) => Err(error),
        CallError::Model(error) => {
            tracing::warn!(error = %Chain(&error), model = model.name, "model call failed");
            Ok(Failure { class: error.class(), retry_after: error.retry_after() })
        }
        CallError::Step(error) => {
            tracing::warn!(error = %Chain(&error), model = model.name, "model call failed");
            match error.class() {
                Some(class) => Ok(Failure { class, retry_after: None }),
                None => Err(RunError::Failed { cause: FailCause::DeadlineExceeded, spent }),
            }
        }
    }
}
