//! The guest inside each sandbox, as a peer.

pub mod guest;
