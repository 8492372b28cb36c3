//! Run directories: one for each container, on the engine's host, with the guest's socket in it.
//!
//! A container whose run directory is gone can be neither made nor started, whoever still tries. So a directory is
//! made *before* the making of its container is committed, never after, and *revoked* as soon as its removal is:
//! renamed away in one step, whatever the sandbox is doing in it. What is in it belongs to the sandbox and is not
//! looked at: it is removed without following links.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use svc_core::id::new_id;

const REVOKED: &str = ".revoked-";

/// Why a run directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("run directory {name}: {step}")]
pub struct Error {
    name: String,
    step: &'static str,
    #[source]
    source: io::Error,
}

/// The directory that holds the run directories of one engine.
#[derive(Debug, Clone)]
pub struct RunDirectories(PathBuf);

impl RunDirectories {
    /// Those under `base`, which is made if it is not there. Only this user may look into it: the directories
    /// themselves are open to the user of the sandbox, whatever its number is on the host.
    ///
    /// # Errors
    /// [`Error`] if it cannot be made.
    pub fn open(base: &Path) -> Result<Self, Error> {
        let failed = |step| move |source| Error { name: base.display().to_string(), step, source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(failed("make"))?;
        // Docker resolves it on its own: the path must not depend on who reads it.
        Ok(Self(base.canonicalize().map_err(failed("find"))?))
    }

    /// Where they are.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.0
    }

    /// Makes a new directory and answers its name.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make(&self) -> Result<String, Error> {
        let name = new_id().simple().to_string();
        let path = self.path(&name);
        let make = || {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
        };
        match make() {
            Ok(()) => Ok(name),
            Err(source) => Err(Error { name, step: "make", source }),
        }
    }

    /// Lets nobody but this service change what is in a directory, once the guest's socket is: what runs in a sandbox
    /// could otherwise fill the host's disk from there, leave what nobody can remove, or take the guest's place. The
    /// socket is still reached through it.
    ///
    /// # Errors
    /// [`Error`] if it may still be written.
    pub fn seal(&self, name: &str) -> Result<(), Error> {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o711)).map_err(|source| Error {
            name: name.to_owned(),
            step: "seal",
            source,
        })
    }

    /// Where a directory is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Takes a directory away from everybody; one that is gone is fine.
    ///
    /// # Errors
    /// [`Error`] if it may still be there.
    pub fn revoke(&self, name: &str) -> Result<(), Error> {
        if !is_ours(name) {
            return Ok(());
        }
        match fs::rename(self.path(name), self.path(&format!("{REVOKED}{name}"))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error { name: name.to_owned(), step: "revoke", source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes what is left of a revoked directory, once nothing runs in it any more.
    ///
    /// # Errors
    /// [`Error`] if something is left.
    pub fn discard(&self, name: &str) -> Result<(), Error> {
        if !is_ours(name) {
            return Ok(());
        }
        match fs::remove_dir_all(self.path(&format!("{REVOKED}{name}"))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error { name: name.to_owned(), step: "remove", source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Names of directories, revoked ones included, that are older than `age`.
    ///
    /// # Errors
    /// [`Error`] if they cannot all be listed.
    pub fn older_than(&self, age: Duration) -> Result<Vec<String>, Error> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let old = match entry.metadata() {
                    Ok(metadata) => {
                        SystemTime::now().duration_since(metadata.modified()?).is_ok_and(|is| is >= age)
                    }
                    // It went meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                    Err(error) => return Err(error),
                };
                if old {
                    names.push(name.strip_prefix(REVOKED).map(str::to_owned).unwrap_or(name));
                }
            }
            Ok(names)
        };
        list().map_err(|source| Error { name: self.0.display().to_string(), step: "list", source })
    }
}

/// Whether [`RunDirectories::make`] gives such names. No other is touched: an orphan's is not of our making.
fn is_ours(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directories() -> (tempfile::TempDir, RunDirectories) {
        let base = tempfile::tempdir().unwrap();
        let directories = RunDirectories::open(&base.path().join("run")).unwrap();
        (base, directories)
    }

    #[test]
    fn a_revoked_directory_is_gone_at_once_and_can_be_revoked_again() {
        let (_base, directories) = directories();
        let name = directories.make().unwrap();
        fs::write(directories.path(&name).join("guest.sock"), "").unwrap();
        directories.revoke(&name).unwrap();
        assert!(!directories.path(&name).exists());
        directories.revoke(&name).unwrap();
        directories.discard(&name).unwrap();
        directories.discard(&name).unwrap();
        assert_eq!(directories.older_than(Duration::ZERO).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_a_sandbox_left_is_removed_without_following_its_links() {
        let (base, directories) = directories();
        let precious = base.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "kept").unwrap();
        let name = directories.make().unwrap();
        symlink(&precious, directories.path(&name).join("link")).unwrap();
        directories.revoke(&name).unwrap();
        directories.discard(&name).unwrap();
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    }

    #[test]
    fn names_of_others_are_not_touched() {
        let (base, directories) = directories();
        fs::create_dir(base.path().join("beside")).unwrap();
        for name in ["", ".", "..", "../beside", "/"] {
            directories.revoke(name).unwrap();
            directories.discard(name).unwrap();
        }
        assert!(directories.0.is_dir() && base.path().join("beside").is_dir());
    }

    #[test]
    fn old_directories_are_found_revoked_or_not() {
        let (_base, directories) = directories();
        let names = [directories.make().unwrap(), directories.make().unwrap()];
        directories.revoke(&names[1]).unwrap();
        let mut found = directories.older_than(Duration::ZERO).unwrap();
        found.sort();
        let mut expected = names.to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert!(directories.older_than(Duration::from_secs(60)).unwrap().is_empty());
    }

    #[test]
    fn only_its_own_user_looks_into_the_base_and_every_user_writes_below() {
        let (_base, directories) = directories();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let name = directories.make().unwrap();
        assert_eq!((mode(&directories.0), mode(&directories.path(&name))), (0o700, 0o777));
        directories.seal(&name).unwrap();
        assert_eq!(mode(&directories.path(&name)), 0o711);
    }
}
