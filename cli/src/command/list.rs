//! `steward list`: prints objects, one JSON object a line.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use steward_stack::terminal::say;

use crate::api::{ADMIN_TOKEN_FILE, Api, TOKEN_FILE, Target};

/// Maximum objects in one request; the API allows no larger page.
const MAX_PAGE: usize = 200;

/// List objects, one JSON object a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  steward list sessions --limit 5\n  steward list turns --session 0192…")]
pub(crate) struct Args {
    /// Kind of the objects.
    kind: Kind,
    /// Only objects with this status, as the API names it.
    #[arg(long)]
    status: Option<String>,
    /// Only objects of this session.
    #[arg(long)]
    session: Option<String>,
    /// Maximum number of objects.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Accounts,
    Agents,
    DeadLetters,
    Holds,
    Messages,
    Purges,
    Sandboxes,
    Sessions,
    Turns,
}

impl Kind {
    /// Returns the path of the list, the field of the answer with the objects, and the file with the token to
    /// use if the caller names none.
    fn endpoint(self, session: Option<&str>) -> Result<(String, &'static str, &'static str)> {
        let of_session = |noun: &str| match session {
            Some(session) => Ok(format!("/v1/sessions/{}/{noun}", escape(session))),
            None => bail!("{noun} are listed by session: give --session"),
        };
        Ok(match self {
            Self::Accounts => ("/v1/accounts".to_owned(), "accounts", ADMIN_TOKEN_FILE),
            Self::Agents => ("/v1/agents".to_owned(), "agents", TOKEN_FILE),
            Self::DeadLetters => ("/v1/dead-letters".to_owned(), "deadLetters", ADMIN_TOKEN_FILE),
            Self::Holds => ("/v1/holds".to_owned(), "holds", ADMIN_TOKEN_FILE),
            Self::Messages => (of_session("messages")?, "messages", TOKEN_FILE),
            Self::Purges => ("/v1/purges".to_owned(), "purges", TOKEN_FILE),
            Self::Sandboxes => ("/v1/sandboxes".to_owned(), "sandboxes", TOKEN_FILE),
            Self::Sessions => ("/v1/sessions".to_owned(), "sessions", TOKEN_FILE),
            Self::Turns => (of_session("turns")?, "turns", TOKEN_FILE),
        })
    }
}

/// Prints the objects page by page, until the end of the list or the limit. Sends each filter without a
/// check: the API refuses one that the list does not support.
pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let (path, field, token_file) = args.kind.endpoint(args.session.as_deref())?;
    let api = Api::open(home, &args.target, token_file)?;
    let (mut left, mut page_token) = (args.limit, String::new());
    while left > 0 {
        let answer = api.get(&format!("{path}?{}", query(args, &path, left, &page_token))).await?;
        let objects = answer[field].as_array().with_context(|| format!("the answer has no {field}"))?;
        for object in objects.iter().take(left) {
            say(object)?;
        }
        left -= objects.len().min(left);
        page_token = answer["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if page_token.is_empty() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &Args, path: &str, left: usize, page_token: &str) -> String {
    let mut query = format!("page_size={}", left.min(MAX_PAGE));
    let session = args.session.as_deref().filter(|session| !path.contains(&escape(session)));
    let page_token = Some(page_token).filter(|token| !token.is_empty());
    for (name, value) in
        [("page_token", page_token), ("status", args.status.as_deref()), ("session_id", session)]
    {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    query
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(kind: Kind, session: Option<&str>) -> Args {
        let target = Target { url: None, token: None };
        let (status, session) = (Some("A B".to_owned()), session.map(str::to_owned));
        Args { kind, status, session, limit: 7, target }
    }

    #[test]
    fn filters_are_query_parameters_unless_the_path_has_them() {
        let path = |kind: Kind, session| kind.endpoint(session).unwrap().0;
        let (sandboxes, turns) = (path(Kind::Sandboxes, None), path(Kind::Turns, Some("7")));
        assert_eq!(
            query(&args(Kind::Sandboxes, Some("7")), &sandboxes, 500, "next"),
            "page_size=200&page_token=next&status=A%20B&session_id=7"
        );
        assert_eq!(query(&args(Kind::Turns, Some("7")), &turns, 7, ""), "page_size=7&status=A%20B");
        assert!(Kind::Turns.endpoint(None).is_err());
    }
}
