//! Reads server-sent events: the fields `id`, `event` and `data`, and comments.

use anyhow::{Context, Result};
use reqwest::Response;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The cursor that continues after this event; empty if the frame has no `id`.
    pub id: String,
    /// The event's kind; empty if the frame has no `event`.
    pub event: String,
    /// The data; several lines are joined by newlines.
    pub data: String,
}

/// The frames of one HTTP response.
#[derive(Debug)]
pub struct Frames {
    answer: Response,
    parser: Parser,
}

impl Frames {
    pub fn of(answer: Response) -> Self {
        Self { answer, parser: Parser::default() }
    }

    /// Returns the next frame; `None` at the end of the stream. A frame without its closing empty line is
    /// dropped.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parser.next() {
                return Ok(Some(frame));
            }
            match self.answer.chunk().await.context("read the stream")? {
                Some(bytes) => self.parser.feed(&bytes),
                None => return Ok(None),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Parser {
    bytes: Vec<u8>,
    frame: Frame,
    begun: bool,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Frame> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(frame) = self.line(line.trim_end_matches(['\r', '\n'])) {
                return Some(frame);
            }
        }
        None
    }

    /// Reads one line. An empty line ends the frame, which is returned.
    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            return std::mem::take(&mut self.begun).then(|| std::mem::take(&mut self.frame));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.frame.id),
            "event" => value.clone_into(&mut self.frame.event),
            "data" => {
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            // The line is a comment, or a field that this version does not know.
            _ => return None,
        }
        self.begun = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<Frame> {
        let mut parser = Parser::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            parser.feed(chunk.as_bytes());
            frames.extend(std::iter::from_fn(|| parser.next()));
        }
        frames
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_split() {
        let text = ": hello\n\nid: t:1\nevent: text.delta\ndata: {\"text\":\"ä\"}\n\n\
                    event: end\r\ndata: a\r\ndata: b\r\n\r\n";
        let whole = parse(&[text]);
        assert_eq!(whole.len(), 2);
        assert_eq!(
            whole[0],
            Frame { id: "t:1".into(), event: "text.delta".into(), data: "{\"text\":\"ä\"}".into() }
        );
        assert_eq!(whole[1].data, "a\nb");
        let pieces: Vec<&str> = text.split_inclusive(' ').collect();
        assert_eq!(parse(&pieces), whole);
    }

    #[test]
    fn an_unfinished_frame_is_dropped() {
        assert_eq!(parse(&["id: 1\ndata: {}\n"]), []);
    }
}
