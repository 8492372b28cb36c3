//! Directory entries of a sandbox.

use chrono::{DateTime, Utc};

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    /// A symbolic link; never followed.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name without its directory.
    pub name: String,
    pub kind: EntryKind,
    pub size_bytes: i64,
    /// The permission bits alone.
    pub mode: u32,
    pub modified_at: Option<DateTime<Utc>>,
}

/// A directory's first entries by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// Whether the directory has more entries than these.
    pub truncated: bool,
}
