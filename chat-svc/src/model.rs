//! The edge to models: one trait, one client per kind of API.

pub mod model_client;
