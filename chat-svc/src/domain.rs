//! Pure types and transitions: time and ids come in, decisions go out. No I/O, no database, no wire types.

pub mod failover;
pub mod step;
pub mod tools;
