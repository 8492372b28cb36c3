//! Generates `impl Check` (see `src/rules.rs`) for every message that a request contains, from the rules of
//! its fields in the contract.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use super::Result;

/// Problem texts for patterns that are hard to read.
const PATTERNS: [(&str, &str); 8] = [
    ("^[A-Za-z0-9_-]*$", "is not a token of this listing"),
    ("^[A-Za-z0-9_.:/-]{1,128}$", "must be 1 to 128 of [A-Za-z0-9_.:/-]"),
    ("^[A-Za-z0-9._/-]{1,64}$", "must be 1 to 64 letters, digits and . _ / -"),
    (r"^[^=\x00]+$", "must not be empty or contain = or NUL"),
    (r"\S", "must not be blank"),
    (r"^[^\x00-\x1f\x7f-\x9f]*$", "must not contain control characters"),
    (r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$", "must not contain control characters"),
    (
        r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        "must not be blank or contain control characters",
    ),
];

/// A condition in Rust, over the variable `value`, that is true if the value breaks a rule, and the text of
/// the problem.
type Broken = (String, String);

/// Returns the Rust code of the checks: for every message in a request of a Steward service, and empty checks
/// for the responses.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let find = |name: &str| pool.get_extension_by_name(name).ok_or(format!("{name} is not declared"));
    let mut generator = Generator {
        field: find("buf.validate.field")?,
        oneof: find("buf.validate.oneof")?,
        patterns: BTreeMap::new(),
    };
    let (mut requests, mut responses) = (BTreeMap::new(), BTreeMap::new());
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        reach(&method.input(), &mut requests);
        responses.insert(method.output().full_name().to_owned(), method.output());
    }
    let mut code = String::new();
    for (name, message) in &requests {
        let checks = generator.message(message)?;
        write!(code, "impl Check for {} {{", path(name))?;
        if !checks.is_empty() {
            write!(code, "fn check(&self, above: &Place<'_>, found: &mut Violations) {{ {checks} }}")?;
        }
        code.push_str("}\n");
    }
    for name in responses.keys().filter(|name| !requests.contains_key(*name)) {
        writeln!(code, "impl Check for {} {{}}", path(name))?;
    }
    for (pattern, name) in generator.patterns {
        writeln!(code, "static {name}: Pattern = Pattern::new(|| regex::Regex::new({pattern:?}));")?;
    }
    Ok(code)
}

struct Generator {
    field: ExtensionDescriptor,
    oneof: ExtensionDescriptor,
    /// The patterns of the contract's rules, each with the name of the static that is generated for it.
    patterns: BTreeMap<String, String>,
}

impl Generator {
    fn message(&mut self, message: &MessageDescriptor) -> Result<String> {
        let mut code = String::new();
        for field in message.fields().filter(|field| real_oneof(field).is_none()) {
            let name = field.name();
            let checks = self.field(&field)?;
            if !checks.is_empty() {
                write!(code, "{{ let (value, at) = (&self.{name}, above.field({name:?})); {checks} }}")?;
            }
        }
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            let required = extension(&oneof.options(), &self.oneof).is_some_and(|rules| {
                rules.get_field_by_name("required").is_some_and(|v| v.as_bool() == Some(true))
            });
            let (name, names) =
                (oneof.name(), oneof.fields().map(|f| f.name().to_owned()).collect::<Vec<_>>());
            let none = match required {
                true => format!("found.add(above.field({:?}), {:?})", names[0], alternatives(&names)),
                false => "{}".to_owned(),
            };
            write!(code, "match &self.{name} {{ None => {none},")?;
            let kind = format!("{}::{}", snake(&path(message.full_name())), camel(name));
            for field in oneof.fields() {
                let (name, checks) = (field.name(), self.value(&field)?);
                write!(code, "Some({kind}::{}(value)) => {{ let at = above.field({name:?});", camel(name))?;
                write!(code, "let _ = (value, at); {checks} }}")?;
            }
            code.push('}');
        }
        Ok(code)
    }

    /// Returns the code that checks a field. In it, `value` is the field as prost declares it, which is an
    /// `Option` if the field tracks presence, and `at` is its place.
    fn field(&mut self, field: &FieldDescriptor) -> Result<String> {
        if !field.supports_presence() {
            return self.value(field);
        }
        let (some, rules) = (self.value(field)?, self.rules(field));
        let none = match rules.is_some_and(|rules| flag(&rules, "required")) {
            true => "found.add(at, \"is required\")",
            false => "{}",
        };
        let checked = !some.is_empty() || none != "{}";
        Ok(if checked {
            format!("match value {{ None => {none}, Some(value) => {{ let _ = value; {some} }} }}")
        } else {
            String::new()
        })
    }

    /// Returns the code that checks a field that is set. In it, `value` is the field's value and `at` its
    /// place.
    fn value(&mut self, field: &FieldDescriptor) -> Result<String> {
        let rules = self.rules(field);
        let mut broken = Vec::new();
        let mut inner = String::new();
        if let Some(rules) = &rules {
            if !field.supports_presence() && flag(rules, "required") {
                broken.push((is_zero(field, true), "is required".to_owned()));
            }
            for (kind, rule) in rules.fields() {
                match (kind.name(), rule) {
                    ("required" | "ignore", _) => {}
                    ("repeated", Value::Message(rule)) => inner = self.list(field, rule, &mut broken)?,
                    ("map", Value::Message(rule)) => self.map(field, rule, &mut broken)?,
                    (_, Value::Message(rule)) => broken.extend(self.single(&field.kind(), rule)?),
                    (other, _) => return Err(format!("{}: {other}", field.full_name()).into()),
                }
            }
        }
        if let Kind::Message(entry) = field.kind()
            && field.is_map()
            && let Kind::Message(message) = entry.map_entry_value_field().kind()
            && self.has_rules(&message, &mut BTreeSet::new())
        {
            return Err(format!("{}: rules in values of a map are not served", field.full_name()).into());
        }
        if let (Kind::Message(message), false) = (field.kind(), field.is_map())
            && self.has_rules(&message, &mut BTreeSet::new())
        {
            inner = match field.is_list() {
                true => format!(
                    "for (index, value) in value.iter().enumerate() {{ if found.is_full() {{ break; }} \
                     Check::check(value, &above.item({:?}, index), found); }}",
                    field.name()
                ),
                false => "Check::check(value, &at, found)".to_owned(),
            };
        }
        let ignored = rules.is_some_and(|rules| {
            rules.get_field_by_name("ignore").and_then(|ignore| ignore.as_enum_number()) == Some(1)
        });
        if ignored {
            broken
                .iter_mut()
                .for_each(|(condition, _)| *condition = format!("{} && {condition}", is_zero(field, false)));
        }
        Ok(chain(&broken, &inner))
    }

    fn list(
        &mut self,
        field: &FieldDescriptor,
        rules: &DynamicMessage,
        broken: &mut Vec<Broken>,
    ) -> Result<String> {
        let mut each = String::new();
        for (rule, value) in rules.fields() {
            match (rule.name(), value) {
                ("max_items", Value::U64(most)) => {
                    broken
                        .push((format!("value.len() > {most}"), format!("must have at most {most} entries")));
                }
                ("items", Value::Message(items)) => {
                    let broken = self.each(&field.kind(), items)?;
                    each = format!(
                        "for (index, value) in value.iter().enumerate() {{ if found.is_full() {{ break; }} \
                         let at = above.item({:?}, index); {} }}",
                        field.name(),
                        chain(&broken, "")
                    );
                }
                (other, _) => return Err(format!("{}: repeated.{other}", field.full_name()).into()),
            }
        }
        Ok(each)
    }

    fn map(&mut self, field: &FieldDescriptor, rules: &DynamicMessage, broken: &mut Vec<Broken>) -> Result {
        let Kind::Message(entry) = field.kind() else { return Err("a map has entries".into()) };
        for (part, rule) in rules.fields() {
            let Value::Message(rule) = rule else { return Err(format!("{}: map", field.full_name()).into()) };
            let kind = match part.name() {
                "keys" => entry.map_entry_key_field().kind(),
                _ => entry.map_entry_value_field().kind(),
            };
            let part = part.name();
            for (condition, problem) in self.each(&kind, rule)? {
                let any = format!("value.{part}().any(|value| {condition})");
                broken.push((any, format!("has {part} that break a rule: each {problem}")));
            }
        }
        Ok(())
    }

    /// Returns the rules of a list's items, or of a map's keys or values: for each rule, the condition under
    /// which a value breaks it and the problem's text.
    fn each(&mut self, kind: &Kind, rules: &DynamicMessage) -> Result<Vec<Broken>> {
        let mut broken = Vec::new();
        for (part, rule) in rules.fields() {
            match rule {
                Value::Message(rule) => broken.extend(self.single(kind, rule)?),
                _ => return Err(format!("{} is not served here", part.full_name()).into()),
            }
        }
        Ok(broken)
    }

    fn single(&mut self, kind: &Kind, rules: &DynamicMessage) -> Result<Vec<Broken>> {
        let mut broken = Vec::new();
        let bound = |name: &str| {
            rules
                .has_field_by_name(name)
                .then(|| rules.get_field_by_name(name).map(|v| v.into_owned()))
                .flatten()
        };
        if let Some((condition, problem)) = range(bound("gte"), bound("lte")) {
            broken.push((condition, problem));
        }
        for (rule, value) in rules.fields() {
            broken.push(match (rule.name(), value, kind) {
                ("gte" | "lte", _, _) => continue,
                ("max_len", Value::U64(most), Kind::String) => (
                    format!("value.len() > {most} && value.chars().count() > {most}"),
                    format!("must have at most {most} characters"),
                ),
                ("max_len" | "max_bytes", Value::U64(most), _) => {
                    (format!("value.len() > {most}"), format!("must have at most {most} bytes"))
                }
                ("uuid", Value::Bool(true), _) => ("!is_uuid(value)".to_owned(), "must be a UUID".to_owned()),
                ("not_contains", Value::String(text), _) => {
                    (format!("value.contains({text:?})"), format!("must not contain {text:?}"))
                }
                ("in", Value::List(texts), _) => {
                    let texts = strings(texts);
                    let problem = match texts.len() {
                        0..=4 => format!("must be one of {}", texts.join(", ")),
                        // Does not list more than four values, because each item of a list may have this
                        // problem and the text would be long.
                        many => format!("must be one of the {many} values that the contract lists"),
                    };
                    (format!("!{texts:?}.contains(&value.as_str())"), problem)
                }
                ("not_in", Value::List(texts), _) => {
                    let texts = strings(texts);
                    (
                        format!("{texts:?}.contains(&value.as_str())"),
                        format!("must not be {}", texts.join(", ")),
                    )
                }
                ("pattern", Value::String(pattern), _) => self.pattern(pattern)?,
                ("defined_only", Value::Bool(true), Kind::Enum(kind)) => (
                    format!("!{}::is_valid(*value)", path(kind.full_name())),
                    format!("must be a value of {}", kind.name()),
                ),
                (other, value, _) => return Err(format!("{other} = {value} is not served").into()),
            });
        }
        Ok(broken)
    }

    fn pattern(&mut self, pattern: &str) -> Result<Broken> {
        regex::Regex::new(pattern)?;
        let next = format!("PATTERN_{}", self.patterns.len());
        let name = self.patterns.entry(pattern.to_owned()).or_insert(next);
        let known = PATTERNS.iter().find(|(known, _)| *known == pattern);
        let problem =
            known.map_or_else(|| format!("must match {pattern}"), |(_, problem)| (*problem).to_owned());
        Ok((format!("!matches(&{name}, value)"), problem))
    }

    fn rules(&self, field: &FieldDescriptor) -> Option<DynamicMessage> {
        extension(&field.options(), &self.field)
    }

    /// Returns whether a field of the message, or of a message in it, has a rule.
    fn has_rules(&self, message: &MessageDescriptor, seen: &mut BTreeSet<String>) -> bool {
        seen.insert(message.full_name().to_owned())
            && (message.oneofs().any(|oneof| extension(&oneof.options(), &self.oneof).is_some())
                || message.fields().any(|field| {
                    self.rules(&field).is_some()
                        || field.kind().as_message().is_some_and(|inner| self.has_rules(inner, seen))
                }))
    }
}

/// Returns the condition under which a number or duration is out of its bounds.
fn range(least: Option<Value>, most: Option<Value>) -> Option<Broken> {
    let is_duration = [&least, &most].into_iter().flatten().any(|bound| bound.as_message().is_some());
    let value = if is_duration { "nanos(value)" } else { "*value" };
    let show = |bound: i128| if is_duration { time(bound) } else { bound.to_string() };
    Some(match (least.map(number), most.map(number)) {
        (None, None) => return None,
        (Some(0), None) => (format!("{value} < 0"), "must not be negative".to_owned()),
        (Some(least), None) => (format!("{value} < {least}"), format!("must be at least {}", show(least))),
        (None, Some(most)) => (format!("{value} > {most}"), format!("must be at most {}", show(most))),
        (Some(least), Some(most)) => (
            format!("!({least}..={most}).contains({})", if is_duration { "&nanos(value)" } else { "value" }),
            match least {
                1 if is_duration => format!("must be positive and at most {}", show(most)),
                _ => format!("must be between {} and {}", show(least), show(most)),
            },
        ),
    })
}

/// Writes a duration in the largest unit of which it is a whole multiple.
fn time(nanos: i128) -> String {
    const UNITS: [(i128, &str); 5] = [
        (86_400_000_000_000, "days"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
    ];
    let unit = UNITS.iter().find(|(length, _)| nanos > 0 && nanos % length == 0);
    let (length, name) = unit.copied().unwrap_or((1, "ns"));
    format!("{} {name}", nanos / length)
}

/// Returns a bound as an integer; the bound of a duration in nanoseconds.
fn number(bound: Value) -> i128 {
    let field = |name: &str| {
        let value =
            bound.as_message().and_then(|duration| Some(duration.get_field_by_name(name)?.into_owned()));
        value.map_or(0, number)
    };
    match bound {
        Value::I32(number) => number.into(),
        Value::U32(number) => number.into(),
        Value::I64(number) => number.into(),
        _ => field("seconds") * 1_000_000_000 + field("nanos"),
    }
}

/// Chains the rules to `if … else if … else`, so that only the first broken rule is reported; `then` runs if
/// none is broken.
fn chain(broken: &[Broken], then: &str) -> String {
    let mut branches: Vec<_> = broken
        .iter()
        .map(|(condition, problem)| format!("if {condition} {{ found.add(at, {problem:?}); }}"))
        .collect();
    if !then.is_empty() {
        branches.push(if broken.is_empty() { then.to_owned() } else { format!("{{ {then} }}") });
    }
    branches.join(" else ")
}

/// Returns the condition that `value` is the default value of the field, or, without `is`, that it is not.
fn is_zero(field: &FieldDescriptor, is: bool) -> String {
    let number = |zero: &str| format!("*value {} {zero}", if is { "==" } else { "!=" });
    match field.kind() {
        Kind::Double | Kind::Float if !field.is_list() => number("0.0"),
        Kind::Bool if !field.is_list() => (if is { "!*value" } else { "*value" }).to_owned(),
        kind if field.is_list() || field.is_map() || matches!(kind, Kind::String | Kind::Bytes) => {
            (if is { "value.is_empty()" } else { "!value.is_empty()" }).to_owned()
        }
        _ => number("0"),
    }
}

fn alternatives(names: &[String]) -> String {
    match names {
        [_, rest @ ..] if !rest.is_empty() => format!("or {} is required", rest.join(" or ")),
        _ => "is required".to_owned(),
    }
}

fn extension(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Option<DynamicMessage> {
    let set = options.has_extension(extension).then(|| options.get_extension(extension).into_owned())?;
    set.as_message().cloned()
}

fn flag(rules: &DynamicMessage, name: &str) -> bool {
    rules.get_field_by_name(name).is_some_and(|value| value.as_bool() == Some(true))
}

fn strings(values: &[Value]) -> Vec<&str> {
    values.iter().filter_map(Value::as_str).collect()
}

fn real_oneof(field: &FieldDescriptor) -> Option<String> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic()).map(|oneof| oneof.name().to_owned())
}

/// Collects the message and every message in it, except Google's.
fn reach(message: &MessageDescriptor, reached: &mut BTreeMap<String, MessageDescriptor>) {
    let name = message.full_name().to_owned();
    let seen = reached.contains_key(&name) || message.is_map_entry() || name.starts_with("google.");
    if !seen {
        reached.insert(name, message.clone());
        message
            .fields()
            .filter_map(|field| field.kind().as_message().cloned())
            .for_each(|m| reach(&m, reached));
    }
}

/// Returns the Rust path of a type: `crate::chat::v1::Turn` for `steward.chat.v1.Turn`.
fn path(full_name: &str) -> String {
    full_name.replacen("steward", "crate", 1).replace('.', "::")
}

/// Turns the last part of a path into the name of a module, where prost puts the oneofs of a message:
/// `crate::purge::v1::set_hold_request`.
fn snake(path: &str) -> String {
    let (module, name) = path.rsplit_once("::").unwrap_or_default();
    let snake = name.chars().enumerate().fold(String::new(), |mut snake, (at, c)| {
        if at > 0 && c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        snake
    });
    format!("{module}::{snake}")
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}
