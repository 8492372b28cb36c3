//! Client of the guest in each sandbox.

pub mod guest;
