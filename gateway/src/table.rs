//! The table of everything the HTTP door serves, made once at start from the contract's descriptors.
//!
//! A row says how one HTTP binding reaches one RPC: method and template, where body, path variables and
//! `Last-Event-ID` go, who may call, which service answers, and how its answer is framed. The table is immutable,
//! holds nothing that depends on a request, and has no row that could fail to be served: whatever the gateway
//! cannot do is an [`Error`] here, at start and in the tests, never a surprise at three in the morning.
//! RPCs without `google.api.http` have no row; they are reached over gRPC alone.

mod options;
mod router;
mod sse;
mod template;

use std::{collections::HashSet, fmt, sync::Arc};

use http::{Method, uri::PathAndQuery};
use prost_reflect::{
    DescriptorError, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use svc_core::wire::auth::MethodAuth;

use self::options::{Binding, Options};
pub use self::{
    options::{is_required, rules},
    router::{Matched, NoMatch},
    sse::SseFields,
    template::{Segment, Template},
};

/// Why a contract cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor set does not decode.
    #[error("descriptor set does not decode")]
    Descriptors(#[source] DescriptorError),
    /// The descriptor set lacks an option's definition.
    #[error("contract does not define the option {0}")]
    OptionMissing(&'static str),
    /// A method does not say who may call it.
    #[error("{rpc} has no option (steward.common.v1.auth)")]
    AuthMissing {
        /// The method.
        rpc: String,
    },
    /// An option of a method, or its shape, asks for something that is not served.
    #[error("{rpc}: {problem}")]
    Unservable {
        /// The method.
        rpc: String,
        /// What is wrong.
        problem: String,
    },
    /// Two bindings answer to the same requests.
    #[error("{second} clashes with {first}: both serve {method} {template}")]
    Clash {
        /// The HTTP method.
        method: Method,
        /// The later template.
        template: String,
        /// The method that came first.
        first: String,
        /// The method that came second.
        second: String,
    },
}

/// The fields from a message down to one of its (nested) fields.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldPath(Vec<FieldDescriptor>);

/// Which part of the request message the HTTP body fills.
#[derive(Clone, PartialEq, Eq)]
pub enum BodyRule {
    /// None: the request has no body.
    None,
    /// Every field that the path does not fill.
    Whole,
    /// One field.
    Field(FieldDescriptor),
}

/// How an answer goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One JSON text.
    Json,
    /// Server-sent events.
    Events(SseFields),
}

/// One HTTP binding of one RPC.
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path template.
    pub template: Template,
    /// The RPC.
    pub rpc: MethodDescriptor,
    /// The RPC's path on the wire.
    pub grpc_path: PathAndQuery,
    /// Name of the service that answers, as "chat": the second word of the RPC's package.
    pub upstream: String,
    /// Who may call.
    pub auth: MethodAuth,
    /// What the body fills.
    pub body: BodyRule,
    /// The fields that the template's variables fill, in its order.
    pub variables: Vec<FieldPath>,
    /// How the answer goes out.
    pub answer: Answer,
    /// The field that takes `Last-Event-ID`.
    pub resume: Option<FieldPath>,
}

/// Every route, and the way from a request to its route.
pub struct Table {
    pool: DescriptorPool,
    routes: Vec<Arc<Route>>,
    router: router::Router,
}

impl Table {
    /// The table of an encoded `FileDescriptorSet` (with its custom options).
    ///
    /// # Errors
    /// [`Error`] names the first thing that cannot be served.
    pub fn decode(descriptors: &[u8]) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptors).map_err(Error::Descriptors)?;
        let options = Options::find(&pool).map_err(Error::OptionMissing)?;
        let mut routes = Vec::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let unservable = |problem| Error::Unservable { rpc: rpc.full_name().to_owned(), problem };
            let auth = options.auth(&rpc).map_err(unservable)?;
            // Asked of every method, door or not: a method that anyone might call is a mistake in the contract.
            let auth = auth.ok_or_else(|| Error::AuthMissing { rpc: rpc.full_name().to_owned() })?;
            for binding in options.bindings(&rpc).map_err(unservable)? {
                routes.push(Arc::new(route(&options, &rpc, auth.clone(), binding).map_err(unservable)?));
            }
        }
        let router = router::Router::new(&routes)?;
        Ok(Self { pool, routes, router })
    }

    /// Every route, in the contract's order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The descriptors behind the routes.
    #[must_use]
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The route of a method that the contract gives no door, for one that is written by hand; `None` if the contract
    /// has no such method. It is none of [`Self::routes`].
    ///
    /// # Errors
    /// [`Error`] says why it cannot be served.
    pub fn by_hand(&self, rpc: &str, method: Method, template: &str) -> Result<Option<Arc<Route>>, Error> {
        let (service, name) = rpc.rsplit_once('.').unwrap_or_default();
        let service = self.pool.get_service_by_name(service);
        let Some(rpc) = service.and_then(|service| service.methods().find(|found| found.name() == name))
        else {
            return Ok(None);
        };
        let unservable = |problem| Error::Unservable { rpc: rpc.full_name().to_owned(), problem };
        let options = Options::find(&self.pool).map_err(Error::OptionMissing)?;
        let auth = options.auth(&rpc).map_err(unservable)?;
        let auth = auth.ok_or_else(|| Error::AuthMissing { rpc: rpc.full_name().to_owned() })?;
        let binding = Binding { method, template: template.to_owned(), body: String::new() };
        let route = route(&options, &rpc, auth, binding).map_err(unservable)?;
        Ok(Some(Arc::new(route)))
    }

    /// Names of the services that the routes need.
    #[must_use]
    pub fn upstreams(&self) -> HashSet<&str> {
        self.routes.iter().map(|route| route.upstream.as_str()).collect()
    }

    /// The route of a request, by its method and its path as sent (still percent-encoded).
    ///
    /// # Errors
    /// [`NoMatch`] says whether nothing has this path, or only other methods.
    pub fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Result<Matched<'t, 'p>, NoMatch> {
        self.router.find(&self.routes, method, path)
    }
}

fn route(
    options: &Options,
    rpc: &MethodDescriptor,
    auth: MethodAuth,
    binding: Binding,
) -> Result<Route, String> {
    if rpc.is_client_streaming() {
        return Err("streams from the client, which HTTP does not carry".to_owned());
    }
    let template =
        Template::parse(&binding.template).map_err(|problem| format!("{} {problem}", binding.template))?;
    let input = rpc.input();
    let variables: Vec<_> =
        template.variables().map(|name| variable(&input, name)).collect::<Result<_, _>>()?;
    let body = match binding.body.as_str() {
        "" => BodyRule::None,
        "*" => BodyRule::Whole,
        name => {
            BodyRule::Field(input.get_field_by_name(name).ok_or_else(|| format!("has no body field {name}"))?)
        }
    };
    let package = rpc.parent_service().package_name();
    let upstream =
        package.split('.').nth(1).ok_or_else(|| format!("package {package} names no service"))?.to_owned();
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    Ok(Route {
        grpc_path: path.parse().map_err(|_| format!("{path} is no path"))?,
        answer: match rpc.is_server_streaming() {
            true => Answer::Events(SseFields::find(options, &rpc.output())?),
            false => Answer::Json,
        },
        resume: sse::resume_field(options, rpc)?,
        method: binding.method,
        template,
        rpc: rpc.clone(),
        upstream,
        auth,
        body,
        variables,
    })
}

/// The field that a template's variable fills: one scalar, however deep.
fn variable(input: &MessageDescriptor, name: &str) -> Result<FieldPath, String> {
    let path =
        FieldPath::find(input, name).ok_or_else(|| format!("has no field {name} for its path variable"))?;
    let leaf = path.leaf();
    let scalar = !matches!(leaf.kind(), Kind::Message(_)) && !leaf.is_list() && !leaf.is_map();
    scalar.then_some(path).ok_or_else(|| format!("has a path variable {name} that is no scalar"))
}

impl FieldPath {
    /// The field that a dotted name means, each word a contract or a JSON name. Lists and maps are not entered.
    #[must_use]
    pub fn find(message: &MessageDescriptor, name: &str) -> Option<Self> {
        let mut fields: Vec<FieldDescriptor> = Vec::new();
        for word in name.split('.') {
            let within = match fields.last() {
                None => message.clone(),
                Some(field) if field.is_list() || field.is_map() => return None,
                Some(field) => field.kind().as_message()?.clone(),
            };
            fields.push(field_named(&within, word)?);
        }
        Some(Self(fields))
    }

    /// A path of these fields.
    fn of(fields: &[FieldDescriptor]) -> Self {
        Self(fields.to_vec())
    }

    /// The fields, outermost first; never empty.
    #[must_use]
    pub fn fields(&self) -> &[FieldDescriptor] {
        &self.0
    }

    /// The innermost field.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "a path is made with at least one field and never shortened")]
    pub fn leaf(&self) -> &FieldDescriptor {
        &self.0[self.0.len() - 1]
    }

    /// Dotted JSON name, which is how a caller over HTTP knows the field.
    #[must_use]
    pub fn json_name(&self) -> String {
        self.0.iter().map(FieldDescriptor::json_name).collect::<Vec<_>>().join(".")
    }

    /// Whether one path lies within the other (or is the other).
    #[must_use]
    pub fn overlaps(&self, other: &[FieldDescriptor]) -> bool {
        self.0.iter().zip(other).all(|(mine, theirs)| mine.number() == theirs.number())
    }
}

// Descriptors print everything they can reach, which for a message within itself has no end.
impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldPath({})", self.json_name())
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({} {} -> {})", self.method, self.template, self.rpc.full_name())
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.routes).finish()
    }
}

/// A field by its contract or JSON name.
#[must_use]
pub fn field_named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

#[cfg(test)]
mod tests;
