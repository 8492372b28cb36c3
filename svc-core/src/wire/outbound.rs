//! Calls to URLs that a user or an agent gave, all under one policy.
//!
//! A name is resolved once for each connection, every address of the answer is checked, and a checked address
//! is dialled. The check and the connection so use the same answer, and an attacker's name server cannot give
//! a different one to each. Redirects are returned, not followed; proxies from the environment are ignored;
//! [`Outbound::call`] limits time and size. [`Outbound::vet`] makes the same checks without a call, for the
//! moment a URL is stored.
//!
//! An [`Error`] says whether the request was certainly not sent, or may have arrived.

mod address;
mod resolve;
mod target;

use std::{error::Error as StdError, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

pub use self::{
    address::{Class, Mode, allows, classify},
    resolve::{Resolver, SystemResolver},
    target::{Peer, Target},
};
use crate::run::telemetry;

/// Policy and limits of outbound calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundConfig {
    /// Mode, which determines the networks that may be dialled: `strict`, `dev` or `saas`.
    pub mode: Mode,
    /// Maximum time to resolve a name.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// Maximum time to connect, TLS included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Maximum time between two bytes of an answer.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Maximum bytes of the body of an answer that [`Outbound::call`] reads.
    pub max_answer_bytes: usize,
}

/// A URL that may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The text is not a URL that can be called.
    #[error("URL {0}")]
    Malformed(&'static str),
    /// The resolver returned no address for the name.
    #[error("URL's host does not resolve")]
    Unresolved,
    /// An address of the URL's host is in a network that the mode forbids.
    #[error("URL's host is not allowed")]
    Forbidden,
}

impl Refused {
    /// Returns the problem as the rest of a sentence that begins with the field's name.
    pub fn problem(self) -> &'static str {
        match self {
            Self::Malformed(problem) => problem,
            Self::Unresolved => "has a host that does not resolve",
            Self::Forbidden => "leads to a network that is not allowed",
        }
    }
}

/// A call failed or was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy refused it; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No connection could be made; nothing was sent.
    #[error("connect")]
    NotSent(#[source] reqwest::Error),
    /// The request may have reached the server, but no complete response arrived.
    #[error("no answer")]
    NoAnswer(#[source] reqwest::Error),
    /// The request may have reached the server, but no complete response arrived in time.
    #[error("no answer in time")]
    TimedOut,
    /// The request was sent, but its answer is longer than the limit.
    #[error("answer is longer than {0} bytes")]
    TooLarge(usize),
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("build the outbound client")]
pub struct BuildError(#[source] reqwest::Error);

#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub target: Target,
    /// Headers of the request; [`Outbound::open`] adds the trace context.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Maximum time until [`Outbound::call`] has read the whole answer.
    pub timeout: Duration,
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Makes calls under the policy. Clones are cheap and share their connections.
#[derive(Debug, Clone)]
pub struct Outbound {
    vetting: resolve::Vetting,
    client: reqwest::Client,
    max_answer_bytes: usize,
}

impl Outbound {
    /// Builds a client that uses the operating system's resolver.
    ///
    /// # Errors
    /// [`BuildError`] if TLS cannot be set up.
    pub fn new(config: &OutboundConfig) -> Result<Self, BuildError> {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// Builds a client that uses `resolver`.
    ///
    /// # Errors
    /// [`BuildError`] if TLS cannot be set up.
    pub fn with_resolver(config: &OutboundConfig, resolver: Arc<dyn Resolver>) -> Result<Self, BuildError> {
        let vetting = resolve::Vetting { mode: config.mode, resolver, timeout: config.resolve_timeout };
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(vetting.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.idle_timeout)
            .user_agent(concat!("steward/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(BuildError)?;
        Ok(Self { vetting, client, max_answer_bytes: config.max_answer_bytes })
    }

    /// Makes the checks of a call without calling, and returns the parsed URL.
    ///
    /// # Errors
    /// [`Refused`] says why the URL may not be called.
    pub async fn vet(&self, url: &str) -> Result<Target, Refused> {
        let target = Target::parse(url)?;
        match target.peer() {
            Some(Peer::Address(_)) => self.vet_literal(&target)?,
            Some(Peer::Name(name)) => drop(self.vetting.addresses(name).await?),
            None => return Err(Refused::Malformed("has no host")),
        }
        Ok(target)
    }

    /// Makes one call and reads the whole answer.
    ///
    /// # Errors
    /// [`Error`] says whether the request can have arrived.
    pub async fn call(&self, call: Call) -> Result<Answer, Error> {
        let timeout = call.timeout;
        match tokio::time::timeout(timeout, self.call_untimed(call)).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::TimedOut),
        }
    }

    async fn call_untimed(&self, call: Call) -> Result<Answer, Error> {
        let mut response = self.open(call).await?;
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).unwrap_or(usize::MAX) > self.max_answer_bytes {
            return Err(Error::TooLarge(self.max_answer_bytes));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(classify_error)? {
            if body.len() + chunk.len() > self.max_answer_bytes {
                return Err(Error::TooLarge(self.max_answer_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: body.freeze(),
        })
    }

    /// Sends one request and returns when the head of the answer has arrived. The caller reads the body and
    /// limits its size and time.
    ///
    /// # Errors
    /// [`Error`] says whether the request can have arrived.
    pub async fn open(&self, call: Call) -> Result<reqwest::Response, Error> {
        self.vet_literal(&call.target)?;
        let mut headers = call.headers;
        telemetry::inject(&tracing::Span::current(), &mut headers);
        self.client
            .request(call.method, call.target.url().clone())
            .headers(headers)
            .body(call.body)
            .send()
            .await
            .map_err(classify_error)
    }

    /// Checks a host that is an IP address. reqwest asks the resolver only about names, so names are checked
    /// when they are dialled, but addresses must be checked here.
    fn vet_literal(&self, target: &Target) -> Result<(), Refused> {
        match target.peer() {
            Some(Peer::Address(address)) if !allows(self.vetting.mode, address) => Err(Refused::Forbidden),
            Some(Peer::Address(_) | Peer::Name(_)) => Ok(()),
            None => Err(Refused::Malformed("has no host")),
        }
    }
}

fn classify_error(error: reqwest::Error) -> Error {
    // A refusal by the checking resolver arrives as a cause of the connection's error.
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return Error::Refused(*refused);
        }
        cause = inner.source();
    }
    if error.is_connect() || error.is_builder() {
        Error::NotSent(error)
    } else if error.is_timeout() {
        Error::TimedOut
    } else {
        Error::NoAnswer(error)
    }
}

#[cfg(test)]
mod tests;
