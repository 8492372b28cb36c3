//! Run directories: one for each container, on the engine's host, with the guest's socket in it.
//!
//! The engine neither creates nor starts a container without its run directory. So a worker makes the
//! directory *before* it commits the creation of the container, never after. It *revokes* the directory as
//! soon as the removal is committed, by one rename, which works whatever files the sandbox has put into it.
//! These files are removed without being read and without following links.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use svc_core::id::new_id;

/// Prefix of a revoked directory's name.
const REVOKED: &str = ".revoked-";

/// A run directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("run directory {name}: {step}")]
pub struct Error {
    name: String,
    step: &'static str,
    #[source]
    source: io::Error,
}

fn failed(name: impl Into<String>, step: &'static str) -> impl FnOnce(io::Error) -> Error {
    let name = name.into();
    move |source| Error { name, step, source }
}

/// The directory that holds the run directories of one engine.
#[derive(Debug, Clone)]
pub struct RunDirectories(PathBuf);

impl RunDirectories {
    /// Opens the run directories under `base`. Makes `base`, if it is missing, with access for this process's
    /// user only: the directories below are writable for every user, because the sandbox's user has no fixed
    /// id on the host.
    pub fn open(base: &Path) -> Result<Self, Error> {
        let failed = |step| failed(base.display().to_string(), step);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(failed("make"))?;
        // Docker resolves the path itself, so it must not depend on this process's working directory.
        Ok(Self(base.canonicalize().map_err(failed("find"))?))
    }

    pub fn base(&self) -> &Path {
        &self.0
    }

    /// Makes a new directory and returns its name.
    pub fn make(&self) -> Result<String, Error> {
        let name = new_id().simple().to_string();
        let path = self.path(&name);
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o777)))
            .map_err(failed(&*name, "make"))?;
        Ok(name)
    }

    /// Makes a directory read-only for the sandbox once the guest's socket is in it. Otherwise a process in
    /// the sandbox could fill the host's disk, leave files that cannot be removed, or replace the socket.
    pub fn seal(&self, name: &str) -> Result<(), Error> {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o711)).map_err(failed(name, "seal"))
    }

    /// Returns the path of a directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Renames a directory, so that no container can be created or started with it. Succeeds if it is
    /// missing.
    ///
    /// # Errors
    /// [`Error`] if the directory may still have its name.
    pub fn revoke(&self, name: &str) -> Result<(), Error> {
        let revoked = self.path(&format!("{REVOKED}{name}"));
        change(name, "revoke", || fs::rename(self.path(name), revoked))
    }

    /// Removes a revoked directory, after its container is gone. Succeeds if it is missing.
    ///
    /// # Errors
    /// [`Error`] if a part of it may be left.
    pub fn discard(&self, name: &str) -> Result<(), Error> {
        change(name, "remove", || fs::remove_dir_all(self.path(&format!("{REVOKED}{name}"))))
    }

    /// Lists the names of directories, revoked ones included, that are older than `age`.
    ///
    /// # Errors
    /// [`Error`] unless the listing is complete.
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
                    // The directory was removed since the listing began.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                    Err(error) => return Err(error),
                };
                if old {
                    names.push(name.strip_prefix(REVOKED).map(str::to_owned).unwrap_or(name));
                }
            }
            Ok(names)
        };
        list().map_err(failed(self.0.display().to_string(), "list"))
    }
}

/// Runs `change` on a directory; a missing one is no error. Ignores names that [`RunDirectories::make`]
/// cannot have given, because the mount of an orphaned container may name any path.
fn change(name: &str, step: &'static str, change: impl FnOnce() -> io::Result<()>) -> Result<(), Error> {
    if name.len() != 32 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    match change() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        changed => changed.map_err(failed(name, step)),
    }
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
    fn a_revoked_directory_is_gone_and_may_be_revoked_again() {
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
    fn files_of_a_sandbox_are_removed_without_following_links() {
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
    fn directories_with_foreign_names_are_not_touched() {
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
    fn only_this_user_enters_the_base_and_every_user_writes_below() {
        let (_base, directories) = directories();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let name = directories.make().unwrap();
        assert_eq!((mode(&directories.0), mode(&directories.path(&name))), (0o700, 0o777));
        directories.seal(&name).unwrap();
        assert_eq!(mode(&directories.path(&name)), 0o711);
    }
}
