//! Reads and lists files below three directories (the roots), and writes files below one of them, the
//! workspace. Follows no symbolic link.
//!
//! Every path is walked from its root one component at a time; each is opened relative to the one before, and
//! a link is an error. `openat2` does the same in one call, but the seccomp profiles of older Docker releases
//! refuse it. A file is written under a temporary name and renamed, so that a reader sees the whole old file
//! or the whole new one.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

/// Path of the workspace. Relative paths start in it, and files are written only below it.
pub(crate) const WORKSPACE: &str = "/workspace";

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const WALK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The path is not below a root, or contains `..`.
    #[error("{0}")]
    BadPath(&'static str),
    #[error("no such file or directory")]
    NotFound,
    /// A component of the path is a symbolic link.
    #[error("the path contains a symbolic link")]
    Symlink,
    /// The path names a directory where a file is expected, or the reverse, or a special file.
    #[error("{0}")]
    WrongKind(&'static str),
    #[error("the file is larger than the limit")]
    TooLarge,
    #[error("permission denied")]
    Denied,
    #[error("no space left")]
    NoSpace,
    /// Any other error of the kernel.
    #[error("{0}")]
    Other(std::io::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::LOOP | Errno::MLINK => Self::Symlink,
            Errno::NOTDIR => Self::WrongKind("not a directory"),
            Errno::ISDIR => Self::WrongKind("is a directory"),
            Errno::NAMETOOLONG => Self::BadPath("the path has a name of more than 255 bytes"),
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpace,
            other => Self::Other(other.into()),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Other(error),
        }
    }
}

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// A device, a pipe or a socket.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name; bytes that are not UTF-8 are replaced.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) size_bytes: i64,
    pub(crate) mode: u32,
    pub(crate) modified: SystemTime,
}

/// The directories that file calls may use: for each, its path in requests and its real path.
#[derive(Debug, Clone)]
pub struct Roots(Vec<(PathBuf, PathBuf)>);

/// A path below one of the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    root: PathBuf,
    below: Vec<String>,
    writable: bool,
}

impl Roots {
    /// Returns the roots of a sandbox: the workspace, which file calls may read and write, and `/tmp` and
    /// `/home/user`, which they may only read.
    pub fn standard() -> Self {
        Self([WORKSPACE, "/tmp", "/home/user"].map(|path| (path.into(), path.into())).into())
    }

    /// Returns the standard roots under `base` instead of `/`.
    pub fn under(base: &Path) -> Self {
        let moved = |path: PathBuf| base.join(path.strip_prefix("/").unwrap_or(&path));
        Self(Self::standard().0.into_iter().map(|(public, _)| (public.clone(), moved(public))).collect())
    }

    /// Returns the real path of the workspace.
    pub(crate) fn workspace(&self) -> &Path {
        self.0.first().map_or(Path::new(WORKSPACE), |(_, real)| real)
    }

    /// Finds the root of `path`; relative paths start in the workspace.
    ///
    /// # Errors
    /// [`Error::BadPath`] if the path is below no root, or contains `..`.
    pub(crate) fn locate(&self, path: &str) -> Result<Located, Error> {
        if path.contains('\0') {
            return Err(Error::BadPath("the path contains a zero byte"));
        }
        let path = Path::new(WORKSPACE).join(path);
        for (public, real) in &self.0 {
            let Ok(rest) = path.strip_prefix(public) else { continue };
            let below = rest
                .components()
                .map(|component| match component {
                    Component::Normal(name) => {
                        name.to_str().map(str::to_owned).ok_or(Error::BadPath("the path is not UTF-8"))
                    }
                    _ => Err(Error::BadPath("the path must not contain '..'")),
                })
                .collect::<Result<_, _>>()?;
            return Ok(Located { root: real.clone(), below, writable: public == Path::new(WORKSPACE) });
        }
        Err(Error::BadPath("the path must be under /workspace, /tmp or /home/user"))
    }

    /// Like [`Self::locate`], for a file to be written.
    ///
    /// # Errors
    /// [`Error::BadPath`] also if the path is not below the workspace.
    pub(crate) fn locate_writable(&self, path: &str) -> Result<Located, Error> {
        let located = self.locate(path)?;
        match located.writable && !located.below.is_empty() && !path.ends_with('/') {
            true => Ok(located),
            false => Err(Error::BadPath("the path must name a file below /workspace")),
        }
    }
}

impl Located {
    fn open_root(&self) -> Result<OwnedFd, Error> {
        Ok(rustix::fs::openat(CWD, &self.root, WALK, Mode::empty())?)
    }

    /// Opens each directory from the root to the parent of this path with `step`. Returns the parent and the
    /// last component of the path; for the root itself, returns the root and `None`.
    fn parent(
        &self,
        step: impl Fn(&OwnedFd, &str) -> Result<OwnedFd, Error>,
    ) -> Result<(OwnedFd, Option<&str>), Error> {
        let mut directory = self.open_root()?;
        let Some((last, parents)) = self.below.split_last() else { return Ok((directory, None)) };
        for name in parents {
            directory = step(&directory, name)?;
        }
        Ok((directory, Some(last)))
    }

    /// Reads a regular file.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it has more than `limit` bytes.
    pub(crate) fn read(&self, limit: u64) -> Result<Bytes, Error> {
        let (parent, Some(name)) = self.parent(enter)? else {
            return Err(Error::WrongKind("is a directory"));
        };
        // Opens without blocking, because opening a named pipe would otherwise wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        match kind(&stat) {
            Kind::File => {}
            Kind::Directory => return Err(Error::WrongKind("is a directory")),
            Kind::Symlink | Kind::Other => return Err(Error::WrongKind("is not a regular file")),
        }
        if u64::try_from(stat.st_size).is_ok_and(|size| size > limit) {
            return Err(Error::TooLarge);
        }
        // The file may grow while it is read, so the read stops one byte after the limit.
        let mut bytes = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        match u64::try_from(bytes.len()) {
            Ok(read) if read <= limit => Ok(bytes.into()),
            _ => Err(Error::TooLarge),
        }
    }

    /// Checks, without changing anything, that the path does not prevent a write. Does not check write
    /// permission.
    ///
    /// # Errors
    /// Fails if the path is a directory, if a parent is a symlink, is not a directory or cannot be entered,
    /// or if a name is too long.
    pub(crate) fn check_free(&self) -> Result<(), Error> {
        let (parent, name) = match self.parent(enter) {
            // The write makes missing parent directories.
            Err(Error::NotFound) => return Ok(()),
            Err(error) => return Err(error),
            Ok((_, None)) => return Err(Error::WrongKind("is a directory")),
            Ok((parent, Some(name))) => (parent, name),
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == Kind::Directory => Err(Error::WrongKind("is a directory")),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes the file, making its parent directories. After an error the old file is unchanged.
    pub(crate) fn write(&self, content: &[u8], mode: u32) -> Result<(), Error> {
        let (parent, Some(name)) = self.parent(enter_or_make)? else {
            return Err(Error::WrongKind("is a directory"));
        };
        let temporary = Temporary::create(parent.as_fd())?;
        temporary.fill(content, mode)?;
        temporary.rename(name)
    }

    /// Lists a directory: the first `limit` entries by name, and whether there are more.
    pub(crate) fn list(&self, limit: usize) -> Result<(Vec<Entry>, bool), Error> {
        let directory = match self.parent(enter)? {
            (root, None) => root,
            (parent, Some(name)) => enter(&parent, name)?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty())?;
        // The first `limit` names, in order, of those found so far: whenever there is one more, the last is
        // removed. The key also has the name's bytes, because two names that are not UTF-8 may give the same
        // text.
        let mut first = BTreeMap::new();
        let mut more = false;
        for found in Dir::read_from(&directory)? {
            let name = found?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // The entry was removed since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            first.insert((name.to_string_lossy().into_owned(), name), stat);
            if first.len() > limit {
                first.pop_last();
                more = true;
            }
        }
        Ok((first.into_iter().map(|((name, _), stat)| entry(name, &stat)).collect(), more))
    }
}

fn enter(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    match rustix::fs::openat(directory, name, WALK, Mode::empty()) {
        // With O_PATH, O_NOFOLLOW and O_DIRECTORY, the kernel returns ENOTDIR for a symbolic link too.
        Err(Errno::NOTDIR) => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Err(if kind(&stat) == Kind::Symlink {
                Error::Symlink
            } else {
                Error::WrongKind("not a directory")
            })
        }
        opened => Ok(opened?),
    }
}

fn enter_or_make(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    match enter(directory, name) {
        Err(Error::NotFound) => match rustix::fs::mkdirat(directory, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => enter(directory, name),
            Err(errno) => Err(errno.into()),
        },
        entered => entered,
    }
}

/// A file under a temporary name; removed on drop unless it was renamed.
struct Temporary<'a> {
    parent: rustix::fd::BorrowedFd<'a>,
    name: String,
    file: File,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(parent: rustix::fd::BorrowedFd<'a>) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            // A command may have made a file with this name; then the next number is tried.
            let name = format!(".steward-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(0o600)) {
                Ok(file) => return Ok(Self { parent, name, file: file.into(), renamed: false }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn fill(&self, content: &[u8], mode: u32) -> Result<(), Error> {
        (&self.file).write_all(content)?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode))?;
        self.file.sync_data()?;
        Ok(())
    }

    fn rename(mut self, name: &str) -> Result<(), Error> {
        rustix::fs::renameat(self.parent, &self.name, self.parent, name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // The caller gets the error of the write. If this removal fails too, one hidden file stays in the
            // workspace.
            let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::empty());
        }
    }
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

fn entry(name: String, stat: &Stat) -> Entry {
    let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
    let modified = match stat.st_mtime < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    Entry {
        name,
        kind: kind(stat),
        size_bytes: stat.st_size,
        mode: stat.st_mode & 0o7777,
        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests;
