//! The layers around every request, one file each; `stack.rs` puts them in order.

pub mod access_log;
pub mod cors;
pub mod problems;
pub mod request_id;
pub mod trace;
