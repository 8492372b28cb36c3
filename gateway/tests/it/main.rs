//! Tests the gateway over real sockets: clients connect to its real listener, and it calls a real gRPC
//! server. One file for each behaviour.

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
