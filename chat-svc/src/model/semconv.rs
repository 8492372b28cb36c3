//! Attribute names of OpenTelemetry's semantic conventions for generative AI (version 1.41). The crate of the
//! conventions no longer has them among its stable names.

/// Name of the operation: [`CHAT`].
pub(super) const OPERATION_NAME: &str = "gen_ai.operation.name";
/// The operation of every model client.
pub(super) const CHAT: &str = "chat";
/// Provider of the model.
pub(super) const PROVIDER_NAME: &str = "gen_ai.provider.name";
/// The model asked for.
pub(super) const REQUEST_MODEL: &str = "gen_ai.request.model";
/// Whether the answer is streamed.
pub(super) const REQUEST_STREAM: &str = "gen_ai.request.stream";
/// Bound on output tokens.
pub(super) const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub(super) const CONVERSATION_ID: &str = "gen_ai.conversation.id";
/// Why the model ended, one entry a choice.
pub(super) const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Seconds from the request to the first content.
pub(super) const RESPONSE_TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
/// Tokens of the prompt.
pub(super) const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens of the answer.
pub(super) const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Input tokens read from the provider's cache.
pub(super) const USAGE_CACHE_READ: &str = "gen_ai.usage.cache_read.input_tokens";
/// Input tokens written to the provider's cache.
pub(super) const USAGE_CACHE_CREATION: &str = "gen_ai.usage.cache_creation.input_tokens";
/// Output tokens spent on reasoning.
pub(super) const USAGE_REASONING: &str = "gen_ai.usage.reasoning.output_tokens";
/// The messages that the model was given; recorded only if content is captured.
pub(super) const INPUT_MESSAGES: &str = "gen_ai.input.messages";
/// The messages that the model returned; recorded only if content is captured.
pub(super) const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
/// The model's instructions; recorded only if content is captured.
pub(super) const SYSTEM_INSTRUCTIONS: &str = "gen_ai.system_instructions";
/// Direction of counted tokens, `input` or `output`.
pub(super) const TOKEN_TYPE: &str = "gen_ai.token.type";
/// Class of an error.
pub(super) const ERROR_TYPE: &str = "error.type";
/// Host that was called.
pub(super) const SERVER_ADDRESS: &str = "server.address";
/// Port that was called.
pub(super) const SERVER_PORT: &str = "server.port";
