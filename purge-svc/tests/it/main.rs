//! purge-svc against real Postgres, real Redis, and simulated owners of data behind real sockets.

#[cfg(test)]
mod accept;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod door;
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
mod trouble;
