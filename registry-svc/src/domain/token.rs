//! API tokens: their secrets, scopes and holders.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use svc_core::{
    id::{AccountId, AgentId, TokenId},
    wire::{
        auth::TOKEN_PREFIX,
        principal::{EVERY_SCOPE, Principal, PrincipalKind},
    },
};

/// Random bytes of a secret.
pub(crate) const ENTROPY_BYTES: usize = 32;

/// Characters of a secret that are stored as plain text, so that people can tell tokens apart.
const PREFIX: usize = TOKEN_PREFIX.len() + 8;

const ENROLMENT_SCOPES: [&str; 1] = ["agent:register"];

/// Scopes of a registered agent: for its own calls, and for messages to the other agents of its tenant.
const AGENT_SCOPES: [&str; 5] = ["agent:register", "agent:beat", "agents:read", "relay:send", "relay:read"];

/// The kind of a token's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An operator of the plane.
    Admin,
    Account,
    /// An agent that has not registered yet; the token is valid for one registration.
    Enrolment,
    /// An agent that registered.
    Agent,
}

/// The secret of a token. It is shown once and stored as its hash.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub fn from_entropy(entropy: &[u8; ENTROPY_BYTES]) -> Self {
        Self(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(entropy)).into())
    }

    /// Returns the secret as text, to be shown once.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn prefix(&self) -> &str {
        &self.reveal()[..PREFIX]
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.reveal())
    }
}

/// SHA-256 of a secret. The secret is 256 random bits, so no slow hash is needed to protect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The scopes of a token: sorted, without duplicates, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// Returns the scope that allows everything that the kind of token may do.
    pub fn every() -> Self {
        Self(vec![EVERY_SCOPE.to_owned()])
    }

    pub fn of_enrolments() -> Self {
        Self(ENROLMENT_SCOPES.map(str::to_owned).into())
    }

    pub fn of_agents() -> Self {
        Self(AGENT_SCOPES.map(str::to_owned).into())
    }

    /// Returns the scopes of a request, sorted and unique; an empty list means every scope.
    pub fn requested(asked: &[String]) -> Self {
        let scopes: BTreeSet<&String> = asked.iter().collect();
        if scopes.is_empty() || asked.iter().any(|scope| scope == EVERY_SCOPE) {
            return Self::every();
        }
        Self(scopes.into_iter().cloned().collect())
    }

    pub fn from_stored(scopes: Vec<String>) -> Self {
        Self(scopes)
    }

    /// Returns whether a caller may grant all of these scopes.
    pub fn are_within(&self, caller: &Principal) -> bool {
        match caller.kind {
            PrincipalKind::Admin => true,
            PrincipalKind::Account => self.0.iter().all(|scope| caller.allows(scope)),
            PrincipalKind::Agent | PrincipalKind::Service => false,
        }
    }

    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub holder: Holder,
    pub name: String,
    /// First characters of its secret.
    pub prefix: String,
    pub scopes: Scopes,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The holder of a token, with the ids of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Admin,
    Account(AccountId),
    /// An agent that has not registered yet.
    Enrolment(AccountId, AgentId),
    /// An agent that registered.
    Agent(AccountId, AgentId),
}

impl Holder {
    /// Builds the holder from these parts; `None` if the ids do not fit the kind.
    pub fn from_parts(kind: TokenKind, account: Option<AccountId>, agent: Option<AgentId>) -> Option<Self> {
        match (kind, account, agent) {
            (TokenKind::Admin, None, None) => Some(Self::Admin),
            (TokenKind::Account, Some(account), None) => Some(Self::Account(account)),
            (TokenKind::Enrolment, Some(account), Some(agent)) => Some(Self::Enrolment(account, agent)),
            (TokenKind::Agent, Some(account), Some(agent)) => Some(Self::Agent(account, agent)),
            (TokenKind::Admin | TokenKind::Account | TokenKind::Enrolment | TokenKind::Agent, _, _) => None,
        }
    }

    pub fn kind(self) -> TokenKind {
        match self {
            Self::Admin => TokenKind::Admin,
            Self::Account(_) => TokenKind::Account,
            Self::Enrolment(..) => TokenKind::Enrolment,
            Self::Agent(..) => TokenKind::Agent,
        }
    }

    pub fn account(self) -> Option<AccountId> {
        match self {
            Self::Admin => None,
            Self::Account(account) | Self::Enrolment(account, _) | Self::Agent(account, _) => Some(account),
        }
    }

    pub fn agent(self) -> Option<AgentId> {
        match self {
            Self::Admin | Self::Account(_) => None,
            Self::Enrolment(_, agent) | Self::Agent(_, agent) => Some(agent),
        }
    }
}

impl Token {
    /// Returns whether the token is valid at `now`.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }

    pub fn principal(&self) -> Principal {
        let (kind, subject_id) = match self.holder {
            Holder::Admin => (PrincipalKind::Admin, self.id.to_string()),
            Holder::Account(account) => (PrincipalKind::Account, account.to_string()),
            Holder::Enrolment(_, agent) | Holder::Agent(_, agent) => {
                (PrincipalKind::Agent, agent.to_string())
            }
        };
        Principal {
            kind,
            subject_id,
            account_id: self.holder.account(),
            scopes: self.scopes.0.clone(),
            token_id: Some(self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn a_secret_has_256_random_bits_and_a_short_prefix() {
        let secret = Secret::from_entropy(&[7; 32]);
        assert_eq!(secret.reveal().len(), "stw_".len() + 43);
        assert!(secret.reveal().starts_with(secret.prefix()) && secret.prefix().len() == 12);
        assert_eq!(secret.hash(), SecretHash::of(secret.reveal()));
        assert_ne!(secret.hash(), Secret::from_entropy(&[8; 32]).hash());
        assert!(!format!("{secret:?}").contains(&secret.reveal()[12..]));
    }

    #[test]
    fn scopes_are_sorted_and_unique() {
        let parse = |scopes: &[&str]| Scopes::requested(&asked(scopes));
        assert_eq!(parse(&[]), Scopes::every());
        assert_eq!(parse(&["turns:write", "*"]), Scopes::every());
        let both = parse(&["turns:write", "sessions:read", "turns:write"]);
        assert_eq!(both.as_slice(), ["sessions:read", "turns:write"]);
    }

    #[test]
    fn a_caller_grants_only_scopes_of_its_own() {
        let everything = Principal::account(AccountId::new());
        let reader = Principal { scopes: asked(&["sessions:read", "tokens:write"]), ..everything.clone() };
        let admin = Principal { kind: PrincipalKind::Admin, account_id: None, ..everything.clone() };
        let read = Scopes::requested(&asked(&["sessions:read"]));
        let write = Scopes::requested(&asked(&["turns:write"]));
        for (scopes, caller, want) in [
            (&read, &everything, true),
            (&Scopes::every(), &everything, true),
            (&read, &reader, true),
            (&write, &reader, false),
            (&Scopes::every(), &reader, false),
            (&Scopes::every(), &admin, true),
            (&read, &Principal::service("chat-svc", everything.account_id), false),
        ] {
            assert_eq!(scopes.are_within(caller), want, "{scopes:?} {caller:?}");
        }
    }

    #[test]
    fn a_holder_has_exactly_the_ids_of_its_kind() {
        let (account, agent) = (AccountId::new(), AgentId::new());
        for holder in [
            Holder::Admin,
            Holder::Account(account),
            Holder::Enrolment(account, agent),
            Holder::Agent(account, agent),
        ] {
            assert_eq!(Holder::from_parts(holder.kind(), holder.account(), holder.agent()), Some(holder));
        }
        assert_eq!(Holder::from_parts(TokenKind::Admin, Some(account), None), None);
        assert_eq!(Holder::from_parts(TokenKind::Account, None, None), None);
        assert_eq!(Holder::from_parts(TokenKind::Agent, Some(account), None), None);
    }
}
