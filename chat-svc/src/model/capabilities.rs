//! Capabilities of models by their normalized id. A model without a row in the table gets
//! [`Capabilities::UNKNOWN`].
//!
//! One model has many names: `gpt-4o`, `openai/gpt-4o-2024-11-20`, `us.anthropic.claude-…-v1:0`.
//! [`normalise`] reduces them to one; the longest matching prefix in the table decides. A row states only
//! capabilities that were checked with that family.

/// Capabilities of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Whether the model continues an assistant message at the end of the conversation.
    pub prefill: bool,
    pub tools: bool,
    /// Whether the model makes several tool calls in one message.
    pub parallel_tools: bool,
    /// Whether the model reads images in the input.
    pub images: bool,
    /// The request field that limits the output tokens of its answer.
    pub limit: LimitField,
}

/// Names of the limit on output tokens in Chat Completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitField {
    /// `max_tokens`: every server knows it, but OpenAI's reasoning models refuse it.
    MaxTokens,
    /// `max_completion_tokens`: counts reasoning too.
    MaxCompletionTokens,
}

impl Capabilities {
    /// Assumed for a model without a row: text in, text out. Tools are offered nevertheless: a server that
    /// cannot call tools answers 4xx, but a turn that silently lacks its tools is useless.
    pub(crate) const UNKNOWN: Self = Self {
        prefill: false,
        tools: true,
        parallel_tools: false,
        images: false,
        limit: LimitField::MaxTokens,
    };

    /// Returns the capabilities of the model with this id.
    pub(crate) fn of(model: &str) -> Self {
        let id = normalise(model);
        TABLE
            .iter()
            .filter(|(prefix, _)| is_family(&id, prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(Self::UNKNOWN, |(_, capabilities)| *capabilities)
    }
}

const fn row(
    prefill: bool,
    tools: bool,
    parallel_tools: bool,
    images: bool,
    limit: LimitField,
) -> Capabilities {
    Capabilities { prefill, tools, parallel_tools, images, limit }
}

use LimitField::{MaxCompletionTokens as Completion, MaxTokens as Tokens};

/// Families of models, by prefix of the normalised id.
#[rustfmt::skip]
const TABLE: &[(&str, Capabilities)] = &[
    //                              prefill tools  parallel images limit
    ("demo",                    row(true,   true,  true,    false, Tokens)),
    ("gpt-3.5",                 row(false,  true,  true,    false, Tokens)),
    ("gpt-4",                   row(false,  true,  true,    false, Tokens)),
    ("gpt-4-turbo",             row(false,  true,  true,    true,  Tokens)),
    ("gpt-4o",                  row(false,  true,  true,    true,  Tokens)),
    ("gpt-4.1",                 row(false,  true,  true,    true,  Tokens)),
    ("gpt-5",                   row(false,  true,  true,    true,  Completion)),
    ("gpt-oss",                 row(false,  true,  false,   false, Tokens)),
    ("o1",                      row(false,  true,  false,   true,  Completion)),
    ("o1-mini",                 row(false,  false, false,   false, Completion)),
    ("o3",                      row(false,  true,  true,    true,  Completion)),
    ("o3-mini",                 row(false,  true,  true,    false, Completion)),
    ("o4-mini",                 row(false,  true,  true,    true,  Completion)),
    // A thinking model refuses a prefill, and newer models may always think: only Claude 3 is known to accept
    // one.
    ("claude",                  row(false,  true,  true,    true,  Tokens)),
    ("claude-3",                row(true,   true,  true,    true,  Tokens)),
    ("claude-3-7",              row(false,  true,  true,    true,  Tokens)),
    ("gemini",                  row(false,  true,  true,    true,  Tokens)),
    ("deepseek-chat",           row(false,  true,  true,    false, Tokens)),
    ("deepseek-reasoner",       row(false,  false, false,   false, Tokens)),
    ("mistral",                 row(false,  true,  true,    false, Tokens)),
    ("llama-3",                 row(false,  true,  false,   false, Tokens)),
    ("qwen",                    row(false,  true,  false,   false, Tokens)),
];

/// Normalizes a model's id: lower case, without the path or region before the name and without the dates,
/// revisions and tags after it.
pub(crate) fn normalise(model: &str) -> String {
    let id = model.trim().to_ascii_lowercase();
    // Removes a path: "openrouter/openai/gpt-4o", "models/gemini-…".
    let id = id.rsplit('/').next().unwrap_or_default();
    // Removes a tag or revision: "gpt-4o:extended", "llama3:70b", "…-v1:0", "claude-…@20250514".
    let id = id.split([':', '@']).next().unwrap_or_default();
    // Removes a region: "us.anthropic.claude-…"; the dot of "gpt-4.1" stays.
    let id = id.rsplit_once("anthropic.").map_or(id, |(_, rest)| rest);
    let mut id = id.replace('_', "-");
    loop {
        let shorter = strip_suffix(&id).map(str::len);
        match shorter {
            Some(len) if len > 0 => id.truncate(len),
            Some(_) | None => return id,
        }
    }
}

/// Removes one trailing part that names a revision: a date, `latest`, `preview`, `v1`.
fn strip_suffix(id: &str) -> Option<&str> {
    let (rest, last) = id.rsplit_once('-')?;
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    if matches!(last, "latest" | "preview" | "v1" | "v2" | "exp") || digits(last, 8) {
        return Some(rest);
    }
    // "2024-11-20"
    let (before_month, month) = rest.rsplit_once('-')?;
    let (before_year, year) = before_month.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(before_year)
}

/// Whether `id` starts with `prefix`, and `prefix` does not end inside a number of `id`.
fn is_family(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix).is_some_and(|rest| {
        !rest.starts_with(|c: char| c.is_ascii_digit() && prefix.ends_with(|p: char| p.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_names_of_a_model_normalize_to_one() {
        let table = [
            ("gpt-4o", "gpt-4o"),
            ("GPT-4o", "gpt-4o"),
            ("openai/gpt-4o-2024-11-20", "gpt-4o"),
            ("openrouter/openai/gpt-4o:extended", "gpt-4o"),
            ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
            ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
            ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
            ("claude-opus-4@20250514", "claude-opus-4"),
            ("models/gemini-2.5-pro-preview", "gemini-2.5-pro"),
            ("", ""),
            ("20241022", "20241022"),
        ];
        for (name, id) in table {
            assert_eq!(normalise(name), id, "{name}");
        }
    }

    #[test]
    fn the_longest_family_decides() {
        let images = |model| Capabilities::of(model).images;
        assert!(images("gpt-4o-mini") && images("openai/gpt-4.1-2025-04-14") && !images("gpt-4-0613"));
        assert!(Capabilities::of("o1-preview").tools && !Capabilities::of("o1-mini-2024-09-12").tools);
        assert_eq!(Capabilities::of("gpt-5-mini").limit, LimitField::MaxCompletionTokens);
        assert!(Capabilities::of("claude-3-5-sonnet-20241022").prefill);
        assert!(
            !Capabilities::of("claude-3-7-sonnet").prefill && !Capabilities::of("claude-opus-4-1").prefill
        );
        assert!(Capabilities::of("demo").prefill);
    }

    #[test]
    fn a_model_with_a_similar_prefix_is_unknown() {
        for model in ["o11", "gpt-55-turbo", "claude-30", "", "my-own-model", "gp", "x/y/z"] {
            let known = model.starts_with("claude");
            assert_eq!(Capabilities::of(model) == Capabilities::UNKNOWN, !known, "{model}");
        }
        assert!(!Capabilities::of("claude-30").prefill, "not the third generation");
    }

    #[test]
    fn the_table_is_consistent() {
        for (index, (prefix, row)) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|(other, _)| other != prefix), "{prefix}");
            assert!(row.tools || !row.parallel_tools, "{prefix}");
            assert_eq!(normalise(prefix), *prefix, "a family is a normalised id");
            assert_eq!(Capabilities::of(prefix), *row, "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn normalizing_is_idempotent(name in "[a-zA-Z0-9/:@._-]{0,40}") {
            let once = normalise(&name);
            prop_assert_eq!(normalise(&once), once);
        }
    }
}
