//! A process and its surroundings.
//!
//! | Module | Content |
//! |---|---|
//! | [`process`] | the steps of every `main` |
//! | [`config`] | configuration from defaults, a file and the environment |
//! | [`lifecycle`] | tasks, loops and shutdown |
//! | [`readiness`] | checks behind the readiness of a service |
//! | [`telemetry`] | traces, metrics and logs |
//! | [`clock`] | wall-clock time |
//! | [`backoff`] | delays that grow |
//! | [`breaker`] | circuit breakers |
//! | [`failpoint`] | points at which tests kill, stop or fail a process |

pub mod backoff;
pub mod breaker;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod lifecycle;
pub mod process;
pub mod readiness;
pub mod telemetry;
