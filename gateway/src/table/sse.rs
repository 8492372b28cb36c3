//! The fields of a stream's messages that become the parts of a server-sent event.

use std::collections::HashSet;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use steward_proto::common::v1::SseRole;

use super::{FieldPath, options::Options};

/// The fields of a streamed message that become `id`, `event` and `data`. A message without such fields is
/// sent as canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SseFields {
    pub(crate) id: Option<FieldPath>,
    pub(crate) event: Option<FieldPath>,
    /// The field's bytes are sent unchanged.
    pub(crate) data: Option<FieldPath>,
}

impl SseFields {
    pub(super) fn find(options: &Options, output: &MessageDescriptor) -> Result<Self, String> {
        let mut fields = Self::default();
        for (role, path) in marked(options, output) {
            let (slot, kinds): (_, fn(&Kind) -> bool) = match role {
                SseRole::Id => (&mut fields.id, |kind| matches!(kind, Kind::String)),
                SseRole::Event => (&mut fields.event, |kind| matches!(kind, Kind::String)),
                SseRole::Data => (&mut fields.data, |kind| matches!(kind, Kind::Bytes | Kind::String)),
                SseRole::LastEventId | SseRole::Unspecified => {
                    return Err(format!(
                        "marks {} in its answer as {}",
                        path.json_name(),
                        role.as_str_name()
                    ));
                }
            };
            fill(slot, role, path, kinds)?;
        }
        if fields.data.is_none() && fields != Self::default() {
            return Err("frames its stream without a field for the data".to_owned());
        }
        Ok(fields)
    }
}

/// Finds the request field that `Last-Event-ID` fills.
pub(super) fn resume_field(options: &Options, rpc: &MethodDescriptor) -> Result<Option<FieldPath>, String> {
    let mut resume = None;
    // A request may contain a message with roles for a streamed answer, such as a stored event. In a request
    // only the role of `Last-Event-ID` has a meaning, so the other roles are ignored.
    for (role, path) in
        marked(options, &rpc.input()).into_iter().filter(|(role, _)| *role == SseRole::LastEventId)
    {
        fill(&mut resume, role, path, |kind| matches!(kind, Kind::String))?;
    }
    match resume {
        Some(_) if !rpc.is_server_streaming() => Err("takes Last-Event-ID and streams nothing".to_owned()),
        resume => Ok(resume),
    }
}

fn fill(
    slot: &mut Option<FieldPath>,
    role: SseRole,
    path: FieldPath,
    kinds: fn(&Kind) -> bool,
) -> Result<(), String> {
    let (name, role) = (path.json_name(), role.as_str_name());
    if !kinds(&path.leaf().kind()) {
        return Err(format!("marks {name} as {role}, which its type cannot be"));
    }
    match slot.replace(path) {
        None => Ok(()),
        Some(first) => Err(format!("marks both {} and {name} as {role}", first.json_name())),
    }
}

/// Lists every field with a role, in the message and in nested messages outside lists and maps.
fn marked(options: &Options, message: &MessageDescriptor) -> Vec<(SseRole, FieldPath)> {
    fn walk(
        options: &Options,
        message: &MessageDescriptor,
        above: &mut Vec<FieldDescriptor>,
        open: &mut HashSet<String>,
        found: &mut Vec<(SseRole, FieldPath)>,
    ) {
        // Does not enter a type that is inside itself.
        if !open.insert(message.full_name().to_owned()) {
            return;
        }
        for field in message.fields() {
            above.push(field.clone());
            if let Some(role) = options.sse_role(&field) {
                found.push((role, FieldPath::of(above)));
            }
            if let Kind::Message(inner) = field.kind()
                && !field.is_list()
                && !field.is_map()
            {
                walk(options, &inner, above, open, found);
            }
            above.pop();
        }
        open.remove(message.full_name());
    }
    let mut found = Vec::new();
    walk(options, message, &mut Vec::new(), &mut HashSet::new(), &mut found);
    found
}
