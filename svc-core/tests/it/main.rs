//! Integration tests of svc-core, one module for each part.

#[cfg(test)]
mod server;
