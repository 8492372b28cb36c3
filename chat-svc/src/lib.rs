//! Sessions, their turns, and the journal of everything a turn showed.

pub mod domain;
pub mod journal;
pub mod model;
pub mod store;
