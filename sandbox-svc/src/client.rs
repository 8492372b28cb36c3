//! Whom this service calls: chat-svc about sessions, and the guest inside each sandbox.

pub mod chat;
pub mod guest;
