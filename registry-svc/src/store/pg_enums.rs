//! Binds the domain's enums to enum types of Postgres.

use crate::domain::{
    a2a::Version, agent::DeliveryMode, relay_state::State, status::Status, token::TokenKind,
};

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
svc_core::pg_enum!(State as "relay_state" {
    Queued => "queued",
    Dispatched => "dispatched",
    Delivered => "delivered",
    Failed => "failed",
    Expired => "expired",
    Dropped => "dropped",
});
svc_core::pg_enum!(Version as "a2a_version" { V03 => "0.3", V10 => "1.0" });
