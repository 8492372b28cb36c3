//! purge-svc against real Postgres, real Redis, and simulated custodians behind real sockets.

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
