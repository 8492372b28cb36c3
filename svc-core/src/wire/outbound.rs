//! Calls to URLs that a user or an agent gave: one policy for all of them.
//!
//! A name is resolved once per connection, every address it has is vetted, and what was vetted is dialled: there
//! is no second look-up for an attacker's name server to answer differently. Redirects are answers, not orders;
//! proxies of the environment are ignored; time and size are bounded. [`Outbound::vet`] is the same judgement
//! without the call, for the moment a URL is stored.
//!
//! An error tells whether the request can have arrived: "sent, no answer" is not "not sent".

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

/// How outbound calls are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundConfig {
    /// What may be dialled: `strict`, `dev` or `saas`.
    pub mode: Mode,
    /// Longest time to resolve a name.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// Longest time to connect, TLS included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest silence while an answer is read.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Longest answer that is read, bytes.
    pub max_answer_bytes: usize,
}

/// Why a URL may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no URL that could be called.
    #[error("URL {0}")]
    Malformed(&'static str),
    /// Its name has no address (now).
    #[error("URL's host does not resolve")]
    Unresolved,
    /// It leads, or could lead, to a network it must not reach.
    #[error("URL's host is not allowed")]
    Forbidden,
}

impl Refused {
    /// What is wrong, to be read after the field's name.
    #[must_use]
    pub fn problem(self) -> &'static str {
        match self {
            Self::Malformed(problem) => problem,
            Self::Unresolved => "has a host that does not resolve",
            Self::Forbidden => "leads to a network that is not allowed",
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy refused it; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No connection came about; nothing was sent.
    #[error("connect")]
    NotSent(#[source] reqwest::Error),
    /// It was or may have been sent; there is no (whole) answer.
    #[error("no answer")]
    NoAnswer(#[source] reqwest::Error),
    /// It was or may have been sent; the time given for it is over.
    #[error("no answer in time")]
    TimedOut,
    /// It was answered with more than is read.
    #[error("answer is longer than {0} bytes")]
    TooLarge(usize),
}

impl Error {
    /// Whether the peer can have seen the request.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Refused(_) | Self::NotSent(_) => false,
            Self::NoAnswer(_) | Self::TimedOut | Self::TooLarge(_) => true,
        }
    }
}

/// A client that has not been built.
#[derive(Debug, thiserror::Error)]
#[error("build the outbound client")]
pub struct BuildError(#[source] reqwest::Error);

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Where to.
    pub target: Target,
    /// Headers; the trace context is added.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Longest time until the answer's last byte.
    pub timeout: Duration,
}

/// An answer, its body read to the end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Calls URLs under the policy. Cheap to clone; connections are shared and reused.
#[derive(Debug, Clone)]
pub struct Outbound {
    vetting: resolve::Vetting,
    client: reqwest::Client,
    max_answer_bytes: usize,
}

impl Outbound {
    /// A client that asks the system's resolver.
    ///
    /// # Errors
    /// [`BuildError`] if TLS cannot be set up.
    pub fn new(config: &OutboundConfig) -> Result<Self, BuildError> {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// A client that asks `resolver`.
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

    /// Judges a URL as it would be judged at a call, and returns it parsed.
    ///
    /// # Errors
    /// [`Refused`] says why it may not be called.
    pub async fn vet(&self, url: &str) -> Result<Target, Refused> {
        let target = Target::parse(url)?;
        match target.peer() {
            Some(Peer::Address(_)) => self.vet_literal(&target)?,
            Some(Peer::Name(name)) => drop(self.vetting.addresses(name).await?),
            None => return Err(Refused::Malformed("has no host")),
        }
        Ok(target)
    }

    /// Makes one call and reads its answer to the end.
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

    /// Sends one request and returns once its answer's head is there; the body is the caller's to read and bound.
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

    /// The connector asks no resolver about an address, so it is vetted here. Names are vetted as they are dialled.
    fn vet_literal(&self, target: &Target) -> Result<(), Refused> {
        match target.peer() {
            Some(Peer::Address(address)) if !allows(self.vetting.mode, address) => Err(Refused::Forbidden),
            Some(Peer::Address(_) | Peer::Name(_)) => Ok(()),
            None => Err(Refused::Malformed("has no host")),
        }
    }
}

fn classify_error(error: reqwest::Error) -> Error {
    // A refusal of the vetting resolver arrives as the cause of a failed connection.
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
