//! registry-svc over real sockets, on a real Postgres and Redis: one file a behaviour.

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
