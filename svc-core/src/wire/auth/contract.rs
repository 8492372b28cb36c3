//! Reads from the contract which callers each method admits.

use std::{borrow::Cow, collections::HashMap};

use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use super::Error;
use crate::wire::principal::{Principal, PrincipalKind, WireKind};

/// Authorization of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodAuth {
    /// Whether the method needs no credential.
    pub public: bool,
    /// Kinds of principals that may call.
    pub kinds: Vec<PrincipalKind>,
    /// Scope that the credential of a tenant or agent must have; empty if the method needs none.
    pub scope: String,
}

impl MethodAuth {
    /// Checks whether `principal` may call.
    ///
    /// # Errors
    /// [`Error::Denied`] if its kind or scopes do not allow it.
    pub fn admit(&self, principal: &Principal) -> Result<(), Error> {
        if self.public || (self.kinds.contains(&principal.kind) && principal.allows(&self.scope)) {
            Ok(())
        } else {
            Err(Error::Denied(format!("{:?} {}", principal.kind, principal.subject_id)))
        }
    }
}

/// One method of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    pub auth: MethodAuth,
    /// Whether the method answers with a stream.
    pub server_streaming: bool,
}

/// Every method of the contract by its gRPC path (`/steward.chat.v1.ChatService/GetTurn`).
#[derive(Debug, Clone)]
pub struct Methods(HashMap<String, Method>);

/// A contract that does not say for every method who may call it.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The descriptor set does not decode.
    #[error("descriptor set does not decode")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// A method has no auth option, or an incomplete one.
    #[error("{0} has no (steward.common.v1.auth) option")]
    NoAuth(String),
}

impl Methods {
    /// Reads the methods of the contract.
    ///
    /// # Errors
    /// [`ContractError`] if a method has no complete auth option.
    pub fn from_contract() -> Result<Self, ContractError> {
        let pool = DescriptorPool::decode(steward_proto::DESCRIPTORS).map_err(ContractError::Descriptors)?;
        let mut methods = HashMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let auth = method_auth(&pool, &method.options())
                    .ok_or_else(|| ContractError::NoAuth(method.full_name().to_owned()))?;
                let path = format!("/{}/{}", service.full_name(), method.name());
                methods.insert(path, Method { auth, server_streaming: method.is_server_streaming() });
            }
        }
        Ok(Self(methods))
    }

    /// Returns the method at a gRPC path.
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn method_auth(pool: &DescriptorPool, options: &DynamicMessage) -> Option<MethodAuth> {
    let extension = pool.get_extension_by_name("steward.common.v1.auth")?;
    if !options.has_extension(&extension) {
        return None;
    }
    let value = options.get_extension(&extension);
    let auth = value.as_message()?;
    let field = |name: &str| auth.get_field_by_name(name).map(Cow::into_owned);
    let kinds = match field("kinds")? {
        Value::List(kinds) => kinds
            .iter()
            .filter_map(|kind| WireKind::try_from(kind.as_enum_number()?).ok()?.try_into().ok())
            .collect(),
        _ => Vec::new(),
    };
    let auth = MethodAuth {
        public: field("public")?.as_bool()?,
        kinds,
        scope: field("scope")?.as_str()?.to_owned(),
    };
    // An option that admits no kind of caller is incomplete.
    (auth.public || !auth.kinds.is_empty()).then_some(auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AccountId;

    #[test]
    fn every_method_of_the_contract_says_who_may_call_it() {
        let methods = Methods::from_contract().unwrap();
        let run = methods.get("/steward.chat.v1.ChatService/RunTurn").unwrap();
        assert_eq!(run.auth.kinds, [PrincipalKind::Account]);
        assert_eq!(run.auth.scope, "turns:write");
        assert!(run.server_streaming);
        assert!(methods.paths().count() > 30);
    }

    #[test]
    fn kind_and_scope_are_both_needed() {
        let auth = MethodAuth {
            public: false,
            kinds: vec![PrincipalKind::Account],
            scope: "turns:write".to_owned(),
        };
        let mut account = Principal::account(AccountId::new());
        assert!(auth.admit(&account).is_ok());
        account.scopes = vec!["sessions:read".to_owned()];
        assert!(auth.admit(&account).is_err());
        assert!(auth.admit(&Principal::service("chat-svc", None)).is_err());
    }
}
