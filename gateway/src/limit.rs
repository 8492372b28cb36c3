//! What keeps one caller from taking everybody's share: a token bucket a principal, a number of requests in hand,
//! a number of open streams.

pub mod bucket;
pub mod concurrency;
pub mod rate;
