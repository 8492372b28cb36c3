//! Field rules of the contract as JSON Schema.

use prost_reflect::FieldDescriptor;
use serde_json::{Value, json};
use steward_proto::{
    buf::validate::{
        FieldRules, Ignore, StringRules, duration_rules, field_rules::Type, int32_rules, string_rules,
        u_int32_rules,
    },
    rules::nanos,
};

/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;
/// Maximum seconds of a `google.protobuf.Duration`.
const MAX_SECONDS: i128 = 315_576_000_000;

/// Adds the rules of `field` to its schema.
pub(super) fn print(rules: &FieldRules, field: &FieldDescriptor, schema: &mut Value) {
    if rules.required() && field.is_list() {
        schema["minItems"] = 1.into();
    }
    print_type(rules, schema);
}

fn print_type(rules: &FieldRules, schema: &mut Value) {
    match &rules.r#type {
        None | Some(Type::Enum(_)) => {}
        Some(Type::Int32(rules)) => {
            if let Some(int32_rules::GreaterThan::Gte(least)) = rules.greater_than {
                schema["minimum"] = least.into();
            }
            if let Some(int32_rules::LessThan::Lte(most)) = rules.less_than {
                schema["maximum"] = most.into();
            }
        }
        Some(Type::Uint32(rules)) => {
            if let Some(u_int32_rules::LessThan::Lte(most)) = rules.less_than {
                schema["maximum"] = most.into();
            }
        }
        // The check skips a text that is empty.
        Some(Type::String(string)) if rules.ignore() == Ignore::IfZeroValue => {
            let mut checked = json!({});
            print_string(string, false, &mut checked);
            schema["anyOf"] = json!([{ "maxLength": 0 }, checked]);
        }
        Some(Type::String(string)) => print_string(string, rules.required(), schema),
        Some(Type::Bytes(rules)) => {
            if let Some(most) = rules.max_len {
                schema["maxLength"] = (most.div_ceil(3) * 4).into();
            }
        }
        Some(Type::Repeated(rules)) => {
            if let Some(most) = rules.max_items {
                schema["maxItems"] = most.into();
            }
            if let Some(rules) = &rules.items {
                print_type(rules, &mut schema["items"]);
            }
        }
        Some(Type::Map(rules)) => {
            if let Some(rules) = &rules.keys {
                schema["propertyNames"] = json!({ "type": "string" });
                print_type(rules, &mut schema["propertyNames"]);
            }
            if let Some(rules) = &rules.values {
                print_type(rules, &mut schema["additionalProperties"]);
            }
        }
        Some(Type::Duration(rules)) => {
            let least =
                rules.greater_than.as_ref().map(|duration_rules::GreaterThan::Gte(least)| nanos(least));
            let most = rules.less_than.as_ref().map(|duration_rules::LessThan::Lte(most)| nanos(most));
            schema["pattern"] = durations(least.unwrap_or_default(), most).into();
        }
    }
}

fn print_string(rules: &StringRules, required: bool, schema: &mut Value) {
    if required && rules.well_known.is_none() {
        schema["minLength"] = 1.into();
    }
    // A character has at least one byte, so a limit of bytes is also one of characters.
    if let Some(most) = rules.max_len.or(rules.max_bytes) {
        schema["maxLength"] = most.into();
    }
    if let Some(pattern) = &rules.pattern {
        schema["pattern"] = pattern.as_str().into();
    }
    if let Some(string_rules::WellKnown::Uuid(true)) = rules.well_known {
        schema["format"] = "uuid".into();
    }
    if !rules.r#in.is_empty() {
        schema["enum"] = json!(rules.r#in);
    }
    let parts = rules.not_contains.iter().map(|part| json!({ "pattern": escape(part) }));
    let values = (!rules.not_in.is_empty()).then(|| json!({ "enum": rules.not_in }));
    let mut none: Vec<_> = parts.chain(values).collect();
    match none.len() {
        0 => {}
        1 => schema["not"] = none.remove(0),
        _ => schema["not"] = json!({ "anyOf": none }),
    }
}

/// Returns a regular expression that finds `text`.
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) })
        .collect()
}

/// Returns a pattern that matches durations between two bounds, as JSON writes them. The pattern is exact
/// only if the upper bound is in whole seconds, and the lower bound is 0 or one of 1 ns, 10 ns, … 100 ms.
fn durations(least: i128, most: Option<i128>) -> String {
    let most = most.map_or(MAX_SECONDS, |most| most / SECOND);
    let mut whole = numbers(most);
    let mut forms = vec![format!("{most}(\\.0{{1,9}})?")];
    match (1..=9).find(|digits| least * 10_i128.pow(*digits) == SECOND) {
        // The shortest duration has its 1 in decimal place `digits`. A duration below one second is long
        // enough if one of its first `digits` decimals is not zero.
        Some(digits) => forms.extend(
            (0..digits)
                .map(|zeros| format!("0\\.{}[1-9][0-9]{{0,{}}}", "0".repeat(zeros as usize), 8 - zeros)),
        ),
        None => whole.push("0".to_owned()),
    }
    format!("^(({})(\\.[0-9]{{1,9}})?|{})s$", whole.join("|"), forms.join("|"))
}

/// Returns patterns that together match the numbers from 1 to `most` - 1.
fn numbers(most: i128) -> Vec<String> {
    let digits = most.to_string();
    let mut forms = Vec::new();
    if digits.len() > 1 {
        forms.push(format!("[1-9][0-9]{{0,{}}}", digits.len() - 2));
    }
    for (at, digit) in digits.char_indices() {
        let (before, after) = (&digits[..at], digits.len() - at - 1);
        let lowest = u32::from(at == 0);
        let below = digit.to_digit(10).unwrap_or_default();
        if below > lowest {
            forms.push(format!("{before}[{lowest}-{}][0-9]{{{after}}}", below - 1));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_match_between_their_bounds() {
        for (least, most, good, bad) in [
            (
                0,
                Some(60),
                vec!["0s", "0.5s", "9s", "59.999s", "60s", "60.000s"],
                vec!["-1s", "60.5s", "61s", "100s"],
            ),
            (
                1_000_000,
                Some(3600),
                vec!["0.001s", "0.01s", "1s", "999.5s", "3599s", "3600s"],
                vec!["0s", "0.0001s", "3601s", "3600.1s", "4000s"],
            ),
            (1, None, vec!["0.000000001s", "315576000000s"], vec!["0s", "0.0s", "315576000001s", "1", "s"]),
        ] {
            let pattern = regex::Regex::new(&durations(least, most.map(|most| most * SECOND))).unwrap();
            good.iter().for_each(|text| assert!(pattern.is_match(text), "{text}: {pattern}"));
            bad.iter().for_each(|text| assert!(!pattern.is_match(text), "{text}: {pattern}"));
        }
    }
}
