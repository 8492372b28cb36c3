//! The wire: parse, call, map, answer.

mod convert;
pub mod sandbox;

use svc_core::wire::{
    error::{ServiceError, to_status},
    principal::{self, Principal},
};
use tonic::{Request, Status};

use crate::error::Error;

/// The proven caller of a request.
fn caller<T>(request: &Request<T>) -> Result<Principal, Status> {
    principal::of(request).cloned().map_err(|refused| to_status(&refused))
}

fn status(error: impl Into<Error>) -> Status {
    let error: Error = error.into();
    to_status(&error as &dyn ServiceError)
}
