//! Every limit of the guest. Tests set other values in [`Limits`]; the constants are the same everywhere.

use std::time::Duration;

/// Maximum threads for blocking work. The guest keeps them until it ends, and they count against the
/// sandbox's process limit.
pub const BLOCKING_THREADS: usize = 8;

/// Maximum bytes of a command's arguments, each with a closing zero byte.
pub(crate) const ARGV_BYTES: usize = 1 << 20;

/// Maximum bytes of the environment variables of one Exec or Bind request, each with two bytes for `=` and
/// the closing zero byte.
pub(crate) const ENV_BYTES: usize = 256 << 10;

/// Maximum entries of one directory listing.
pub(crate) const LIST_ENTRIES: usize = 1_000;

/// Maximum run time of a command, and its timeout if the request names none. The host never asks for more.
pub(crate) const EXEC_TIME: Duration = Duration::from_secs(3_600);

/// Maximum bytes in a pipe (`/proc/sys/fs/pipe-max-size` for users), and so the maximum that an ended command
/// can have left in one.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// Maximum scans of `/proc` for the descendants of a command that is killed. A child that is forked during a
/// scan is found by the next scan.
pub(crate) const KILL_SCANS: usize = 16;

/// Maximum amounts that one guest stores and accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys. The guest never deletes one, so a full table refuses new keys.
    pub keys: usize,
    /// Commands that run at the same time.
    pub running: usize,
    /// Bytes of finished output kept for repeated calls. Beyond that, the oldest outputs are dropped; their
    /// exit codes stay.
    pub kept_output_bytes: usize,
    /// Bytes of each output stream of one command.
    pub stream_bytes: usize,
    /// Bytes of one file, read or written, and of one standard input.
    pub file_bytes: usize,
    /// Bytes of one gRPC message.
    pub message_bytes: usize,
}

impl Limits {
    /// The limits of the program: at most about 20 MiB of keys, 16 MiB of kept output and 3 MiB per running
    /// command.
    pub const STANDARD: Self = Self {
        keys: 100_000,
        running: 32,
        kept_output_bytes: 16 << 20,
        stream_bytes: 1 << 20,
        file_bytes: 1 << 20,
        message_bytes: 4 << 20,
    };
}
