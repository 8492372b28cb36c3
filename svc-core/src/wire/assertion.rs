//! Assertions: signed statements in which one Steward process says to another who makes a call.
//!
//! An assertion is a compact Ed25519 JWS in the metadata key [`METADATA_KEY`]. It is valid for one audience,
//! the called service, and for at most [`MAX_AGE`]. Every process signs with its own key. Every service has
//! the public keys of all processes by key id, and two keys of a process while its key is being replaced. The
//! gateway may state any principal; a service may state only itself, with the tenant for which it acts.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::{
    run::clock::SharedClock,
    wire::principal::{Principal, PrincipalKind},
};

/// Metadata key of an assertion.
pub const METADATA_KEY: &str = "x-steward-principal";

/// Maximum lifetime of an assertion.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// Maximum difference between the clocks of two hosts that is tolerated, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 5;

/// Issuer that may state any principal.
pub const GATEWAY: &str = "gateway";

/// Paths of the files with this process's key and with the public keys of all processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Id of this process's key, by which the trust files of the other processes list it.
    pub key_id: String,
    /// File with this process's private key: base64 of PKCS#8, readable by its owner only.
    pub key_file: PathBuf,
    /// TOML file with the public keys of every process: `[[key]]` of `id`, `issuer`, `public_key` (base64).
    pub trust_file: PathBuf,
}

/// A key file or trust file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file has the wrong form.
    #[error("{path}: {problem}")]
    Malformed {
        path: PathBuf,
        /// Problem of the file, for example `is not base64`, or the TOML parser's message. Displayed
        /// after the path and a colon.
        problem: String,
    },
}

/// An assertion was refused or could not be signed. The caller does not see why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is no JWS, or its algorithm, audience, time or signature is wrong.
    #[error("assertion does not verify")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// The trust file has no key with this id.
    #[error("assertion is signed by an unknown key")]
    UnknownKey,
    /// The issuer may not state this principal, the claim `sub` is not the id of the principal, or the
    /// lifetime is over, not yet begun or too long.
    #[error("assertion {0}")]
    Overreach(&'static str),
    #[error("sign assertion")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: i64,
    exp: i64,
    principal: Principal,
}

/// Signs assertions with the key of this process.
#[derive(Clone)]
pub struct Signer {
    issuer: String,
    key_id: String,
    key: EncodingKey,
    clock: SharedClock,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("issuer", &self.issuer)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Loads the private key of `issuer` (for example "chat-svc", or [`GATEWAY`]).
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read or contains no Ed25519 key.
    pub fn load(issuer: &str, config: &IdentityConfig, clock: SharedClock) -> Result<Self, LoadError> {
        let pkcs8 = decode_base64(&config.key_file, &read(&config.key_file)?)?;
        Self::new(issuer, &config.key_id, &pkcs8, clock)
            .map_err(|problem| LoadError::Malformed { path: config.key_file.clone(), problem })
    }

    /// Builds a signer from a PKCS#8 key.
    ///
    /// # Errors
    /// The problem as text if the bytes are no Ed25519 key.
    pub fn new(issuer: &str, key_id: &str, pkcs8: &[u8], clock: SharedClock) -> Result<Self, String> {
        Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|rejected| format!("is not an Ed25519 key: {rejected}"))?;
        Ok(Self {
            issuer: issuer.to_owned(),
            key_id: key_id.to_owned(),
            key: EncodingKey::from_ed_der(pkcs8),
            clock,
        })
    }

    /// Signs an assertion that states `principal` to the service `audience` (for example "sandbox-svc").
    ///
    /// # Errors
    /// [`Error::Sign`] if the key cannot sign.
    pub fn sign(&self, audience: &str, principal: &Principal) -> Result<String, Error> {
        let now = self.clock.now().timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: audience.to_owned(),
            sub: principal.subject_id.clone(),
            iat: now,
            exp: now + i64::try_from(MAX_AGE.as_secs()).unwrap_or(0),
            principal: principal.clone(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(Error::Sign)
    }

    /// Returns the name under which this process signs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TrustFile {
    key: Vec<TrustedKey>,
}

/// A public key and the process that signs with it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    pub id: String,
    /// Name of the process.
    pub issuer: String,
    /// Raw Ed25519 public key in base64.
    pub public_key: String,
}

/// Verifies assertions that other processes make for this one.
#[derive(Clone)]
pub struct Verifier {
    audience: String,
    keys: HashMap<String, (String, DecodingKey)>,
    clock: SharedClock,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("audience", &self.audience)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Loads the trusted keys for `audience`.
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read or has the wrong form.
    pub fn load(audience: &str, config: &IdentityConfig, clock: SharedClock) -> Result<Self, LoadError> {
        let path = &config.trust_file;
        let malformed = |problem: String| LoadError::Malformed { path: path.clone(), problem };
        let file: TrustFile = toml::from_str(&read(path)?).map_err(|error| malformed(error.to_string()))?;
        Self::new(audience, &file.key, clock).map_err(malformed)
    }

    /// Builds a verifier that trusts `keys`.
    ///
    /// # Errors
    /// A text that names the key that is malformed or listed twice.
    pub fn new(audience: &str, keys: &[TrustedKey], clock: SharedClock) -> Result<Self, String> {
        let mut by_id = HashMap::new();
        for key in keys {
            let raw = BASE64.decode(&key.public_key).ok().filter(|raw| raw.len() == 32);
            let raw = raw.ok_or_else(|| format!("key {} is not base64 of 32 bytes", key.id))?;
            let old = by_id.insert(key.id.clone(), (key.issuer.clone(), DecodingKey::from_ed_der(&raw)));
            if old.is_some() {
                return Err(format!("key {} is there twice", key.id));
            }
        }
        Ok(Self { audience: audience.to_owned(), keys: by_id, clock })
    }

    /// Returns the principal that `token` states.
    ///
    /// # Errors
    /// [`Error`] if the token does not verify for this audience now, or states more than its issuer may.
    pub fn verify(&self, token: &str) -> Result<Principal, Error> {
        let header = jsonwebtoken::decode_header(token).map_err(Error::Invalid)?;
        let (issuer, key) = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(Error::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // The library's check is off, because the times are checked below with this service's clock.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(Error::Invalid)?.claims;

        let now = self.clock.now().timestamp();
        let skew = i64::try_from(CLOCK_SKEW_SECONDS).unwrap_or(0);
        let life = claims.exp - claims.iat;
        if claims.exp + skew <= now {
            return Err(Error::Overreach("has expired"));
        }
        if claims.iat - skew > now || life <= 0 || life.unsigned_abs() > MAX_AGE.as_secs() {
            return Err(Error::Overreach("is from the future or lives too long"));
        }
        if claims.sub != claims.principal.subject_id {
            return Err(Error::Overreach("names two subjects"));
        }
        let itself =
            claims.principal.kind == PrincipalKind::Service && claims.principal.subject_id == *issuer;
        if issuer != GATEWAY && !itself {
            return Err(Error::Overreach("states a principal that its issuer may not state"));
        }
        Ok(claims.principal)
    }
}

/// Generates a key pair. Returns the private key as base64 of PKCS#8, for a key file, and the public key as
/// base64.
///
/// # Errors
/// The problem as text if the operating system gave no random bytes.
pub fn generate_key() -> Result<(String, String), String> {
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| "no randomness".to_owned())?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|rejected| rejected.to_string())?;
    Ok((BASE64.encode(pkcs8.as_ref()), BASE64.encode(pair.public_key().as_ref())))
}

/// Returns the content of a trust file with these keys.
///
/// # Errors
/// An error if a value cannot be written as TOML.
pub fn trust_file(keys: &[TrustedKey]) -> Result<String, toml::ser::Error> {
    toml::to_string(&TrustFile { key: keys.to_vec() })
}

fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

fn decode_base64(path: &Path, text: &str) -> Result<Vec<u8>, LoadError> {
    BASE64
        .decode(text.trim())
        .map_err(|_| LoadError::Malformed { path: path.to_owned(), problem: "is not base64".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::AccountId, run::clock::MockClock};

    struct Pair {
        clock: std::sync::Arc<MockClock>,
        signer: Signer,
        verifier: Verifier,
    }

    fn pair(issuer: &str, audience: &str) -> Pair {
        let clock = MockClock::at(chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        let (private, public_key) = generate_key().unwrap();
        let signer = Signer::new(issuer, "k1", &BASE64.decode(private).unwrap(), clock.clone()).unwrap();
        let key = TrustedKey { id: "k1".to_owned(), issuer: issuer.to_owned(), public_key };
        Pair { verifier: Verifier::new(audience, &[key], clock.clone()).unwrap(), signer, clock }
    }

    #[test]
    fn the_gateway_may_state_any_principal() {
        let pair = pair(GATEWAY, "chat-svc");
        let principal = Principal::account(AccountId::new());
        let token = pair.signer.sign("chat-svc", &principal).unwrap();
        assert_eq!(pair.verifier.verify(&token).unwrap(), principal);
    }

    #[test]
    fn a_service_states_only_itself() {
        let pair = pair("chat-svc", "sandbox-svc");
        let itself = Principal::service("chat-svc", Some(AccountId::new()));
        let token = pair.signer.sign("sandbox-svc", &itself).unwrap();
        assert_eq!(pair.verifier.verify(&token).unwrap(), itself);
        for other in [Principal::service("purge-svc", None), Principal::account(AccountId::new())] {
            let token = pair.signer.sign("sandbox-svc", &other).unwrap();
            assert!(matches!(pair.verifier.verify(&token), Err(Error::Overreach(_))));
        }
    }

    #[test]
    fn an_assertion_is_for_one_audience() {
        let pair = pair(GATEWAY, "chat-svc");
        let token = pair.signer.sign("sandbox-svc", &Principal::account(AccountId::new())).unwrap();
        assert!(matches!(pair.verifier.verify(&token), Err(Error::Invalid(_))));
    }

    #[test]
    fn an_assertion_expires_after_a_minute() {
        let pair = pair(GATEWAY, "chat-svc");
        let token = pair.signer.sign("chat-svc", &Principal::account(AccountId::new())).unwrap();
        pair.clock.advance(Duration::from_secs(64));
        assert!(pair.verifier.verify(&token).is_ok());
        pair.clock.advance(Duration::from_secs(1));
        assert!(matches!(pair.verifier.verify(&token), Err(Error::Overreach("has expired"))));
    }

    #[test]
    fn a_changed_or_foreign_assertion_is_refused() {
        let ours = pair(GATEWAY, "chat-svc");
        let foreign = pair(GATEWAY, "chat-svc");
        let token = foreign.signer.sign("chat-svc", &Principal::account(AccountId::new())).unwrap();
        assert!(ours.verifier.verify(&token).is_err());
        for bad in ["", "a.b.c", "x"] {
            assert!(ours.verifier.verify(bad).is_err());
        }
    }
}
