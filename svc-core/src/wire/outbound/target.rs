//! The checks of a URL that need no resolver.

use std::net::IpAddr;

use url::{Host, Url};

use super::Refused;

/// Maximum bytes of a URL. A longer one is refused without being parsed.
const MAX_URL: usize = 2048;

/// A well-formed `http` or `https` URL with a host and without credentials. An IPv4 address that was written
/// in another form (decimal, octal, hexadecimal, short) has been converted to the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Url);

/// Host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer<'a> {
    Address(IpAddr),
    /// A name that needs a resolver.
    Name(&'a str),
}

impl Target {
    /// Parses a URL from a request.
    ///
    /// # Errors
    /// [`Refused::Malformed`] names the problem.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if text.len() > MAX_URL {
            return Err(Refused::Malformed("is too long"));
        }
        // The parser would drop tabs, line ends and surrounding blanks and control characters, so that one
        // URL could be written in several forms.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Refused::Malformed("must not contain blanks"));
        }
        let url = Url::parse(text).map_err(|_| Refused::Malformed("is not an absolute URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Malformed("must start with http:// or https://"));
        }
        if url.host().is_none() {
            return Err(Refused::Malformed("has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Malformed("must not carry credentials"));
        }
        if url.port() == Some(0) {
            return Err(Refused::Malformed("has no usable port"));
        }
        if url.fragment().is_some() {
            return Err(Refused::Malformed("must not have a fragment"));
        }
        Ok(Self(url))
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn peer(&self) -> Option<Peer<'_>> {
        Some(match self.0.host()? {
            Host::Domain(name) => Peer::Name(name),
            Host::Ipv4(address) => Peer::Address(address.into()),
            Host::Ipv6(address) => Peer::Address(address.into()),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())
    }
}
