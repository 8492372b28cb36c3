//! Server-sent events, without I/O: bytes in, frames out, within bounds.
//!
//! Follows the HTML standard's event stream format: lines end with CR, LF or both, in any mixture and across
//! chunks; `data` lines of one event are joined. Only the data, the event's name and comments are kept,
//! because a model's stream uses nothing else.

use std::collections::VecDeque;

/// Maximum bytes of a line and of an event.
pub(super) const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One item of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// `name` is `message` if the event has none; `data` are its joined data lines.
    Event { name: String, data: String },
    /// Servers keep a connection alive with comments.
    Comment,
}

/// Why the stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    #[error("the stream is not UTF-8")]
    NotUtf8,
}

/// A decoder of one stream.
#[derive(Debug, Default)]
pub(super) struct SseDecoder {
    line: Vec<u8>,
    /// The last byte was a CR, so an LF directly after it is part of the same line end.
    after_cr: bool,
    begun: bool,
    name: String,
    data: Option<String>,
    frames: VecDeque<Frame>,
}

impl SseDecoder {
    /// Decodes the next bytes. The decoder must not be used after an error.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            self.grow(&bytes[..end])?;
            self.end_line()?;
            let rest = &bytes[end + 1..];
            bytes = match (bytes[end], rest.first()) {
                (b'\r', Some(b'\n')) => &rest[1..],
                (b'\r', None) => {
                    self.after_cr = true;
                    rest
                }
                _ => rest,
            };
        }
        self.grow(bytes)
    }

    /// Takes the next complete frame.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let data = self.data.as_ref().map_or(0, String::len);
        if self.line.len() + bytes.len() + data > MAX_EVENT_BYTES {
            return Err(SseError::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        let line = if self.begun { line } else { line.strip_prefix('\u{feff}').unwrap_or(line) };
        self.begun = true;
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                self.frames.push_back(Frame::Event { name, data });
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.frames.push_back(Frame::Comment),
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // The fields "id" and "retry" serve clients that reconnect, which a model's client does not do.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(chunks: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = SseDecoder::default();
        for chunk in chunks {
            decoder.push(chunk).unwrap();
        }
        std::iter::from_fn(|| decoder.next_frame()).collect()
    }

    fn event(name: &str, data: &str) -> Frame {
        Frame::Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_decoded_as_the_standard_says() {
        let message = |data| vec![event("message", data)];
        let table: [(&[u8], Vec<Frame>); 11] = [
            (b"data: a\n\n", message("a")),
            (b"data:a\n\n", message("a")),
            (b"data:  a\n\n", message(" a")),
            (b"data: a\r\n\r\n", message("a")),
            (b"data: a\r\rdata: b\r\r", vec![event("message", "a"), event("message", "b")]),
            (b"data: a\ndata: b\n\n", message("a\nb")),
            (b"data\n\n", message("")),
            (b"\xef\xbb\xbfdata: a\n\n", message("a")),
            (b": keep-alive\n\ndata: a\nid: 7\nretry: 1\n\n", vec![Frame::Comment, event("message", "a")]),
            (b"event: error\ndata: {}\n\ndata: b\n\n", vec![event("error", "{}"), event("message", "b")]),
            (b"event: ping\n\ndata: a", vec![]),
        ];
        for (bytes, expected) in table {
            assert_eq!(frames(&[bytes]), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_event_that_is_too_long_or_not_text_is_refused() {
        let mut decoder = SseDecoder::default();
        let chunk = vec![b'x'; MAX_EVENT_BYTES / 2];
        decoder.push(&chunk).unwrap();
        decoder.push(&chunk).unwrap();
        assert_eq!(decoder.push(b"x"), Err(SseError::TooLong));

        let mut decoder = SseDecoder::default();
        let line = [b"data: ", &chunk[..], b"\n"].concat();
        decoder.push(&line).unwrap();
        assert_eq!(decoder.push(&line), Err(SseError::TooLong), "many lines are one event");

        assert_eq!(SseDecoder::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(
            text in concat!(
                "(data: [a-zé]{0,4}|event: x|:|id: 1)?(\r\n|\n|\r)",
                "((data: [a-zé]{0,4}|:c)?(\r\n|\n|\r)){0,8}",
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(frames(&chunks), frames(&[bytes]));
        }
    }
}
