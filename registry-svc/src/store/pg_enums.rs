//! How the domain's enums are stored.

use crate::domain::{agent::DeliveryMode, status::Status, token::TokenKind};

svc_core::pg_enum!(TokenKind as "token_kind" {
    Admin => "admin",
    Account => "account",
    Enrolment => "enrolment",
    Agent => "agent",
});
svc_core::pg_enum!(Status as "agent_status" {
    AwaitingAgent => "awaiting_agent",
    Online => "online",
    Degraded => "degraded",
    Offline => "offline",
    Paused => "paused",
    Removed => "removed",
});
svc_core::pg_enum!(DeliveryMode as "delivery_mode" { Push => "push", Poll => "poll" });
