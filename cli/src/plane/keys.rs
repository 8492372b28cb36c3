//! Keys of a local plane: one Ed25519 pair for each service, and the trust file with every public key.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use steward_stack::Home;
use svc_core::wire::assertion::{TrustedKey, generate_key, trust_file};

/// The directory with the keys.
#[derive(Debug, Clone)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// Returns the home's keys for `issuers`. Makes the pairs that do not exist, and writes the trust file.
    pub fn ensure(home: &Home, issuers: &[&str]) -> Result<Self> {
        let directory = home.directory("keys")?;
        let keys = Self { directory };
        let mut trusted = Vec::new();
        for issuer in issuers {
            let public_file = keys.directory.join(format!("{issuer}.pub"));
            if !(keys.private(issuer).is_file() && public_file.is_file()) {
                let (private, public) = generate_key().map_err(|problem| anyhow!("make a key: {problem}"))?;
                home.write_secret(&format!("keys/{issuer}.key"), &private)?;
                fs::write(&public_file, public)
                    .with_context(|| format!("write {}", public_file.display()))?;
            }
            let public_key = fs::read_to_string(&public_file)?;
            trusted.push(TrustedKey { id: Self::id(issuer), issuer: (*issuer).to_owned(), public_key });
        }
        fs::write(keys.trust(), trust_file(&trusted)?).context("write the trust file")?;
        Ok(keys)
    }

    /// Returns the id of the issuer's key, as the trust file names it.
    pub fn id(issuer: &str) -> String {
        format!("{issuer}-1")
    }

    /// Returns the file with the issuer's private key.
    pub fn private(&self, issuer: &str) -> PathBuf {
        self.directory.join(format!("{issuer}.key"))
    }

    /// Returns the file with the public key of every issuer.
    pub fn trust(&self) -> PathBuf {
        self.directory.join("trust.toml")
    }

    /// Returns the directory that contains every key.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use svc_core::{
        run::clock::SystemClock,
        wire::{
            assertion::{IdentityConfig, Signer, Verifier},
            principal::Principal,
        },
    };

    use super::*;

    #[test]
    fn a_process_verifies_the_assertion_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let identity = |keys: &Keys, issuer: &str| IdentityConfig {
            key_id: Keys::id(issuer),
            key_file: keys.private(issuer),
            trust_file: keys.trust(),
        };
        let keys = Keys::ensure(&home, &["chat-svc", "sandbox-svc"]).unwrap();
        let mode = fs::metadata(keys.private("chat-svc")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // A second start uses the same keys.
        let again = Keys::ensure(&home, &["chat-svc", "sandbox-svc"]).unwrap();
        let signer = Signer::load("chat-svc", &identity(&keys, "chat-svc"), Arc::new(SystemClock)).unwrap();
        let verifier =
            Verifier::load("sandbox-svc", &identity(&again, "sandbox-svc"), Arc::new(SystemClock)).unwrap();
        let token = signer.sign("sandbox-svc", &Principal::service("chat-svc", None)).unwrap();
        verifier.verify(&token).unwrap();
    }
}
