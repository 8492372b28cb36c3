use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink};

use super::*;

struct Place {
    base: tempfile::TempDir,
    roots: Roots,
}

fn place() -> Place {
    let base = tempfile::tempdir().unwrap();
    for directory in ["workspace", "tmp", "home/user", "etc"] {
        fs::create_dir_all(base.path().join(directory)).unwrap();
    }
    fs::write(base.path().join("etc/secret"), "secret").unwrap();
    let roots = Roots::under(base.path());
    Place { base, roots }
}

impl Place {
    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }
    fn read(&self, path: &str) -> Result<Bytes, Error> {
        self.roots.locate(path)?.read(100)
    }
    fn write(&self, path: &str, content: &str) -> Result<(), Error> {
        self.roots.locate_writable(path)?.write(content.as_bytes(), 0o640)
    }
    fn list(&self, path: &str, limit: usize) -> Result<(Vec<Entry>, bool), Error> {
        self.roots.locate(path)?.list(limit)
    }
}

#[test]
fn paths_are_located_below_their_root_or_refused() {
    let Place { roots, base } = place();
    let workspace = base.path().join("workspace");
    for (path, root, below) in [
        ("a/b", &workspace, vec!["a", "b"]),
        ("/workspace/./a", &workspace, vec!["a"]),
        ("", &workspace, vec![]),
        ("/workspace", &workspace, vec![]),
        ("/tmp/x", &base.path().join("tmp"), vec!["x"]),
        ("/home/user/x", &base.path().join("home/user"), vec!["x"]),
        ("a..b", &workspace, vec!["a..b"]),
    ] {
        let located = roots.locate(path).unwrap();
        assert_eq!(
            (&located.root, located.below),
            (root, below.into_iter().map(str::to_owned).collect()),
            "{path}"
        );
    }
    for path in ["/", "/etc/secret", "/workspace-x", "../etc", "/workspace/../etc", "/home", "a\0b"] {
        assert!(matches!(roots.locate(path), Err(Error::BadPath(_))), "{path:?}");
    }
    for path in ["/tmp/x", "/home/user/x", "/workspace", "", "a/"] {
        assert!(matches!(roots.locate_writable(path), Err(Error::BadPath(_))), "{path:?}");
    }
}

#[test]
fn a_file_is_written_with_its_directories_and_read_back() {
    let place = place();
    place.write("a/b/c.txt", "hello").unwrap();
    assert_eq!(place.read("/workspace/a/b/c.txt").unwrap(), "hello");
    assert_eq!(fs::metadata(place.path("workspace/a/b/c.txt")).unwrap().permissions().mode() & 0o7777, 0o640);
    place.write("a/b/c.txt", "again").unwrap();
    assert_eq!(place.read("a/b/c.txt").unwrap(), "again");
    assert_eq!(fs::read_dir(place.path("workspace/a/b")).unwrap().count(), 1, "temporary files are left");
}

#[test]
fn links_are_not_followed_anywhere_on_the_way() {
    let place = place();
    symlink(place.path("etc"), place.path("workspace/dir")).unwrap();
    symlink(place.path("etc/secret"), place.path("workspace/file")).unwrap();
    assert!(matches!(place.read("dir/secret"), Err(Error::Symlink)));
    assert!(matches!(place.read("file"), Err(Error::Symlink)));
    assert!(matches!(place.list("dir", 10), Err(Error::Symlink)));
    assert!(matches!(place.write("dir/new", "x"), Err(Error::Symlink)));
    // A link at the file's own name is replaced, not followed.
    place.write("file", "mine").unwrap();
    assert_eq!(fs::read_to_string(place.path("etc/secret")).unwrap(), "secret");
    assert_eq!(place.read("file").unwrap(), "mine");
    assert!(!place.path("etc/new").exists());
}

#[test]
fn check_free_finds_every_obstacle_and_changes_nothing() {
    let place = place();
    fs::create_dir(place.path("workspace/taken")).unwrap();
    fs::write(place.path("workspace/full"), "kept").unwrap();
    symlink(place.path("etc"), place.path("workspace/dir")).unwrap();
    symlink(place.path("etc/secret"), place.path("workspace/file")).unwrap();
    let check = |path: &str| place.roots.locate_writable(path).unwrap().check_free();
    for free in ["new", "new/below/it", "full", "file", "taken/new"] {
        check(free).unwrap();
    }
    assert!(matches!(check("taken"), Err(Error::WrongKind(_))));
    assert!(matches!(check("full/below"), Err(Error::WrongKind(_))));
    assert!(matches!(check("dir/new"), Err(Error::Symlink)));
    assert!(matches!(check(&"a".repeat(256)), Err(Error::BadPath(_))));
    assert!(matches!(check(&format!("{}/below", "a".repeat(256))), Err(Error::BadPath(_))));
    assert!(!place.path("workspace/new").exists() && !place.path("etc/new").exists());
}

#[test]
fn oversized_files_and_special_files_are_refused() {
    let place = place();
    fs::write(place.path("workspace/big"), vec![0; 101]).unwrap();
    fs::write(place.path("workspace/full"), vec![0; 100]).unwrap();
    rustix::fs::mknodat(CWD, place.path("workspace/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    assert!(matches!(place.read("big"), Err(Error::TooLarge)));
    assert_eq!(place.read("full").unwrap().len(), 100);
    assert!(matches!(place.read("pipe"), Err(Error::WrongKind(_))));
    assert!(matches!(place.read(""), Err(Error::WrongKind(_))));
    assert!(matches!(place.read("none"), Err(Error::NotFound)));
    assert!(matches!(place.read("full/x"), Err(Error::WrongKind(_))));
}

#[test]
fn a_write_that_fails_leaves_nothing_behind() {
    let place = place();
    fs::create_dir_all(place.path("workspace/taken/inside")).unwrap();
    assert!(place.write("taken", "x").is_err());
    let names: Vec<_> =
        fs::read_dir(place.path("workspace")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["taken"]);
}

#[test]
fn a_listing_is_sorted_bounded_and_shows_links_as_links() {
    let place = place();
    for name in ["c", "a", "d"] {
        fs::write(place.path("workspace").join(name), name).unwrap();
    }
    symlink("/etc/passwd", place.path("workspace/b")).unwrap();
    let (entries, more) = place.list("/workspace", 3).unwrap();
    let seen: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind)).collect();
    assert_eq!(seen, [("a", Kind::File), ("b", Kind::Symlink), ("c", Kind::File)]);
    assert!(more);
    assert!(!place.list("", 4).unwrap().1);
    assert_eq!(entries[0].size_bytes, 1);
}
