//! Configuration: built-in defaults, overridden by an optional file, overridden by the environment. An
//! unknown key or a bad value is an error at the start, which names the key, its source and the problem.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::{Env, Format, Toml},
};
use serde::de::DeserializeOwned;

/// A configuration that was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not exist.
    #[error("configuration file {0} does not exist")]
    FileMissing(PathBuf),
    /// A key is unknown, missing or has a bad value. The text names the key and its source.
    #[error("configuration of {service}: {problem}")]
    Refused {
        /// Name of the service.
        service: &'static str,
        problem: String,
    },
}

/// A value that can be parsed but cannot work, alone or together with another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {key} {problem}")]
pub struct Unusable {
    pub key: Cow<'static, str>,
    /// Problem, as the rest of a sentence that begins with the key, for example `must be at least 1`.
    pub problem: Cow<'static, str>,
}

impl Unusable {
    /// Builds the error for `key`.
    pub fn new(key: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// Checks `rules`. A rule is whether it holds, its key, and the problem if it does not hold.
    ///
    /// # Errors
    /// [`Unusable`] for the first rule that does not hold.
    pub fn check(rules: impl IntoIterator<Item = (bool, &'static str, &'static str)>) -> Result<(), Self> {
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            None => Ok(()),
            Some((_, key, problem)) => Err(Self::new(key, problem)),
        }
    }
}

/// Loads the configuration of `service` (for example `chat`): `defaults` (TOML), overridden by `file`,
/// overridden by the variables `STEWARD_<SERVICE>_<KEY>`, with `__` between levels
/// (`STEWARD_CHAT_PG__MAX_CONNECTIONS`).
///
/// # Errors
/// [`Error`] if the file is missing, or a key is unknown, missing or has a bad value.
pub fn load<T: DeserializeOwned>(
    service: &'static str,
    defaults: &str,
    file: Option<&Path>,
) -> Result<T, Error> {
    let mut figment = Figment::new().merge(Toml::string(defaults));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(Error::FileMissing(path.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let prefix = format!("STEWARD_{}_", service.to_uppercase());
    figment
        .merge(Env::prefixed(&prefix).split("__"))
        .extract()
        .map_err(|error| Error::Refused { service, problem: describe(error) })
}

/// Returns the problems, separated by semicolons, each with key, problem and source. A problem may quote the
/// value that was refused, but never a secret: text is never refused where text is expected.
fn describe(error: figment::Error) -> String {
    let lines: Vec<String> = error
        .into_iter()
        .map(|one| {
            let source = one.metadata.as_ref().map_or_else(String::new, |m| format!(" (from {})", m.name));
            match one.path.join(".") {
                key if key.is_empty() => format!("{}{source}", problem(&one.kind)),
                key => format!("{key}: {}{source}", problem(&one.kind)),
            }
        })
        .collect();
    lines.join("; ")
}

fn problem(kind: &Kind) -> String {
    match kind {
        // Does not quote the value, because it may be a secret that consists of digits.
        Kind::InvalidType(
            Actual::Bool(_) | Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_),
            expected,
        ) if expected.contains("string") => {
            format!("expected {expected}: write a number or boolean that is meant as text in double quotes")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        port: u16,
        pg: Pg,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pg {
        #[serde(with = "humantime_serde")]
        lock_timeout: Duration,
    }

    const DEFAULTS: &str = "port = 1\n[pg]\nlock_timeout = '5s'\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_file_overrides_defaults_key_by_key() {
        let file = file("[pg]\nlock_timeout = '90ms'\n");
        let sample: Sample = load("sample", DEFAULTS, Some(file.path())).unwrap();
        assert_eq!((sample.port, sample.pg.lock_timeout), (1, Duration::from_millis(90)));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let file = file("[pg]\nlock_timeuot = '1s'\n");
        let error = load::<Sample>("sample", DEFAULTS, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("lock_timeuot") && error.contains("lock_timeout"), "{error}");
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let file = file("port = 'eighty'\n");
        let error = load::<Sample>("sample", DEFAULTS, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("port") && error.contains("u16"), "{error}");
    }

    #[test]
    fn a_secret_of_digits_is_not_quoted() {
        #[derive(Debug, Deserialize)]
        struct Keyed {
            key: secrecy::SecretString,
        }
        let file = file("key = 4711");
        let error = load::<Keyed>("sample", "", Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("key: expected a string") && !error.contains("4711"), "{error}");
        // The same text in quotes, as a variable of the environment holds it, is accepted.
        std::fs::write(file.path(), "key = \"4711\"").unwrap();
        let keyed: Keyed = load("sample", "", Some(file.path())).unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&keyed.key), "4711");
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = load::<Sample>("sample", DEFAULTS, Some(Path::new("/nowhere/steward.toml"))).unwrap_err();
        assert!(matches!(error, Error::FileMissing(_)));
    }
}
