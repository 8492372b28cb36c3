//! Models: one trait, and one client per kind of API.
//!
//! [`model_client`] is the trait and says what every client guarantees. [`observed`] adds spans and metrics
//! to any client. [`breakers`] and [`capabilities`] decide which models of a route are asked.

pub(crate) mod breakers;
pub(crate) mod capabilities;
pub(crate) mod demo;
pub(crate) mod model_client;
pub(crate) mod observed;
pub(crate) mod openai;
#[cfg(any(test, feature = "test-util"))]
pub mod scripted;
mod semconv;
mod sse;

#[cfg(test)]
mod contract;
