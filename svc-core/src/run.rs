//! A process and what it runs on.

pub mod backoff;
pub mod breaker;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod lifecycle;
pub mod process;
pub mod readiness;
pub mod telemetry;
