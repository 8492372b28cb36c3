//! Path templates of `google.api.http`: literals, `{variable}` segments and a trailing `:verb`.
//!
//! The grammar also has `*`, `**` and `{variable=sub/*}`. The contract uses none of them, and a template that
//! does is refused, because the gateway does not implement them.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The segments between slashes, at least one.
    segments: Vec<Segment>,
    /// The text after the last segment's colon.
    pub(crate) verb: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Matches only this text.
    Literal(String),
    /// Matches any non-empty segment and fills the request field with this dotted name.
    Variable(String),
}

impl Template {
    /// Parses a template such as `/v1/turns/{turn_id}:cancel`. The error completes the sentence "the template
    /// …".
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("does not start with a slash")?;
        // A colon cannot be inside braces, because field names have none.
        let (path, verb) = match path.rsplit_once(':') {
            Some((_, verb)) if verb.contains('/') => return Err("has a verb before its end".to_owned()),
            Some((path, verb)) => (path, Some(literal(verb)?)),
            None => (path, None),
        };
        let segments: Vec<_> = path.split('/').map(segment).collect::<Result<_, _>>()?;
        let mut names: Vec<_> = segments.iter().filter_map(Segment::variable).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("names a variable twice".to_owned());
        }
        Ok(Self { segments, verb })
    }

    /// Names of the variables, in order.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::variable)
    }

    /// Writes the template. `name` gets the number and the field of each variable and returns the text to
    /// write in the braces.
    pub(crate) fn render(&self, mut name: impl FnMut(usize, &str) -> String) -> String {
        let mut text = String::new();
        let mut variable = 0;
        for segment in &self.segments {
            text.push('/');
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::Variable(path) => {
                    text.push_str(&format!("{{{}}}", name(variable, path)));
                    variable += 1;
                }
            }
        }
        if let Some(verb) = &self.verb {
            text.push(':');
            text.push_str(verb);
        }
        text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(|_, path| path.to_owned()))
    }
}

impl Segment {
    fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(path) => Some(path),
            Self::Literal(_) => None,
        }
    }
}

fn segment(text: &str) -> Result<Segment, String> {
    let Some(inner) = text.strip_prefix('{') else { return literal(text).map(Segment::Literal) };
    let inner = inner.strip_suffix('}').ok_or_else(|| format!("has a malformed segment {text:?}"))?;
    // "{id=*}" is the long form of "{id}".
    let path = inner.strip_suffix("=*").unwrap_or(inner);
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if path.split('.').all(is_name) {
        Ok(Segment::Variable(path.to_owned()))
    } else {
        Err(format!("has an unsupported variable {text:?}"))
    }
}

fn literal(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    if !text.is_empty() && text.bytes().all(plain) && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        Err(format!("has an unsupported segment {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsed_template_prints_as_written() {
        for text in
            ["/v1/turns", "/v1/turns/{turn_id}", "/v1/turns/{turn_id}:cancel", "/v1/x/{a.b}/turns:run"]
        {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Template::parse("/v1/{id=*}").unwrap().to_string(), "/v1/{id}");
    }

    #[test]
    fn unsupported_templates_are_refused() {
        for text in [
            "",
            "v1",
            "/",
            "/v1/",
            "/v1//x",
            "/v1/*",
            "/v1/**",
            "/v1/{name=a/*}",
            "/v1/{name=**}",
            "/v1/{}",
            "/v1/{a",
            "/v1/a}",
            "/v1/{a}{b}",
            "/v1/x{a}",
            "/v1/{a}:",
            "/v1:x/y",
            "/v1/{a}:b:c",
            "/v1/{a}/{a}",
            "/v1/ü",
            "/v1/%41",
            "/v1/..",
            "/v1/{1a}",
            "/v1/{a..b}",
        ] {
            assert!(Template::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
