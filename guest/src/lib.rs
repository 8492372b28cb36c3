//! The program inside each sandbox: it runs commands and moves files for its host, over one Unix socket.
//!
//! It owns the *records* of keyed calls ([`records`]): a key runs at most once in the life of an instance, whoever
//! asks and however often. It guarantees bounded memory, whatever runs beside it ([`Limits`]), and that file calls
//! follow no symbolic link ([`files`]).
//!
//! It is no security boundary: everything it runs has its own user and may kill or impersonate it. The boundary is
//! the container around both; the host bounds and checks whatever comes out of this socket. When the guest ends,
//! the container ends.

pub mod exec;
pub mod files;
mod kill;
pub mod records;
pub mod service;

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use steward_proto::guest::v1::guest_service_server::GuestServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::{files::Roots, records::Records, service::Guest};

/// Name of the socket inside the run directory.
pub const SOCKET_NAME: &str = "guest.sock";

/// What the guest keeps and takes at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys it remembers. They are never forgotten, so a full table refuses new keys.
    pub keys: usize,
    /// Commands that run at once.
    pub running: usize,
    /// Bytes of finished output it keeps for repeated questions; beyond, the oldest outputs go, their outcomes stay.
    pub kept_output_bytes: usize,
    /// Bytes of each output stream of one command.
    pub stream_bytes: usize,
    /// Bytes of one file, read or written, and of one standard input.
    pub file_bytes: usize,
    /// Bytes of one message on the socket.
    pub message_bytes: usize,
}

impl Limits {
    /// What the binary uses: at most about 20 MiB of keys, 16 MiB of kept output and 3 MiB a running command.
    pub const STANDARD: Self = Self {
        keys: 100_000,
        running: 32,
        kept_output_bytes: 16 << 20,
        stream_bytes: 1 << 20,
        file_bytes: 1 << 20,
        message_bytes: 4 << 20,
    };
}

/// What a guest is told when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory in which it opens its socket.
    pub run_dir: PathBuf,
    /// Sandbox it serves.
    pub sandbox_id: String,
    /// Generation of that sandbox.
    pub generation: i64,
    /// Directories it may touch.
    pub roots: Roots,
    /// Bounds.
    pub limits: Limits,
}

/// Serves until `stop` is done.
///
/// # Errors
/// If the socket cannot be opened, or the server fails.
pub async fn serve(config: Config, stop: impl Future<Output = ()>) -> io::Result<()> {
    let listener = listen(&config.run_dir)?;
    let records = Records::new(config.limits);
    let instance = random_hex()?;
    let guest =
        Guest::new(config.sandbox_id, config.generation, instance, config.roots, config.limits, records);
    let service = GuestServiceServer::new(guest)
        .max_decoding_message_size(config.limits.message_bytes)
        .max_encoding_message_size(config.limits.message_bytes);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(io::Error::other)
}

/// Opens the socket under a temporary name and renames it, so that a host that finds it can connect.
fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let temporary = run_dir.join(".guest.sock");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    // The host's service need not be root; the directory above the run directory keeps others out.
    fs::set_permissions(&temporary, Permissions::from_mode(0o666))?;
    fs::rename(&temporary, run_dir.join(SOCKET_NAME))?;
    Ok(listener)
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
