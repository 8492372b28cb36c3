//! svc-core against real peers: one file a behaviour.

#[cfg(test)]
mod server;
