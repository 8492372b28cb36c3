//! The gateway over real sockets: a real listener in front, a real gRPC server behind, one file a behaviour.

#[cfg(test)]
mod a2a;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod bad_requests;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod process;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod traces;

#[cfg(test)]
mod test_gateway;
#[cfg(test)]
mod upstream;
