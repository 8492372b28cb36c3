//! Pure types and transitions: time and ids come in, decisions go out. No I/O, no database, no wire types.

pub mod event;
pub mod failover;
pub mod message;
pub mod session;
pub mod step;
pub mod tool_call;
pub mod tools;
pub mod turn;
