//! Other services, as chat-svc calls them.

pub mod sandbox;
