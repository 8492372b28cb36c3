//! The wire: parse, call, map, answer.

pub mod accounts;
pub mod agents;
pub mod auth;
mod convert;
pub mod heartbeats;
mod json;
pub mod relay;

use svc_core::{
    data::idempotency::{Key, Once, RequestHash},
    wire::{
        auth::Credential,
        error::{ServiceError, to_status},
        principal::{self, Principal, Refused},
    },
};
use tonic::{Request, Status};

use crate::error::Error;

/// The proven caller of a request.
fn caller<T>(request: &Request<T>) -> Result<Principal, Status> {
    principal::of(request).cloned().map_err(|refused| to_status(&refused))
}

/// The credential of a request, to be asked about again while a stream lasts.
fn credential<T>(request: &Request<T>) -> Result<Credential, Status> {
    request.extensions().get().cloned().ok_or_else(|| to_status(&Refused::Missing))
}

/// What makes a mutation the same one when it comes again.
fn once<T: prost::Message>(method: &'static str, request: &Request<T>) -> Result<Once, Status> {
    let key = Key::from_metadata(request.metadata()).map_err(|invalid| to_status(&invalid))?;
    Ok(key.map_or_else(Once::unkeyed, |key| Once::new(method, key, RequestHash::of(request.get_ref()))))
}

fn status(error: impl Into<Error>) -> Status {
    let error: Error = error.into();
    to_status(&error as &dyn ServiceError)
}
