//! Whom this service calls: the guest inside each sandbox.

pub mod guest;
