//! Names of accounts, tokens and agents.

use svc_core::wire::error::Invalid;

/// Maximum characters of a name.
const MAX_NAME: usize = 200;

/// A name: 1 to 200 characters, not only blanks, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// # Errors
    /// [`Invalid`] names `field` and the rule that `text` breaks.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::new(field, "is required"));
        }
        if text.chars().count() > MAX_NAME {
            return Err(Invalid::new(field, "must have at most 200 characters"));
        }
        if text.chars().any(char::is_control) {
            return Err(Invalid::new(field, "must not contain control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_printable() {
        for good in ["a", "Größe 7 – test", &"ä".repeat(200)] {
            assert_eq!(Name::parse("name", good).unwrap().as_str(), good);
        }
        for bad in ["", "   ", "a\nb", "a\0", &"ä".repeat(201)] {
            assert_eq!(Name::parse("name", bad).unwrap_err().field, "name", "{bad:?}");
        }
    }
}
