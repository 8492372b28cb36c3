//! Pure types and transitions: time and ids come in, decisions go out. No I/O, no database, no wire types.

pub(crate) mod event;
pub(crate) mod failover;
pub(crate) mod failure;
pub(crate) mod message;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod step;
pub(crate) mod tool_call;
pub(crate) mod tools;
pub(crate) mod turn;
pub(crate) mod usage;
