//! The edge to models: one trait, one client per kind of API.
//!
//! [`model_client`] is the seam and says what every client guarantees; [`observed`] adds spans and metrics to
//! any of them; [`breakers`] and [`capabilities`] are what a route is chosen and walked by.

pub mod breakers;
pub mod capabilities;
pub mod demo;
pub mod model_client;
pub mod observed;
pub mod openai;
#[cfg(any(test, feature = "test-util"))]
pub mod scripted;
mod semconv;
mod sse;

#[cfg(test)]
mod contract;
