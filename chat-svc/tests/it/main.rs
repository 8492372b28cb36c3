//! Tests chat-svc over real sockets, on a real Postgres and Redis. Each file tests one behaviour, except the
//! fixtures `plane` and `sandbox`.

#[cfg(test)]
mod custody;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod plane;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod turns;
