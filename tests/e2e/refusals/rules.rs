//! Tests that every service checks the field rules of the contract: for each method and rule, the service
//! gets a request that breaks that rule.
//!
//! The requests are made from the descriptors: a valid request for each method, changed so that it breaks one
//! rule. They are sent to the services' gRPC addresses, not to the gateway.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor,
    ReflectMessage, Value,
};
use regex::Regex;
use steward_proto::{
    buf::validate::{
        FieldRules, OneofRules, duration_rules, field_rules::Type, int32_rules, string_rules, u_int32_rules,
    },
    common::v1::{Auth, PrincipalKind},
};
use suite_tests::cluster::Cluster;
use svc_core::{
    error::reason_of,
    id::{AccountId, new_id},
    run::clock::SystemClock,
    wire::{
        assertion::{IdentityConfig, METADATA_KEY, Signer},
        principal::{Principal, PrincipalKind as Kinds},
    },
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt;

/// A request that breaks one rule.
struct Broken {
    request: DynamicMessage,
    /// The field that the refusal must name.
    field: String,
    rule: String,
}

/// A codec that writes reflected messages and ignores the answers.
#[derive(Debug, Clone, Default)]
struct Reflected;

impl Codec for Reflected {
    type Encode = DynamicMessage;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Reflected {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Reflected {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

/// Returns the value of a custom option as its generated type.
fn option<T: Message + Default>(options: &DynamicMessage, name: &str) -> Option<T> {
    let extension = options.descriptor().parent_pool().get_extension_by_name(name).unwrap();
    let value = options.has_extension(&extension).then(|| options.get_extension(&extension))?;
    Some(value.as_message()?.transcode_to().unwrap())
}

fn rules(field: &FieldDescriptor) -> FieldRules {
    option(&field.options(), "buf.validate.field").unwrap_or_default()
}

/// Returns a message that breaks no rule.
fn valid(message: &MessageDescriptor) -> DynamicMessage {
    let mut made = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let rules = rules(&field);
        let first_of_required = field.containing_oneof().is_some_and(|oneof| {
            let is_required = option::<OneofRules>(&oneof.options(), "buf.validate.oneof").is_some();
            is_required && oneof.fields().next().as_ref() == Some(&field)
        });
        if rules.required() || first_of_required {
            let value = good(&field, &rules);
            made.set_field(&field, value);
        }
    }
    made
}

fn good(field: &FieldDescriptor, rules: &FieldRules) -> Value {
    match (field.kind(), &rules.r#type) {
        _ if field.is_list() => Value::List(vec![Value::String("a".to_owned())]),
        (Kind::String, Some(Type::String(string))) if string.well_known.is_some() => {
            Value::String(new_id().to_string())
        }
        (Kind::String, _) => Value::String("a".to_owned()),
        (Kind::Enum(_), _) => Value::EnumNumber(1),
        (Kind::Message(message), _) => Value::Message(valid(&message)),
        (kind, _) => panic!("{}: no valid {kind:?}", field.full_name()),
    }
}

/// Returns values that each break one rule of a field. Each comes with the rule's name, and with the end of
/// the field's path in the refusal.
fn bad(field: &FieldDescriptor, rules: &FieldRules) -> Vec<(Value, &'static str, &'static str)> {
    let mut bad = Vec::new();
    let mut add = |value, rule| bad.push((value, rule, ""));
    match &rules.r#type {
        Some(Type::Repeated(rules)) => {
            if let Some(most) = rules.max_items {
                let items = vec![Value::String("*".to_owned()); usize::try_from(most).unwrap() + 1];
                add(Value::List(items), "max_items");
            }
            for (value, rule) in rules.items.iter().flat_map(|items| single(items)) {
                bad.push((Value::List(vec![value]), rule, "[0]"));
            }
        }
        Some(Type::Map(rules)) => {
            let entry = |key: Value, value: Value| {
                let Value::String(key) = key else { panic!("keys are strings") };
                Value::Map([(MapKey::String(key), value)].into())
            };
            let text = || Value::String("a".to_owned());
            let keys =
                rules.keys.iter().flat_map(|keys| single(keys)).map(|(key, rule)| (entry(key, text()), rule));
            let values = rules
                .values
                .iter()
                .flat_map(|values| single(values))
                .map(|(value, rule)| (entry(text(), value), rule));
            bad.extend(keys.chain(values).map(|(value, rule)| (value, rule, "")));
        }
        Some(Type::Duration(rules)) => {
            let Kind::Message(duration) = field.kind() else { panic!("{}", field.full_name()) };
            let beside = |bound: &prost_types::Duration, by: i128| {
                let nanos = i128::from(bound.seconds) * 1_000_000_000 + i128::from(bound.nanos) + by;
                let mut made = DynamicMessage::new(duration.clone());
                made.set_field_by_name("seconds", Value::I64((nanos / 1_000_000_000).try_into().unwrap()));
                made.set_field_by_name("nanos", Value::I32((nanos % 1_000_000_000).try_into().unwrap()));
                Value::Message(made)
            };
            if let Some(duration_rules::GreaterThan::Gte(least)) = &rules.greater_than {
                add(beside(least, -1), "gte");
            }
            if let Some(duration_rules::LessThan::Lte(most)) = &rules.less_than {
                add(beside(most, 1), "lte");
            }
        }
        _ => bad.extend(single(rules).into_iter().map(|(value, rule)| (value, rule, ""))),
    }
    bad
}

fn single(rules: &FieldRules) -> Vec<(Value, &'static str)> {
    let mut bad = Vec::new();
    let letters = |count: u64| "a".repeat(usize::try_from(count).unwrap());
    match &rules.r#type {
        None => {}
        Some(Type::Int32(rules)) => {
            if let Some(int32_rules::GreaterThan::Gte(least)) = rules.greater_than {
                bad.push((Value::I32(least - 1), "gte"));
            }
            if let Some(int32_rules::LessThan::Lte(most)) = rules.less_than {
                bad.push((Value::I32(most + 1), "lte"));
            }
        }
        Some(Type::Uint32(rules)) => {
            if let Some(u_int32_rules::LessThan::Lte(most)) = rules.less_than {
                bad.push((Value::U32(most + 1), "lte"));
            }
        }
        Some(Type::String(rules)) => {
            let mut text = |text: String, rule| bad.push((Value::String(text), rule));
            if let Some(most) = rules.max_len {
                text(letters(most + 1), "max_len");
            }
            if let Some(most) = rules.max_bytes {
                text(letters(most + 1), "max_bytes");
            }
            if let Some(pattern) = &rules.pattern {
                let pattern = Regex::new(pattern).unwrap();
                let other = ["\u{1}", "=", " "].into_iter().find(|text| !pattern.is_match(text));
                text(other.unwrap().to_owned(), "pattern");
            }
            if let Some(part) = &rules.not_contains {
                text(format!("a{part}"), "not_contains");
            }
            if !rules.r#in.is_empty() {
                text("nothing of it".to_owned(), "in");
            }
            if let Some(value) = rules.not_in.first() {
                text(value.clone(), "not_in");
            }
            if let Some(string_rules::WellKnown::Uuid(true)) = rules.well_known {
                text("7".to_owned(), "uuid");
            }
        }
        Some(Type::Bytes(rules)) => {
            let content = letters(rules.max_len.unwrap() + 1);
            bad.push((Value::Bytes(content.into()), "max_len"));
        }
        Some(Type::Enum(_)) => bad.push((Value::EnumNumber(99), "defined_only")),
        Some(Type::Repeated(_) | Type::Map(_) | Type::Duration(_)) => panic!("a list in a list"),
    }
    bad
}

/// Returns requests that each break one rule of a message.
fn broken(message: &MessageDescriptor) -> Vec<Broken> {
    let mut found = Vec::new();
    for field in message.fields() {
        let (name, rules) = (field.name(), rules(&field));
        let mut add = |value: Option<Value>, rule: &str, path: String| {
            let mut request = valid(message);
            match value {
                Some(value) => request.set_field(&field, value),
                None => request.clear_field(&field),
            }
            found.push(Broken { request, field: path, rule: rule.to_owned() });
        };
        if rules.required() {
            add(None, "required", name.to_owned());
        }
        for (value, rule, end) in bad(&field, &rules) {
            add(Some(value), rule, format!("{name}{end}"));
        }
        let google = |inner: &MessageDescriptor| inner.full_name().starts_with("google.");
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && !google(&inner)
        {
            for within in broken(&inner) {
                let path = format!("{name}.{}", within.field);
                add(Some(Value::Message(within.request)), &within.rule, path);
            }
        }
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        if option::<OneofRules>(&oneof.options(), "buf.validate.oneof").is_some() {
            let mut request = valid(message);
            oneof.fields().for_each(|field| request.clear_field(&field));
            let field = oneof.fields().next().unwrap().name().to_owned();
            found.push(Broken { request, field, rule: "oneof.required".to_owned() });
        }
    }
    found
}

/// Signs assertions as processes of the cluster do.
struct Signers(BTreeMap<&'static str, Signer>);

impl Signers {
    fn load(home: &Path) -> Self {
        let keys = home.join("keys");
        let load = |issuer| {
            let identity = IdentityConfig {
                key_id: format!("{issuer}-1"),
                key_file: keys.join(format!("{issuer}.key")),
                trust_file: keys.join("trust.toml"),
            };
            (issuer, Signer::load(issuer, &identity, Arc::new(SystemClock)).unwrap())
        };
        Self(["gateway", "purge-svc"].map(load).into())
    }

    /// Returns an assertion of a caller that may call `method`.
    fn sign(&self, audience: &str, method: &MethodDescriptor) -> String {
        let auth: Auth = option(&method.options(), "steward.common.v1.auth").unwrap();
        let account = Principal::account(AccountId::new());
        let (issuer, principal) = match auth.kinds().next().unwrap() {
            PrincipalKind::Service => ("purge-svc", Principal::service("purge-svc", None)),
            PrincipalKind::Account => ("gateway", account),
            PrincipalKind::Agent => {
                let agent = Principal { kind: Kinds::Agent, subject_id: new_id().to_string(), ..account };
                ("gateway", agent)
            }
            PrincipalKind::Admin => {
                ("gateway", Principal { kind: Kinds::Admin, account_id: None, ..account })
            }
            PrincipalKind::Unspecified => panic!("{}", method.full_name()),
        };
        self.0[issuer].sign(audience, &principal).unwrap()
    }
}

async fn send(
    channel: &Channel,
    method: &MethodDescriptor,
    assertion: &str,
    message: DynamicMessage,
) -> Status {
    let mut grpc = Grpc::new(channel.clone()).max_encoding_message_size(8 << 20);
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::iter([message]));
    request.set_timeout(Duration::from_secs(20));
    request.metadata_mut().insert(METADATA_KEY, assertion.parse().unwrap());
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    // Sends one message on a stream, which is the same on the wire as a unary request.
    match grpc.streaming(request, path.parse().unwrap(), Reflected).await {
        Err(status) => status,
        Ok(answers) => match answers.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok("answered"),
        },
    }
}

#[tokio::test]
async fn every_rule_of_the_contract_is_enforced() {
    let mut cluster = Cluster::builder().start().await;
    let signers = Signers::load(cluster.home());
    let pool = DescriptorPool::decode(steward_proto::DESCRIPTORS).unwrap();
    let (mut sent, mut defects) = (0, Vec::new());
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let package = method.parent_service().package_name().split('.').nth(1).unwrap().to_owned();
        let servers: &[&str] = match package.as_str() {
            // Served inside sandboxes only: `guest/tests/socket.rs`.
            "guest" => &[],
            "custody" => &["chat", "sandbox", "registry"],
            "chat" => &["chat"],
            "sandbox" => &["sandbox"],
            "registry" => &["registry"],
            "purge" => &["purge"],
            other => panic!("{other} is not a package of the plane"),
        };
        for server in servers {
            let url = cluster.process(server).url();
            let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
            for Broken { request, field, rule } in broken(&method.input()) {
                let assertion = signers.sign(&format!("{server}-svc"), &method);
                let status = send(&channel, &method, &assertion, request).await;
                sent += 1;
                let named = status.get_error_details().bad_request().is_some_and(|bad| {
                    bad.field_violations.iter().map(|violation| &violation.field).eq([&field])
                });
                let refused = status.code() == Code::InvalidArgument && named;
                if !refused || reason_of(&status).as_deref() != Some("INVALID_ARGUMENT") {
                    defects
                        .push(format!("{} at {server}: {rule} of {field}: {status:?}", method.full_name()));
                }
            }
        }
    }
    assert!(defects.is_empty(), "{} of {sent}:\n{}", defects.len(), defects.join("\n"));
    assert!(sent > 200, "{sent}");
    cluster.stop().await;
}
