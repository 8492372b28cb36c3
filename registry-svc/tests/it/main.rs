//! Tests registry-svc over real sockets, with a real Postgres and a real Redis.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod custody;
#[cfg(test)]
mod fake_agent;
#[cfg(test)]
mod heartbeats;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod plane;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod schema;
