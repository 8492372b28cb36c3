//! How the domain's enums are stored.

use crate::domain::token::TokenKind;

svc_core::pg_enum!(TokenKind as "token_kind" {
    Admin => "admin",
    Account => "account",
    Enrolment => "enrolment",
    Agent => "agent",
});
