//! The development stack: servers Steward stands on, and later the plane itself, on one machine.

pub mod clean;
pub mod docker;
pub mod exec;
pub mod home;
pub mod keys;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod signals;
pub mod stack;
pub mod supervise;
