//! The servers Steward stands on, for development and tests: Postgres, Redis and a Docker engine.
//!
//! The user's own are used where the environment names them; private ones are started otherwise, with their data
//! in one directory, and stopped by whoever started them. It knows nothing of Steward's services, so that it
//! builds when they do not: renewing the caches of checked queries begins here.

pub mod docker;
pub mod exec;
pub mod home;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod signals;
pub mod stack;
pub mod terminal;

pub use self::{docker::Engine, home::Home, process::Daemon, signals::StopRequests, stack::Stack};
