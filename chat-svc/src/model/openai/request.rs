//! The body of a Chat Completions request.

use serde_json::{Map, Value, json};

use crate::model::{
    capabilities::{Capabilities, LimitField},
    model_client::{Message, ModelRequest, Part, Role},
};

/// Placeholder for an image that the model cannot read.
const UNSEEN_IMAGE: &str = "[an image was here, which this model cannot see]";

/// Builds the body that this model accepts.
pub(super) fn body(request: &ModelRequest) -> Value {
    let capabilities = Capabilities::of(&request.model);
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if let Some(system) = &request.system {
        messages.push(json!({ "role": "system", "content": system }));
    }
    for message in &request.messages {
        match message.role {
            Role::User => {
                messages.push(json!({ "role": "user", "content": user(message, capabilities.images) }))
            }
            Role::Assistant => messages.extend(assistant(message)),
            Role::Tool => messages.extend(message.parts.iter().filter_map(tool_result)),
        }
    }
    let mut body = Map::new();
    body.insert("model".into(), json!(request.model));
    body.insert("messages".into(), json!(messages));
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({ "include_usage": true }));
    if capabilities.tools && !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            let function =
                json!({ "name": tool.name, "description": tool.description, "parameters": tool.parameters });
            json!({ "type": "function", "function": function })
        });
        body.insert("tools".into(), tools.collect());
    }
    if let Some(most) = request.max_output_tokens {
        let field = match capabilities.limit {
            LimitField::MaxTokens => "max_tokens",
            LimitField::MaxCompletionTokens => "max_completion_tokens",
        };
        body.insert(field.into(), json!(most));
    }
    Value::Object(body)
}

/// Returns a plain text if the message has no image, because not every server accepts a list of parts.
fn user(message: &Message, images: bool) -> Value {
    let has_image = message.parts.iter().any(|part| matches!(part, Part::Image { .. }));
    if !has_image {
        return json!(message.text());
    }
    message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Text { text } => Some(json!({ "type": "text", "text": text })),
            Part::Image { media_type, base64 } if images => {
                let url = format!("data:{media_type};base64,{base64}");
                Some(json!({ "type": "image_url", "image_url": { "url": url } }))
            }
            Part::Image { .. } => Some(json!({ "type": "text", "text": UNSEEN_IMAGE })),
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::ToolResult { .. } => None,
        })
        .collect()
}

/// Returns the message without reasoning, for which this API has no signature; `None` if it has nothing else.
fn assistant(message: &Message) -> Option<Value> {
    let text = message.text();
    let calls: Vec<_> = message
        .tool_calls()
        .map(|call| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        })
        .collect();
    match (text.is_empty(), calls.is_empty()) {
        (true, true) => None,
        (true, false) => Some(json!({ "role": "assistant", "content": null, "tool_calls": calls })),
        (false, true) => Some(json!({ "role": "assistant", "content": text })),
        (false, false) => Some(json!({ "role": "assistant", "content": text, "tool_calls": calls })),
    }
}

fn tool_result(part: &Part) -> Option<Value> {
    match part {
        Part::ToolResult { call_id, content, .. } => {
            Some(json!({ "role": "tool", "tool_call_id": call_id, "content": content }))
        }
        Part::Text { .. } | Part::Reasoning { .. } | Part::Image { .. } | Part::ToolCall(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::tools, model::model_client::ToolCall};

    fn image() -> Part {
        Part::Image { media_type: "image/png".into(), base64: "AAAA".into() }
    }

    #[test]
    fn a_conversation_is_converted_to_the_api() {
        let call =
            ToolCall { id: "c1".into(), name: "shell".into(), arguments: r#"{"command":"ls"}"#.into() };
        let reasoning = Part::Reasoning { text: "hm".into(), signature: None };
        let result = Part::ToolResult {
            call_id: "c1".into(),
            name: "shell".into(),
            content: "a".into(),
            is_error: false,
        };
        let request = ModelRequest {
            model: "gpt-4o".into(),
            system: Some("be brief".into()),
            messages: vec![
                Message::user("list"),
                Message { role: Role::Assistant, parts: vec![reasoning.clone(), Part::ToolCall(call)] },
                Message { role: Role::Tool, parts: vec![result.clone(), result] },
                Message { role: Role::Assistant, parts: vec![reasoning] },
                Message::assistant("done"),
            ],
            tools: tools::specs(),
            max_output_tokens: Some(100),
            ..ModelRequest::default()
        };
        let body = body(&request);
        let expected = json!([
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": "list" },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c1", "type": "function",
                  "function": { "name": "shell", "arguments": "{\"command\":\"ls\"}" } }
            ] },
            { "role": "tool", "tool_call_id": "c1", "content": "a" },
            { "role": "tool", "tool_call_id": "c1", "content": "a" },
            { "role": "assistant", "content": "done" },
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert_eq!(body["tools"][0]["function"]["name"], "shell");
        assert_eq!(body["max_tokens"], 100);
    }

    #[test]
    fn unsupported_content_is_not_sent() {
        let request = |model: &str| ModelRequest {
            model: model.into(),
            messages: vec![Message {
                role: Role::User,
                parts: vec![Part::Text { text: "see".into() }, image()],
            }],
            tools: tools::specs(),
            max_output_tokens: Some(9),
            ..ModelRequest::default()
        };
        let seen = body(&request("gpt-4o"));
        assert_eq!(seen["messages"][0]["content"][1]["image_url"]["url"], "data:image/png;base64,AAAA");
        let unseen = body(&request("my-own-model"));
        assert_eq!(unseen["messages"][0]["content"][1], json!({ "type": "text", "text": UNSEEN_IMAGE }));
        let reasoner = body(&request("o1-mini"));
        assert!(reasoner.get("tools").is_none() && reasoner.get("max_tokens").is_none());
        assert_eq!(reasoner["max_completion_tokens"], 9);
    }
}
