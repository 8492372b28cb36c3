//! Pages of a listing: their sizes and opaque tokens.
//!
//! A token is base64url of `[version, listing, cursor]`. It is valid for one listing and contains only a
//! position. It needs no signature: a query returns only rows that its caller may read, whatever the
//! position, so a forged token shows the caller nothing more.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::Invalid;

/// Request field that holds a token.
const TOKEN_FIELD: &str = "page_token";

/// Request field that holds a size.
const SIZE_FIELD: &str = "page_size";

const VERSION: u8 = 1;

/// Maximum bytes of a token. A longer one is refused without being decoded.
const MAX_TOKEN: usize = 1024;

/// Returns the size of a page: `requested`, or `default` if `requested` is 0, but at most `most`.
///
/// # Errors
/// [`Invalid`] if `requested` is negative.
pub fn size(requested: i32, default: u32, most: u32) -> Result<u32, Invalid> {
    match u32::try_from(requested) {
        Ok(0) => Ok(default.min(most)),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(Invalid::new(SIZE_FIELD, "must not be negative")),
    }
}

/// Builds the token of the page of `listing` (for example `chat.sessions`) that begins after `cursor`.
///
/// If the cursor cannot be written as JSON, returns the empty token, which ends the listing.
pub fn token<C: Serialize>(listing: &str, cursor: &C) -> String {
    serde_json::to_vec(&(VERSION, listing, cursor)).map_or_else(
        |error| {
            tracing::error!(%error, listing, "page cursor cannot be encoded");
            String::new()
        },
        |json| URL_SAFE_NO_PAD.encode(json),
    )
}

/// Reads the cursor from a token of `listing`. The empty token stands for the first page; its cursor is
/// `None`.
///
/// # Errors
/// [`Invalid`] if the token is malformed, of another listing or of another version.
pub fn cursor<C: DeserializeOwned>(listing: &str, token: &str) -> Result<Option<C>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let json = (token.len() <= MAX_TOKEN).then(|| URL_SAFE_NO_PAD.decode(token).ok()).flatten()?;
        let (version, of, cursor): (u8, String, C) = serde_json::from_slice(&json).ok()?;
        (version == VERSION && of == listing).then_some(cursor)
    };
    read().map(Some).ok_or_else(|| Invalid::new(TOKEN_FIELD, "is not a token of this listing"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Token of the next page; empty if this is the last page.
    pub next_page_token: String,
}

impl<T> Page<T> {
    /// Builds a page from `rows`, the result of a query with `LIMIT size + 1`. If the query returned `size +
    /// 1` rows, there is a next page, which begins after the last item of this one.
    pub fn cut<C: Serialize>(
        listing: &str,
        mut rows: Vec<T>,
        size: u32,
        cursor_of: impl FnOnce(&T) -> C,
    ) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let next_page_token = match rows.last() {
            Some(last) if more => token(listing, &cursor_of(last)),
            Some(_) | None => String::new(),
        };
        Self { items: rows, next_page_token }
    }

    pub fn map<U>(self, each: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(each).collect(), next_page_token: self.next_page_token }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    type Cursor = (i64, Uuid);

    #[test]
    fn a_cursor_comes_back_from_its_token() {
        let at: Cursor = (7, crate::id::new_id());
        let token = token("chat.sessions", &at);
        assert_eq!(cursor::<Cursor>("chat.sessions", &token).unwrap(), Some(at));
        assert_eq!(cursor::<Cursor>("chat.sessions", "").unwrap(), None);
    }

    #[test]
    fn a_token_of_another_listing_is_refused() {
        let token = token("chat.sessions", &(7_i64, crate::id::new_id()));
        assert_eq!(cursor::<Cursor>("chat.messages", &token).unwrap_err().field, TOKEN_FIELD);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_more(text in ".{1,200}") {
            prop_assert!(cursor::<Cursor>("chat.sessions", &text).is_err());
        }
    }

    #[test]
    fn sizes_are_clamped_and_never_negative() {
        assert_eq!([size(0, 50, 200), size(7, 50, 200), size(900, 50, 200)], [Ok(50), Ok(7), Ok(200)]);
        assert_eq!(size(-1, 50, 200).unwrap_err().field, SIZE_FIELD);
    }

    #[test]
    fn only_a_page_with_a_row_too_many_has_a_next_one() {
        let full = Page::cut("n", vec![1, 2, 3], 2, |last| *last);
        assert_eq!(full.items, [1, 2]);
        assert_eq!(cursor::<i32>("n", &full.next_page_token).unwrap(), Some(2));
        for rows in [vec![], vec![1], vec![1, 2]] {
            assert_eq!(Page::cut("n", rows, 2, |last| *last).next_page_token, "");
        }
    }
}
