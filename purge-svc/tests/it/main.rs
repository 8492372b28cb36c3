//! Tests purge-svc with real Postgres, real Redis, and simulated custodians that are called over sockets.

#[cfg(test)]
mod accept;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod holds;
#[cfg(test)]
mod plane;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod service;
#[cfg(test)]
mod trouble;
