//! TCP ports on the loopback address: finds free ones, and the process that listens on a port.

use std::{
    fmt, fs,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::Path,
};

use anyhow::{Result, bail};
use rand::RngExt;

/// Ports below Linux's ephemeral range (32768 and up), so that no outgoing connection takes a server's port
/// while the server is restarted.
const PORTS: Range<u16> = 20_000..32_768;

/// Finds a free port for which `accept` returns true.
pub(crate) fn free_port(accept: impl Fn(u16) -> bool) -> Result<u16> {
    let mut rng = rand::rng();
    for _ in 0..64 {
        let port = rng.random_range(PORTS);
        if is_free(port) && accept(port) {
            return Ok(port);
        }
    }
    bail!("no free port on the loopback address")
}

/// Returns whether the port can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Finds the process that listens on a TCP port. Returns `None` also if this process may not read that one's
/// descriptors, because another user runs it.
pub fn holder(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path(), &sockets).then(|| Holder { pid, command: command_line(&entry.path()) })
    })
}

/// Lists the inodes of the sockets that listen on `port`, from the text of `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, address, _, state, _, _, _, _, _, inode, ..]
                if address.ends_with(&local) && *state == LISTEN =>
            {
                Some((*inode).to_owned())
            }
            _ => None,
        }
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

fn command_line(process: &Path) -> String {
    let bytes = fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_taken_port_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let holder = holder(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(holder.to_string().contains(&holder.command) && !holder.command.is_empty());
    }

    #[test]
    fn a_free_port_has_no_holder() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        assert_eq!(holder(port), None);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "sl local_address rem_address st queues timers retrnsmt uid timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1 0\n\
            1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000 0 0 222 1 0\n";
        assert_eq!(listening(table, 8080), ["111"]);
    }
}
