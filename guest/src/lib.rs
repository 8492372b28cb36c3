//! The program inside each sandbox: it runs commands, and reads, writes and lists files, for sandbox-svc on
//! the host, over one Unix socket.
//!
//! Commands and file writes have a key. One guest process runs the call of a key at most once, however often
//! sandbox-svc sends it, and stores a *record* of its result (`records.rs`). The guest's memory is bounded
//! (`limits.rs`), and its file calls follow no symbolic link (`files.rs`).
//!
//! The guest is not a security boundary: the commands run as the same user and can kill or impersonate it.
//! The container around them is the boundary, and sandbox-svc bounds and checks everything that it reads from
//! this socket. When the guest ends, the container ends.

mod exec;
mod files;
mod kill;
mod limits;
mod records;
mod service;

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use steward_proto::guest::v1::guest_service_server::GuestServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::service::Guest;
pub use crate::{
    files::Roots,
    limits::{BLOCKING_THREADS, Limits},
};

/// Name of the socket inside the run directory.
pub const SOCKET_NAME: &str = "guest.sock";

/// Configuration of one guest process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory in which the guest opens its socket.
    pub run_dir: PathBuf,
    pub sandbox_id: String,
    /// Generation of the sandbox.
    pub generation: i64,
    /// Directories that file calls may read or write.
    pub roots: Roots,
    pub limits: Limits,
}

/// Serves until `stop` completes.
///
/// # Errors
/// Fails if the socket cannot be opened, or the server fails.
pub async fn serve(config: Config, stop: impl Future<Output = ()>) -> io::Result<()> {
    let listener = listen(&config.run_dir)?;
    let message_bytes = config.limits.message_bytes;
    let service = GuestServiceServer::new(Guest::new(config, random_hex()?))
        .max_decoding_message_size(message_bytes)
        .max_encoding_message_size(message_bytes);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(io::Error::other)
}

/// Opens the socket under a temporary name and renames it, so that sandbox-svc can connect as soon as it sees
/// the file.
fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let temporary = run_dir.join(".guest.sock");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    // Lets every user connect, because sandbox-svc may run as any user. Other users of the host cannot enter
    // the directory above the run directory.
    fs::set_permissions(&temporary, Permissions::from_mode(0o666))?;
    fs::rename(&temporary, run_dir.join(SOCKET_NAME))?;
    Ok(listener)
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
