//! Files under the directories a host may touch, following no symbolic link.
//!
//! Every path is walked from its root one component at a time, each opened relative to the last and never through a
//! link. (`openat2` says the same in one call, but seccomp profiles of older Docker releases refuse it; one way that
//! works everywhere beats two.) A file is written under a temporary name and renamed, so that readers see the old
//! one or the new one whole.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    fs::File,
    io::{Read, Write},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering as Atomic},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

/// Where relative paths start, and the only place where files are written.
pub const WORKSPACE: &str = "/workspace";

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const WALK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why a file call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is outside of what may be touched, or climbs.
    #[error("{0}")]
    BadPath(&'static str),
    /// There is no such file.
    #[error("no such file or directory")]
    NotFound,
    /// It is a link, or something on the way to it is.
    #[error("a symbolic link is in the way")]
    Symlink,
    /// It is something else than was asked for.
    #[error("{0}")]
    WrongKind(&'static str),
    /// The file is larger than asked for.
    #[error("the file is larger than the limit")]
    TooLarge,
    /// The user of the sandbox may not.
    #[error("permission denied")]
    Denied,
    /// There is no room left.
    #[error("no space left")]
    NoSpace,
    /// Anything else the kernel answered.
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
            Errno::NAMETOOLONG => Self::BadPath("a name in the path is too long"),
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
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// Last change.
    pub modified: SystemTime,
}

/// The directories that may be touched, each a path callers say and the place where it is.
#[derive(Debug, Clone)]
pub struct Roots(Vec<(PathBuf, PathBuf)>);

/// A path below one of the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    root: PathBuf,
    below: Vec<String>,
    writable: bool,
}

impl Roots {
    /// The roots of a sandbox: the workspace, and two places that may be read only.
    #[must_use]
    pub fn standard() -> Self {
        Self([WORKSPACE, "/tmp", "/home/user"].map(|path| (path.into(), path.into())).into())
    }

    /// The standard roots under `base` instead of `/`.
    #[must_use]
    pub fn under(base: &Path) -> Self {
        let moved = |path: PathBuf| base.join(path.strip_prefix("/").unwrap_or(&path));
        Self(Self::standard().0.into_iter().map(|(said, _)| (said.clone(), moved(said))).collect())
    }

    /// Where the workspace is.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        self.0.first().map_or(Path::new(WORKSPACE), |(_, place)| place)
    }

    /// Finds the root of `path`; relative paths start in the workspace.
    ///
    /// # Errors
    /// [`Error::BadPath`] if it is in none of them, or has `..` in it.
    pub fn locate(&self, path: &str) -> Result<Located, Error> {
        if path.contains('\0') {
            return Err(Error::BadPath("the path contains a zero byte"));
        }
        let path = Path::new(WORKSPACE).join(path);
        for (said, place) in &self.0 {
            let Ok(rest) = path.strip_prefix(said) else { continue };
            let below = rest
                .components()
                .map(|component| match component {
                    Component::Normal(name) => {
                        name.to_str().map(str::to_owned).ok_or(Error::BadPath("the path is not UTF-8"))
                    }
                    _ => Err(Error::BadPath("the path must not contain '..'")),
                })
                .collect::<Result<_, _>>()?;
            return Ok(Located { root: place.clone(), below, writable: said == Path::new(WORKSPACE) });
        }
        Err(Error::BadPath("the path must be under /workspace, /tmp or /home/user"))
    }

    /// Like [`Self::locate`], for a file to be written.
    ///
    /// # Errors
    /// [`Error::BadPath`] also if it is not below the workspace.
    pub fn locate_writable(&self, path: &str) -> Result<Located, Error> {
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

    /// The directory that holds the last component, and that component; nothing for the root itself.
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

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error`] says why not.
    pub fn read(&self, limit: u64) -> Result<Bytes, Error> {
        let (parent, Some(name)) = self.parent(enter)? else {
            return Err(Error::WrongKind("is a directory"));
        };
        // Non-blocking: a pipe by that name must not hold us.
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
        // It may grow while it is read.
        let mut bytes = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        match u64::try_from(bytes.len()) {
            Ok(read) if read <= limit => Ok(bytes.into()),
            _ => Err(Error::TooLarge),
        }
    }

    /// Looks, without changing anything, whether there is something in the way of a file.
    ///
    /// # Errors
    /// [`Error`] says what.
    pub fn check_free(&self) -> Result<(), Error> {
        let (parent, name) = match self.parent(enter) {
            // It will be made.
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

    /// Writes the file whole, with its parent directories.
    ///
    /// # Errors
    /// [`Error`] says why not; then the file is what it was.
    pub fn write(&self, content: &[u8], mode: u32) -> Result<(), Error> {
        let (parent, Some(name)) = self.parent(enter_or_make)? else {
            return Err(Error::WrongKind("is a directory"));
        };
        let temporary = Temporary::create(parent.as_fd())?;
        temporary.fill(content, mode)?;
        temporary.rename(name)
    }

    /// Lists a directory: the first `limit` entries by name, and whether there were more.
    ///
    /// # Errors
    /// [`Error`] says why not.
    pub fn list(&self, limit: usize) -> Result<(Vec<Entry>, bool), Error> {
        let directory = match self.parent(enter)? {
            (root, None) => root,
            (parent, Some(name)) => enter(&parent, name)?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty())?;
        // The smallest names so far, the largest of them on top: memory stays bounded however many there are.
        let mut first: BinaryHeap<ByName> = BinaryHeap::new();
        let mut more = false;
        for found in Dir::read_from(&directory)? {
            let name = found?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went while we looked.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            first.push(ByName(entry(name.to_string_lossy().into_owned(), &stat)));
            if first.len() > limit {
                first.pop();
                more = true;
            }
        }
        Ok((first.into_sorted_vec().into_iter().map(|by_name| by_name.0).collect(), more))
    }
}

fn enter(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    match rustix::fs::openat(directory, name, WALK, Mode::empty()) {
        // With O_PATH, a link to a directory is "not a directory".
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

/// A file on its way to its name; removed unless it arrives.
struct Temporary<'a> {
    parent: rustix::fd::BorrowedFd<'a>,
    name: String,
    file: File,
    arrived: bool,
}

impl<'a> Temporary<'a> {
    fn create(parent: rustix::fd::BorrowedFd<'a>) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            // Whoever writes here may have taken the name: then the next one.
            let name = format!(".steward-{}-{}", std::process::id(), NEXT.fetch_add(1, Atomic::Relaxed));
            match rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(0o600)) {
                Ok(file) => return Ok(Self { parent, name, file: file.into(), arrived: false }),
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
        self.arrived = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.arrived {
            // What failed is reported already; a leftover is one hidden file in the sandbox's own workspace.
            let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::empty());
        }
    }
}

struct ByName(Entry);

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}
impl Eq for ByName {}
impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
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
        size: stat.st_size,
        mode: stat.st_mode & 0o7777,
        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests;
