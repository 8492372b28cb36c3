//! `.steward/`: everything the development stack keeps, and nothing outside it unless it must be.
//!
//! One process at a time owns a home (an advisory lock that ends with the process). Secrets are files of
//! mode 0600. A server that may not run as root keeps its data elsewhere when the home lies below a
//! directory its user cannot enter; the place is then noted in the home, so that `steward clean` finds it.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rand::RngExt;

use super::process::User;

/// An owned `.steward/` directory.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens a home, making it if there is none. Fails when another process has it open.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
        // Others may pass through (the database's user must reach its data) but not look around.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        let lock = lock(&root.join("lock"))?;
        Ok(Self { root, _lock: lock })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A directory inside it that only its owner can read.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// A directory owned by the user a server runs as: inside the home if that user can get there,
    /// otherwise under `/var/tmp`, and noted.
    pub fn directory_for(&self, name: &str, user: Option<&User>) -> Result<PathBuf> {
        let Some(user) = user else {
            return self.directory(name);
        };
        let path = if open_to_others(&self.root)? {
            self.path(name)
        } else {
            let path = PathBuf::from(format!("/var/tmp/steward-{:016x}-{name}", fingerprint(&self.root)));
            fs::write(self.path(&format!("{name}.elsewhere")), path.display().to_string())?;
            path
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .with_context(|| format!("make {}", path.display()))?;
                chown(&path, Some(user.uid), Some(user.gid))?;
            }
            Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
            // Its name can be guessed, and anybody may make one of it in /var/tmp.
            Ok(there)
                if !there.is_dir() || there.uid() != user.uid || there.permissions().mode() & 0o077 != 0 =>
            {
                bail!("{} is not a directory of the server's user alone: remove it", path.display())
            }
            Ok(_) => {}
        }
        Ok(path)
    }

    /// Directories outside the home that hold its data.
    pub fn elsewhere(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "elsewhere") {
                found.push(PathBuf::from(fs::read_to_string(&path)?));
            }
        }
        Ok(found)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    pub fn write_secret(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let draft = self.path(&format!("{name}.draft"));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The secret stored under a name, drawn at random the first time.
    pub fn secret(&self, name: &str) -> Result<String> {
        if let Some(secret) = read_if_there(&self.path(name))? {
            return Ok(secret.trim().to_owned());
        }
        let mut rng = rand::rng();
        let secret: String = (0..4).map(|_| format!("{:016x}", rng.random::<u64>())).collect();
        self.write_secret(name, &secret)?;
        Ok(secret)
    }

    /// The port remembered under a name if it is free now, otherwise a free one, remembered from now on.
    pub fn port(&self, name: &str) -> Result<u16> {
        let file = self.path("ports.json");
        let mut ports: BTreeMap<String, u16> = match read_if_there(&file)? {
            Some(text) => serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?,
            None => BTreeMap::new(),
        };
        if let Some(port) = ports.get(name).copied().filter(|port| is_free(*port)) {
            return Ok(port);
        }
        let port = free_port(|port| ports.values().all(|taken| *taken != port))?;
        ports.insert(name.to_owned(), port);
        fs::write(&file, serde_json::to_string_pretty(&ports)?)?;
        Ok(port)
    }
}

/// Below the range that Linux takes ports of outgoing connections from (32768 and up): a server that is started
/// again finds its port as free as it left it.
const PORTS: Range<u16> = 20_000..32_768;

/// A loopback port that nothing listens on and that `suits`.
fn free_port(suits: impl Fn(u16) -> bool) -> Result<u16> {
    let mut rng = rand::rng();
    for _ in 0..64 {
        let port = rng.random_range(PORTS);
        if is_free(port) && suits(port) {
            return Ok(port);
        }
    }
    bail!("no free port on the loopback address")
}

/// Whether a loopback port can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn lock(path: &Path) -> Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            let home = path.parent().unwrap_or(path).display();
            bail!("{home} is in use by another steward, process {holder}: stop it first")
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Whether every directory down to `path` lets other users through.
fn open_to_others(path: &Path) -> Result<bool> {
    for directory in path.ancestors() {
        if fs::metadata(directory)?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// FNV-1a over a path: tells checkouts apart in a directory they share.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The text of a file, if there is one.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_owner_at_a_time_and_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::open(directory.path()).unwrap();
        let refusal = Home::open(directory.path()).unwrap_err().to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        drop(first);
        Home::open(directory.path()).unwrap();
    }

    #[test]
    fn a_port_is_remembered_until_something_else_takes_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let port = home.port("postgres").unwrap();
        assert_eq!(home.port("postgres").unwrap(), port);
        assert_ne!(home.port("redis").unwrap(), port);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(home.port("postgres").unwrap(), port);
    }

    #[test]
    fn a_secret_stays_the_same_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let secret = home.secret("password").unwrap();
        assert_eq!(secret.len(), 64);
        assert_eq!(home.secret("password").unwrap(), secret);
        assert_eq!(fs::metadata(home.path("password")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
