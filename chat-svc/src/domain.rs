//! Pure types and transitions: callers pass in the time and the ids, functions return decisions. No I/O, no
//! database, no wire types.

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
