//! Reads the contract's options: `google.api.http`, `steward.common.v1.auth`, `steward.common.v1.sse` and
//! `buf.validate`.
//!
//! Uses reflection, because tests give the gateway contracts that it was not compiled with.

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, MethodDescriptor, OneofDescriptor,
    Value,
};
use steward_proto::{
    buf::validate::{FieldRules, OneofRules},
    common::v1::{Auth, SseRole},
};
use svc_core::wire::{auth::MethodAuth, principal::PrincipalKind};

/// The extensions that hold the options.
#[derive(Debug)]
pub(super) struct Options {
    http: ExtensionDescriptor,
    auth: ExtensionDescriptor,
    sse: ExtensionDescriptor,
}

/// One HTTP binding as the contract states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) method: Method,
    pub(super) template: String,
    /// Body rule: empty, `*` or a field name.
    pub(super) body: String,
}

/// The parts of a `google.api.http` rule that the gateway serves.
const SERVED: [&str; 7] = ["get", "put", "post", "delete", "patch", "body", "additional_bindings"];

impl Options {
    /// Finds the extensions. The error names one that the contract lacks.
    pub(super) fn find(pool: &DescriptorPool) -> Result<Self, &'static str> {
        let find = |name: &'static str| pool.all_extensions().find(|e| e.full_name() == name).ok_or(name);
        Ok(Self {
            http: find("google.api.http")?,
            auth: find("steward.common.v1.auth")?,
            sse: find("steward.common.v1.sse")?,
        })
    }

    /// Returns every HTTP binding of a method; none if the method is reached over gRPC alone.
    pub(super) fn bindings(&self, rpc: &MethodDescriptor) -> Result<Vec<Binding>, String> {
        let options = rpc.options();
        if !options.has_extension(&self.http) {
            return Ok(Vec::new());
        }
        let value = options.get_extension(&self.http);
        let Value::Message(rule) = value.as_ref() else { return Err("option http is no message".to_owned()) };
        let mut bindings = vec![binding(rule)?];
        for further in list(rule, "additional_bindings") {
            if !list(&further, "additional_bindings").is_empty() {
                return Err("nests additional_bindings".to_owned());
            }
            bindings.push(binding(&further)?);
        }
        Ok(bindings)
    }

    /// Returns the auth option of a method; `None` if it is missing.
    pub(super) fn auth(&self, rpc: &MethodDescriptor) -> Result<Option<MethodAuth>, String> {
        let Some(auth) = set::<Auth>(&rpc.options(), &self.auth) else { return Ok(None) };
        let kinds: Result<Vec<_>, _> = auth.kinds().map(PrincipalKind::try_from).collect();
        let kinds = kinds.map_err(|error| error.to_string())?;
        match (auth.public, kinds.is_empty() && auth.scope.is_empty()) {
            (true, false) => Err("is public and yet asks for a principal".to_owned()),
            (false, _) if kinds.is_empty() => Err("serves no kind of principal".to_owned()),
            (public, _) => Ok(Some(MethodAuth { public, kinds, scope: auth.scope })),
        }
    }

    /// Returns a field's role in a stream of server-sent events.
    pub(super) fn sse_role(&self, field: &FieldDescriptor) -> Option<SseRole> {
        let options = field.options();
        let role = options.get_extension(&self.sse).as_enum_number()?;
        SseRole::try_from(role).ok().filter(|role| *role != SseRole::Unspecified)
    }
}

/// Returns the rules of a field; none if the contract gives it none.
pub(crate) fn rules(field: &FieldDescriptor) -> FieldRules {
    let extension = field.parent_pool().get_extension_by_name("buf.validate.field");
    extension.and_then(|extension| set(&field.options(), &extension)).unwrap_or_default()
}

/// Returns whether one of the fields of a oneof must be set.
pub(crate) fn is_required(oneof: &OneofDescriptor) -> bool {
    let extension = oneof.parent_pool().get_extension_by_name("buf.validate.oneof");
    let rules: Option<OneofRules> = extension.and_then(|extension| set(&oneof.options(), &extension));
    rules.is_some_and(|rules| rules.required())
}

fn set<T: prost::Message + Default>(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Option<T> {
    let value = options.has_extension(extension).then(|| options.get_extension(extension))?;
    value.as_message()?.transcode_to().ok()
}

fn binding(rule: &DynamicMessage) -> Result<Binding, String> {
    // Refuses a rule with a field of HttpRule outside SERVED, such as `custom`, `response_body` or
    // `selector`. If our copy of http.proto does not declare the field, it is among the unknown fields.
    let unserved = rule
        .fields()
        .find(|(field, _)| !SERVED.contains(&field.name()))
        .map(|(field, _)| field.name().to_owned());
    let unknown = rule.unknown_fields().next().map(|field| format!("number {}", field.number()));
    if let Some(part) = unserved.or(unknown) {
        return Err(format!("uses a part of google.api.http that is not served: {part}"));
    }
    for (name, method) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        if rule.has_field_by_name(name) {
            let (template, body) = (text(rule, name), text(rule, "body"));
            if !body.is_empty() && (method == Method::GET || method == Method::DELETE) {
                return Err(format!("gives {method} a body"));
            }
            return Ok(Binding { method, template, body });
        }
    }
    Err("has no pattern".to_owned())
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn list(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = message.get_field_by_name(field);
    let values = value.as_deref().and_then(Value::as_list).unwrap_or_default();
    values.iter().filter_map(Value::as_message).cloned().collect()
}
