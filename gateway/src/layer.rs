//! The layers around every request, one file each; `stack.rs` has their order.

pub(crate) mod access_log;
pub(crate) mod cors;
pub(crate) mod problems;
pub(crate) mod request_id;
pub(crate) mod trace;
