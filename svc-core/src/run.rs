//! The parts of a process that do not depend on its service.
//!
//! | Module | Content |
//! |---|---|
//! | [`process`] | the steps of every `main` |
//! | [`config`] | configuration from defaults, a file and the environment |
//! | [`lifecycle`] | tasks, loops and shutdown |
//! | [`readiness`] | checks that a service is ready |
//! | [`telemetry`] | traces, metrics and logs |
//! | [`clock`] | wall-clock time |
//! | [`backoff`] | exponential back-off |
//! | [`breaker`] | circuit breakers |
//! | [`failpoint`] | points at which tests kill, suspend or delay a process |

pub mod backoff;
pub mod breaker;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod lifecycle;
pub mod process;
pub mod readiness;
pub mod telemetry;
