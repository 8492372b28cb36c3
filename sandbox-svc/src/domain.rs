//! What a sandbox is and may become: pure, time comes in.

pub mod spec;
