//! The wire: parse, call, map, answer.

pub mod chat;
mod convert;
pub mod stream;

use svc_core::{
    data::idempotency::{Key, Once, RequestHash},
    id::AccountId,
    wire::{
        error::{ServiceError, to_status},
        principal,
    },
};
use tonic::{Request, Status};

use crate::error::Error;

/// The tenant that a request is about.
fn account<T>(request: &Request<T>) -> Result<AccountId, Status> {
    principal::of(request).and_then(|caller| caller.account_id()).map_err(|refused| to_status(&refused))
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
