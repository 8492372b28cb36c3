//! The table of HTTP routes, made once at start from the contract's descriptors.
//!
//! A route is one HTTP binding of one RPC: method and path template, the fields that the body, the path
//! variables and `Last-Event-ID` fill, the permitted callers, the service, and the form of the answer. The
//! table is immutable. A binding that the gateway cannot serve is an [`Error`] at start, so that no request
//! can meet it. RPCs without `google.api.http` are not in the table; they are available over gRPC only,
//! except for the relay's RPC, which has a hand-written route (`routes/a2a.rs`).

mod options;
mod router;
mod sse;
mod template;
#[cfg(test)]
pub(crate) mod testing;

use std::{collections::HashSet, fmt, sync::Arc};

use http::{Method, uri::PathAndQuery};
use prost_reflect::{
    DescriptorError, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use svc_core::wire::auth::MethodAuth;

use self::options::{Binding, Options};
pub(crate) use self::{
    options::{is_required, rules},
    router::{Matched, NoMatch},
    sse::SseFields,
    template::Template,
};

/// The reason why a contract cannot be served. `rpc`, `first` and `second` are full names of methods.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("descriptor set does not decode")]
    Descriptors(#[source] DescriptorError),
    /// The descriptor set does not have the definition of an option.
    #[error("contract does not define the option {0}")]
    OptionMissing(&'static str),
    #[error("{rpc} has no option (steward.common.v1.auth)")]
    AuthMissing { rpc: String },
    /// The options or the types of a method need something that the gateway does not implement.
    #[error("{rpc}: {problem}")]
    Unservable { rpc: String, problem: String },
    /// Two bindings match the same requests.
    #[error("{second} clashes with {first}: both serve {method} {template}")]
    Clash { method: Method, template: String, first: String, second: String },
}

/// A path from a message to one of its fields, through nested messages.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<FieldDescriptor>);

/// The part of the request message that the HTTP body fills.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum BodyRule {
    /// The request has no body.
    None,
    /// Every field that the path does not fill.
    Whole,
    Field(FieldDescriptor),
}

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Json,
    Events(SseFields),
}

/// One HTTP binding of one RPC.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) template: Template,
    pub(crate) rpc: MethodDescriptor,
    /// Path of the RPC over gRPC.
    pub(crate) grpc_path: PathAndQuery,
    /// Short name of the service, such as "chat": the second word of the RPC's package.
    pub(crate) upstream: String,
    pub(crate) auth: MethodAuth,
    pub(crate) body: BodyRule,
    /// The fields that the template's variables fill, in the order of the variables.
    pub(crate) variables: Vec<FieldPath>,
    pub(crate) answer: Answer,
    /// The field that `Last-Event-ID` fills.
    pub(crate) resume: Option<FieldPath>,
}

/// Every route of the contract, with a router that finds a request's route.
pub(crate) struct Table {
    pool: DescriptorPool,
    routes: Vec<Arc<Route>>,
    router: router::Router,
}

impl Table {
    /// Makes the table of an encoded `FileDescriptorSet` that contains the custom options.
    pub(crate) fn decode(descriptors: &[u8]) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptors).map_err(Error::Descriptors)?;
        let options = Options::find(&pool).map_err(Error::OptionMissing)?;
        let mut routes = Vec::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            // Every method needs the option, also one without an HTTP binding: otherwise nothing says who may
            // call it.
            let auth = auth(&options, &rpc)?;
            for binding in options.bindings(&rpc).map_err(unservable(&rpc))? {
                let route = route(&options, &rpc, auth.clone(), binding).map_err(unservable(&rpc))?;
                routes.push(Arc::new(route));
            }
        }
        let router = router::Router::new(&routes)?;
        Ok(Self { pool, routes, router })
    }

    /// Returns every route, in the contract's order.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    pub(crate) fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// Makes the route of a method without an HTTP binding, for a hand-written handler; `None` if the
    /// contract does not have the method. The route is not one of [`Self::routes`].
    pub(crate) fn hand_written(
        &self,
        rpc: &str,
        method: Method,
        template: &str,
    ) -> Result<Option<Arc<Route>>, Error> {
        let (service, name) = rpc.rsplit_once('.').unwrap_or_default();
        let service = self.pool.get_service_by_name(service);
        let Some(rpc) = service.and_then(|service| service.methods().find(|found| found.name() == name))
        else {
            return Ok(None);
        };
        let options = Options::find(&self.pool).map_err(Error::OptionMissing)?;
        let binding = Binding { method, template: template.to_owned(), body: String::new() };
        let route = route(&options, &rpc, auth(&options, &rpc)?, binding).map_err(unservable(&rpc))?;
        Ok(Some(Arc::new(route)))
    }

    /// Returns the short names of the services that the routes need.
    pub(crate) fn upstreams(&self) -> HashSet<&str> {
        self.routes.iter().map(|route| route.upstream.as_str()).collect()
    }

    /// Finds the route of a request. `path` is still percent-encoded.
    ///
    /// # Errors
    /// [`NoMatch`]: no route has this path, or only routes of other methods have it.
    pub(crate) fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Result<Matched<'t, 'p>, NoMatch> {
        self.router.find(&self.routes, method, path)
    }
}

fn unservable(rpc: &MethodDescriptor) -> impl Fn(String) -> Error {
    |problem| Error::Unservable { rpc: rpc.full_name().to_owned(), problem }
}

fn auth(options: &Options, rpc: &MethodDescriptor) -> Result<MethodAuth, Error> {
    let auth = options.auth(rpc).map_err(unservable(rpc))?;
    auth.ok_or_else(|| Error::AuthMissing { rpc: rpc.full_name().to_owned() })
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

/// Finds the field that a template's variable fills. It must be a scalar; it may be in a nested message.
fn variable(input: &MessageDescriptor, name: &str) -> Result<FieldPath, String> {
    let path =
        FieldPath::find(input, name).ok_or_else(|| format!("has no field {name} for its path variable"))?;
    let leaf = path.leaf();
    let scalar = !matches!(leaf.kind(), Kind::Message(_)) && !leaf.is_list() && !leaf.is_map();
    scalar.then_some(path).ok_or_else(|| format!("has a path variable {name} that is no scalar"))
}

impl FieldPath {
    /// Finds the field with a dotted name; each word is a contract name or a JSON name. A list or a map can
    /// only be the last word.
    pub(crate) fn find(message: &MessageDescriptor, name: &str) -> Option<Self> {
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

    fn of(fields: &[FieldDescriptor]) -> Self {
        Self(fields.to_vec())
    }

    /// Returns the fields, outermost first; at least one.
    pub(crate) fn fields(&self) -> &[FieldDescriptor] {
        &self.0
    }

    #[expect(clippy::indexing_slicing, reason = "a path is made with at least one field and never shortened")]
    pub(crate) fn leaf(&self) -> &FieldDescriptor {
        &self.0[self.0.len() - 1]
    }

    /// Returns the dotted JSON name, which callers over HTTP use.
    pub(crate) fn json_name(&self) -> String {
        self.0.iter().map(FieldDescriptor::json_name).collect::<Vec<_>>().join(".")
    }

    /// Whether the paths are equal or one is the beginning of the other.
    pub(crate) fn overlaps(&self, other: &[FieldDescriptor]) -> bool {
        self.0.iter().zip(other).all(|(left, right)| left.number() == right.number())
    }
}

// Writes only the path, because the derived output would print every reachable descriptor, without end for a
// recursive message.
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

/// Finds a field by its contract name or its JSON name.
pub(crate) fn field_named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

#[cfg(test)]
mod tests;
