//! Writes the OpenAPI 3.1 document as a pure function of the [`Table`], so it describes every route of the
//! table and no other.
//!
//! Descriptions are the contract's own comments. `gateway/openapi.json` is this document for the current
//! contract; it is committed so that a review shows every change of the HTTP API. A test compares the two.

mod comments;
mod rules;
mod schema;

use http::Method;
use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};
use svc_core::wire::auth::MethodAuth;

use self::{comments::Comments, schema::Schemas};
use crate::{
    headers::{IDEMPOTENCY_KEY, REQUEST_TIMEOUT},
    problem,
    table::{self, Answer, BodyRule, FieldPath, Route, Table},
    transcode::{sse, text},
};

/// Name of the security scheme.
const TOKEN: &str = "token";

/// Conventions that every operation follows.
const CONVENTIONS: &str = "\
Request and response bodies are canonical proto3 JSON: lowerCamelCase names, 64-bit integers as \
strings, enums by name, bytes as base64, times as RFC 3339. A response holds every scalar, list and \
map, also with its default value; a message that is not set is left out. Requests are read strictly: \
an unknown or repeated name is 400. Failures are application/problem+json (RFC 9457). `retryable` \
states whether the same request may succeed later; 429 and 503 always carry Retry-After. A mutation \
with an Idempotency-Key can be repeated safely. Streams are server-sent events. A stream that fails \
ends with an event `problem`; a stream that ends early can be resumed with Last-Event-ID.";

/// Returns the OpenAPI document of everything that the table serves.
pub(crate) fn document(table: &Table) -> Value {
    let comments = Comments::of(table.pool());
    let mut schemas = Schemas::new(table, &comments);
    let mut paths = Map::new();
    let mut services = Vec::new();
    for (index, route) in table.routes().iter().enumerate() {
        let path = route
            .template
            .render(|n, _| route.variables.get(n).map(FieldPath::json_name).unwrap_or_default());
        let before = table.routes().iter().take(index).filter(|earlier| earlier.rpc == route.rpc).count();
        let operation = operation(route, before, &comments, &mut schemas);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(route.method.as_str().to_ascii_lowercase(), operation);
        }
        let service = route.rpc.parent_service().clone();
        if !services.contains(&service) {
            services.push(service);
        }
    }
    let tags: Vec<_> = services
        .iter()
        .map(|service| json!({ "name": service.name(), "description": comments.of_service(service) }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Steward",
            "summary": "The control plane for AI agents",
            "description": CONVENTIONS,
            "version": "v1",
            "license": { "name": "Apache 2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "responses": { "Problem": problem_response() },
            "securitySchemes": {
                TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "stw_…",
                    "description": "An API token. What an operation lists beside it are the scopes it needs.",
                },
            },
        },
    })
}

fn operation(route: &Route, binding: usize, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let rpc = &route.rpc;
    let (service, name) = (rpc.parent_service().name().to_owned(), rpc.name());
    // Adds a number, because one RPC may have several bindings and ids are unique.
    let suffix = if binding == 0 { String::new() } else { format!("_{}", binding + 1) };
    let answer = match &route.answer {
        Answer::Json => json!({
            "description": "The response.",
            "content": { "application/json": { "schema": schemas.message(&rpc.output()) } },
        }),
        Answer::Events(fields) => {
            let part = |path: &Option<FieldPath>| path.as_ref().map(|path| schemas.describe(path.leaf()));
            let parts =
                json!({ "id": part(&fields.id), "event": part(&fields.event), "data": part(&fields.data) });
            json!({
                "description": "Server-sent events, each once, in order. Comments keep the connection alive.",
                "content": { sse::MEDIA_TYPE: { "schema": { "type": "string" }, "x-steward-event": parts } },
            })
        }
    };
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    let mut operation = json!({
        "operationId": format!("{service}_{name}{suffix}"),
        "tags": [service],
        "description": comments.of_method(rpc),
        "parameters": parameters(route, schemas),
        "security": security(&route.auth),
        "responses": { "200": answer, "4XX": problem, "5XX": problem },
    });
    if let Some(body) = body(route, schemas) {
        operation["requestBody"] = body;
    }
    operation
}

fn security(auth: &MethodAuth) -> Value {
    match (auth.public, auth.scope.as_str()) {
        (true, _) => json!([]),
        (false, "") => json!([{ TOKEN: [] }]),
        (false, scope) => json!([{ TOKEN: [scope] }]),
    }
}

fn parameters(route: &Route, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let mut parameters = Vec::new();
    let mut add = |name: &str, place: &str, required: bool, description: String, schema: Value| {
        let mut parameter = json!({ "name": name, "in": place, "required": required, "schema": schema });
        if !description.is_empty() {
            parameter["description"] = description.into();
        }
        parameters.push(parameter);
    };
    for variable in &route.variables {
        let leaf = variable.leaf();
        add(&variable.json_name(), "path", true, schemas.describe(leaf), schemas.input(leaf));
    }
    for path in query_parameters(route) {
        let leaf = path.leaf();
        let required = table::rules(leaf).required();
        add(&path.json_name(), "query", required, schemas.describe(leaf), schemas.input(leaf));
    }
    if let Some(resume) = &route.resume {
        add("Last-Event-ID", "header", false, schemas.describe(resume.leaf()), json!({ "type": "string" }));
    }
    if route.method != Method::GET {
        let description = "Makes the request safe to repeat for a day.";
        let schema = json!({ "type": "string", "pattern": "^[!-~]{1,255}$" });
        add(IDEMPOTENCY_KEY, "header", false, description.to_owned(), schema);
    }
    let description = "Maximum time to wait for the answer, in seconds.";
    let schema = json!({ "type": "number", "exclusiveMinimum": 0 });
    add(REQUEST_TIMEOUT, "header", false, description.to_owned(), schema);
    parameters
}

/// Returns every field that the query may fill, including the fields of single nested messages.
fn query_parameters(route: &Route) -> Vec<FieldPath> {
    let mut found = Vec::new();
    if route.body == BodyRule::Whole {
        return found;
    }
    let mut open = vec![(String::new(), route.rpc.input(), 0)];
    while let Some((above, message, depth)) = open.pop() {
        for field in message.fields() {
            let name = if above.is_empty() {
                field.json_name().to_owned()
            } else {
                format!("{above}.{}", field.json_name())
            };
            let Some(path) = FieldPath::find(&route.rpc.input(), &name) else { continue };
            let taken = route.variables.iter().any(|variable| variable.overlaps(path.fields()))
                || matches!(&route.body, BodyRule::Field(body) if path.overlaps(std::slice::from_ref(body)));
            match field.kind().as_message() {
                _ if taken => {}
                _ if text::is_text(&field) && !field.is_map() => found.push(path),
                // Deeper fields may be used too, but are not listed, because a message that contains itself
                // has no end of them.
                Some(inner) if !field.is_list() && !field.is_map() && depth < 2 => {
                    open.push((name, inner.clone(), depth + 1));
                }
                _ => {}
            }
        }
    }
    found
}

fn body(route: &Route, schemas: &mut Schemas<'_>) -> Option<Value> {
    let schema = match &route.body {
        BodyRule::None => return None,
        BodyRule::Whole if route.variables.is_empty() => schemas.message(&route.rpc.input()),
        BodyRule::Whole => schemas.message_without(&route.rpc.input(), &route.variables),
        BodyRule::Field(field) => schemas.input(field),
    };
    // A body is optional if it has no required field besides those that the path fills.
    let by_path = |field: &FieldDescriptor| route.variables.iter().any(|v| v.fields().first() == Some(field));
    let required = match &route.body {
        BodyRule::None => false,
        BodyRule::Whole => {
            route.rpc.input().fields().any(|field| table::rules(&field).required() && !by_path(&field))
        }
        BodyRule::Field(field) => table::rules(field).required(),
    };
    Some(json!({ "required": required, "content": { "application/json": { "schema": schema } } }))
}

fn problem_response() -> Value {
    let field = json!({
        "type": "object",
        "required": ["field", "detail"],
        "properties": {
            "field": { "type": "string", "description": "Path of the field." },
            "detail": { "type": "string", "description": "What is wrong with it." },
        },
    });
    let type_of = format!("\"{}\" and the code.", problem::TYPE_PREFIX);
    let schema = json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "retryable", "request_id"],
        "properties": {
            "type": { "type": "string", "format": "uri", "description": type_of },
            "title": { "type": "string", "description": "The status, in words." },
            "status": { "type": "integer", "description": "The HTTP status." },
            "detail": { "type": "string", "description": "What happened, for a person." },
            "code": { "type": "string", "description": "Stable reason, UPPER_SNAKE." },
            "retryable": { "type": "boolean", "description": "Whether the same request may succeed later." },
            "retry_after": { "type": "integer", "description": "Seconds to wait first, as in Retry-After." },
            "request_id": { "type": "string", "description": "As in X-Request-Id; quote it in reports." },
            "errors": { "type": "array", "items": field, "description": "The fields that are wrong." },
        },
    });
    json!({
        "description": "What failed, and what to do next.",
        "headers": {
            "Retry-After": { "schema": { "type": "integer" }, "description": "Always with 429 and 503." },
            "X-Request-Id": { "schema": { "type": "string" } },
        },
        "content": { problem::MEDIA_TYPE: { "schema": schema } },
    })
}

#[cfg(test)]
mod tests;
