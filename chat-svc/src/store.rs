//! All SQL of chat-svc. Every function takes the connection of a transaction that `app` began, writes exactly
//! what it is given, and names the tenant wherever a caller names a row.

pub mod claims;
pub mod erasure;
pub mod events;
pub mod messages;
pub mod sessions;
pub mod stops;
pub mod tool_calls;
pub mod turns;
pub mod usage;

use uuid::Uuid;

use crate::domain::{
    message::Role,
    session::InputPolicy,
    tool_call::{CallStop, ToolCallState},
    turn::TurnStatus,
};

/// This service's migrations; svc-core's common ones come before them.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The part of a listing that a page shows.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// The last item of the page before.
    pub after: Option<Uuid>,
    /// Items of the page.
    pub size: u32,
}

impl Slice {
    /// One row more than the page has: its presence says that there is a next page.
    #[must_use]
    pub const fn limit(&self) -> i64 {
        self.size as i64 + 1
    }
}

svc_core::pg_enum!(TurnStatus as "turn_status" {
    Queued => "queued",
    Running => "running",
    Completed => "completed",
    Failed => "failed",
    Canceled => "canceled",
});
svc_core::pg_enum!(InputPolicy as "input_policy" { Queue => "queue", Reject => "reject", Interrupt => "interrupt" });
svc_core::pg_enum!(Role as "message_role" { User => "user", Assistant => "assistant", Tool => "tool" });
svc_core::pg_enum!(ToolCallState as "tool_call_state" {
    Intended => "intended",
    Dispatched => "dispatched",
    Finished => "finished",
    InDoubt => "in_doubt",
});
svc_core::pg_enum!(CallStop as "call_stop" {
    Ended => "ended",
    NeverRan => "never_ran",
    InDoubt => "in_doubt",
    Unanswered => "unanswered",
});
