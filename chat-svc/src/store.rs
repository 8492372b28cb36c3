//! All SQL of chat-svc. The caller passes in the connection, so it decides what is one transaction. A
//! function filters by tenant if the row's id comes from a client.

pub(crate) mod claims;
pub(crate) mod erasure;
pub(crate) mod events;
pub(crate) mod messages;
pub(crate) mod sessions;
pub(crate) mod stops;
pub(crate) mod tool_calls;
pub(crate) mod turns;
pub(crate) mod usage;

use crate::domain::{
    message::Role,
    session::InputPolicy,
    tool_call::{StopOutcome, ToolCallState},
    turn::TurnStatus,
};

/// This service's migrations; svc-core's common ones come before them.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

svc_core::pg_enum!(TurnStatus as "turn_status" {
    Queued => "queued",
    Running => "running",
    Completed => "completed",
    Failed => "failed",
    Canceled => "canceled",
});
svc_core::pg_enum!(InputPolicy as "input_policy" {
    Queue => "queue",
    Reject => "reject",
    Interrupt => "interrupt",
});
svc_core::pg_enum!(Role as "message_role" { User => "user", Assistant => "assistant", Tool => "tool" });
svc_core::pg_enum!(ToolCallState as "tool_call_state" {
    Intended => "intended",
    Dispatched => "dispatched",
    Finished => "finished",
    InDoubt => "in_doubt",
});
svc_core::pg_enum!(StopOutcome as "call_stop" {
    Ended => "ended",
    NeverRan => "never_ran",
    InDoubt => "in_doubt",
    Unanswered => "unanswered",
});
