//! `.steward/`, the home: the directory with all data of the development stack.
//!
//! Only one process can have a home open: it holds an advisory lock on a file in the home, which the kernel
//! releases when the process exits. Secrets are files of mode 0600. The data of Postgres may be outside the
//! home: as root, `steward` runs Postgres as another user, because Postgres refuses to run as root. If that
//! user cannot enter every directory down to the home, the data is in `/var/tmp`, and a file in the home
//! records the path for `steward clean`.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rand::RngExt;

use crate::{
    ports::{free_port, is_free},
    user::User,
};

/// An open and locked home.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens and locks a home; makes the directory if it does not exist.
    ///
    /// # Errors
    /// Fails if another process has the home open.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
        // The user that Postgres runs as must be able to enter the home, but not to list it.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        let lock = lock(&root.join("lock"))?;
        Ok(Self { root, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of `name` in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a directory in the home that only its owner can read.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// Makes a directory that only `user` can read: in the home if the user can enter the home, otherwise in
    /// `/var/tmp`. The home records a path in `/var/tmp`.
    pub(crate) fn directory_for(&self, name: &str, user: Option<&User>) -> Result<PathBuf> {
        let Some(user) = user else {
            return self.directory(name);
        };
        let record = self.path(&format!("{name}.elsewhere"));
        let inside = is_open(&self.root)?;
        let path = match inside {
            true => self.path(name),
            false => PathBuf::from(format!("/var/tmp/steward-{:016x}-{name}", fingerprint(&self.root))),
        };
        match fs::symlink_metadata(&path) {
            // Every user can make a directory in /var/tmp, and the name can be guessed. So a directory that
            // exists is used or removed only if it belongs to `user` and no other user can enter it.
            Ok(there)
                if !there.is_dir() || there.uid() != user.uid || there.permissions().mode() & 0o077 != 0 =>
            {
                bail!("{} is not a directory of the server's user alone: remove it", path.display())
            }
            Ok(_) if inside || record.exists() => return Ok(path),
            // The directory is of an earlier home at this path, which was deleted without `steward clean`,
            // and with it the password of the data.
            Ok(_) => fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("inspect {}", path.display())),
        }
        if !inside {
            fs::write(&record, path.display().to_string())?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("make {}", path.display()))?;
        chown(&path, Some(user.uid), Some(user.gid))?;
        Ok(path)
    }

    /// Returns the recorded directories outside the home that contain its data.
    pub(crate) fn elsewhere(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "elsewhere") {
                found.push(PathBuf::from(fs::read_to_string(&path)?));
            }
        }
        Ok(found)
    }

    /// Writes a file that only its owner can read. After an error the old file is unchanged.
    pub fn write_secret(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let draft = self.path(&format!("{name}.draft"));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Returns the secret in the file `name`; the first call makes a random one.
    pub fn secret(&self, name: &str) -> Result<String> {
        if let Some(secret) = read_if_exists(&self.path(name))? {
            return Ok(secret.trim().to_owned());
        }
        let mut rng = rand::rng();
        let secret: String = (0..4).map(|_| format!("{:016x}", rng.random::<u64>())).collect();
        self.write_secret(name, &secret)?;
        Ok(secret)
    }

    /// Returns the port recorded under `name` if it is free; otherwise records a free port and returns that.
    pub fn port(&self, name: &str) -> Result<u16> {
        let file = self.path("ports.json");
        let mut ports: BTreeMap<String, u16> = match read_if_exists(&file)? {
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

/// Returns whether every user can enter every directory down to `path`.
fn is_open(path: &Path) -> Result<bool> {
    for directory in path.ancestors() {
        if fs::metadata(directory)?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Computes the FNV-1a hash of a path. It makes the names in `/var/tmp` of two checkouts differ.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Reads a text file; `None` if it does not exist.
pub fn read_if_exists(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn the_error_for_an_open_home_names_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::open(directory.path()).unwrap();
        let refusal = Home::open(directory.path()).unwrap_err().to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        drop(first);
        Home::open(directory.path()).unwrap();
    }

    #[test]
    fn a_recorded_port_is_reused_while_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let port = home.port("postgres").unwrap();
        assert_eq!(home.port("postgres").unwrap(), port);
        assert_ne!(home.port("redis").unwrap(), port);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(home.port("postgres").unwrap(), port);
    }

    #[test]
    fn a_new_home_does_not_use_the_data_of_a_deleted_one() {
        let user =
            User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        // Only its owner can enter the directory above the home, so the data of a server is outside the home.
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let root = directory.path().join("home");
        let made = |home: &Home| home.directory_for("server", Some(&user)).unwrap();
        let home = Home::open(&root).unwrap();
        let data = made(&home);
        assert!(!data.starts_with(&root));
        fs::write(data.join("file"), "old").unwrap();
        assert!(made(&home).join("file").exists(), "a home keeps its data");
        drop(home);

        fs::remove_dir_all(&root).unwrap();
        let home = Home::open(&root).unwrap();
        assert_eq!(made(&home), data);
        assert!(!data.join("file").exists());
        fs::remove_dir(&data).unwrap();
    }

    #[test]
    fn a_secret_is_constant_and_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let secret = home.secret("password").unwrap();
        assert_eq!(secret.len(), 64);
        assert_eq!(home.secret("password").unwrap(), secret);
        assert_eq!(fs::metadata(home.path("password")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
