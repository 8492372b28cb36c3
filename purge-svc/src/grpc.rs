//! The wire: parse, call, map, answer.

pub mod admin;
mod convert;
pub mod purge;

use svc_core::{
    data::idempotency::{Key, RequestHash},
    wire::{
        error::{ServiceError, to_status},
        principal::{self, Principal},
    },
};
use tonic::{Request, Status};

use crate::{app::jobs::Once, error::Error};

/// The proven caller of a request.
fn caller<T>(request: &Request<T>) -> Result<Principal, Status> {
    principal::of(request).cloned().map_err(status)
}

/// What makes a mutation the same one when it comes again.
fn once<T: prost::Message>(method: &'static str, request: &Request<T>) -> Result<Once, Status> {
    let key = Key::from_metadata(request.metadata()).map_err(status)?;
    Ok(Once { method, key, hash: RequestHash::of(request.get_ref()) })
}

fn status(error: impl Into<Error>) -> Status {
    let error: Error = error.into();
    to_status(&error as &dyn ServiceError)
}
