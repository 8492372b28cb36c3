//! Classifies an upstream's errors: answers with an error status, and errors inside a stream.

use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::model::model_client::{Detail, ModelError};

/// Maximum pause that is accepted from an upstream.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Returns the error of a status that is not a success.
pub(super) fn classify(status: u16, retry_after: Option<Duration>, body: &str) -> ModelError {
    let said = Said::in_body(body);
    let detail = said.detail.clone();
    match status {
        429 => ModelError::RateLimited { retry_after, detail },
        // The conversation is too long for this model; another model may have a larger window.
        400 | 413 if said.is("context_length_exceeded") => ModelError::Rejected { status, detail },
        400 | 413 | 422 => ModelError::InvalidRequest { status, detail },
        408 | 425 | 500.. => ModelError::Server { status, retry_after, detail },
        _ => ModelError::Rejected { status, detail },
    }
}

/// Reads the error from a payload that has one in place of an answer. Returns `None` if it has none.
pub(super) fn in_band(payload: &str) -> Option<ModelError> {
    let value: Value = serde_json::from_str(payload).ok()?;
    value.get("error").filter(|error| !error.is_null()).map(of_error)
}

/// Reads an `error` member.
pub(super) fn of_error(error: &Value) -> ModelError {
    let said = Said::in_error(error);
    if said.is("rate_limit") || said.is("quota") || said.codes.iter().any(|code| code == "429") {
        return ModelError::RateLimited { retry_after: None, detail: said.detail };
    }
    let code = said.codes.into_iter().next().unwrap_or_else(|| "unknown".to_owned());
    // A code is one word; other characters are dropped.
    let code = code.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    ModelError::InBand { code, detail: said.detail }
}

/// Reads the pause in Retry-After: seconds, or a date. The date is compared with the upstream's own clock
/// (the Date header).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(RETRY_AFTER)?;
    let seconds = match after.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = DateTime::parse_from_rfc2822(after).ok()?;
            let now = DateTime::parse_from_rfc2822(text(DATE)?).ok()?;
            (at - now).num_milliseconds() as f64 / 1000.0
        }
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().map(|pause| pause.min(LONGEST_PAUSE))
}

/// An upstream's description of an error.
struct Said {
    /// Codes and types, the most specific first.
    codes: Vec<String>,
    detail: Detail,
}

impl Said {
    fn in_body(body: &str) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(value) if value.get("error").is_some() => Self::in_error(&value["error"]),
            // The body is not JSON, was cut off, or has no `error`: keeps it as text.
            Ok(_) | Err(_) => Self { codes: Vec::new(), detail: Detail::new(body) },
        }
    }

    fn in_error(error: &Value) -> Self {
        let word = |field: &str| match &error[field] {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let detail = match error {
            Value::String(text) => Detail::new(text),
            _ => Detail::new(&word("message").unwrap_or_else(|| error.to_string())),
        };
        Self { codes: ["code", "type", "status"].into_iter().filter_map(word).collect(), detail }
    }

    fn is(&self, word: &str) -> bool {
        self.codes.iter().any(|code| code.to_ascii_lowercase().contains(word))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::model::model_client::{FailureClass, MAX_DETAIL_BYTES};

    #[test]
    fn every_status_has_its_class() {
        use FailureClass::*;
        let too_long = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
        let table = [
            (301, "", Rejected),
            (400, "", InvalidRequest),
            (400, too_long, Rejected),
            (401, "", Rejected),
            (402, "", Rejected),
            (403, "", Rejected),
            (404, "", Rejected),
            (408, "", Transient),
            (413, "", InvalidRequest),
            (422, "", InvalidRequest),
            (425, "", Transient),
            (429, "", RateLimited),
            (500, "", Transient),
            (503, "", Transient),
            (529, "", Transient),
        ];
        for (status, body, class) in table {
            assert_eq!(classify(status, None, body).class(), class, "{status} {body}");
        }
    }

    #[test]
    fn every_shape_of_an_error_in_the_stream_is_read() {
        let table = [
            (r#"{"error":{"message":"m","type":"server_error","code":null}}"#, "server_error"),
            (r#"{"error":{"message":"m","code":502}}"#, "502"),
            (r#"{"error":"m"}"#, "unknown"),
            (r#"{"error":{"nothing":"known"}}"#, "unknown"),
        ];
        for (payload, expected) in table {
            let Some(ModelError::InBand { code, .. }) = in_band(payload) else { panic!("{payload}") };
            assert_eq!(code, expected, "{payload}");
        }
        for limited in [
            r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#,
            r#"{"error":{"message":"m","type":"insufficient_quota"}}"#,
            r#"{"error":{"message":"m","code":429}}"#,
        ] {
            assert_eq!(in_band(limited).unwrap().class(), FailureClass::RateLimited, "{limited}");
        }
        for fine in [r#"{"choices":[]}"#, r#"{"error":null}"#, "no json"] {
            assert!(in_band(fine).is_none(), "{fine}");
        }
    }

    #[test]
    fn an_error_text_is_bounded_and_on_one_line() {
        let body = format!("line one\nline two {}", "é".repeat(MAX_DETAIL_BYTES));
        let ModelError::Server { detail, .. } = classify(500, None, &body) else { panic!() };
        assert!(
            detail.to_string().starts_with("line one line two")
                && detail.to_string().len() <= MAX_DETAIL_BYTES
        );
        let error = classify(401, None, r#"{"error":{"message":"key sk-123 of org-7 is bad"}}"#);
        assert!(error.to_string().contains("sk-123"));
        assert_eq!(error.class().public_message(), "the model's provider refused the call");
    }

    #[test]
    fn a_retry_after_is_read_as_seconds_or_as_a_date() {
        let header = |after: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            retry_after(&headers)
        };
        let seconds = Duration::from_secs;
        assert_eq!(header("7"), Some(seconds(7)));
        assert_eq!(header("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(header("Wed, 21 Oct 2015 07:28:30 GMT"), Some(seconds(30)));
        assert_eq!(header("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO), "it is over");
        assert_eq!(header("-3"), Some(Duration::ZERO));
        assert_eq!(header("1e300"), None);
        assert_eq!(header("99999999"), Some(LONGEST_PAUSE));
        for bad in ["soon", "", "NaN", "inf"] {
            assert!(header(bad).is_none_or(|pause| pause.is_zero()), "{bad}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
