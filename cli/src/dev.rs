//! The development plane: every service on one machine, supervised, on the servers of `steward_stack`.

pub mod clean;
pub mod keys;
pub mod run;
pub mod sandboxes;
pub mod screen;
pub mod supervise;
