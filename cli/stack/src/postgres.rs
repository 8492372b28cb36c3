//! A private Postgres. Its cluster is in the home; it listens on a port of the loopback address, with a
//! password and without a Unix socket.
//!
//! Data stays between runs. `fsync` is on, so that a crash in a test has the same effects as in production.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{home::Home, process::Daemon, user::User};

/// Minimum major version that Steward supports.
const MIN_MAJOR: u32 = 15;
const SUPERUSER: &str = "postgres";

/// Signals for a fast shutdown, then an immediate shutdown, then SIGKILL.
pub(crate) const STOP: &[(Signal, Duration)] = &[
    (Signal::INT, Duration::from_secs(20)),
    (Signal::QUIT, Duration::from_secs(5)),
    (Signal::KILL, Duration::from_secs(5)),
];

/// Starts the home's server; the first start makes its cluster. Returns the URL of the database `postgres`,
/// with the role of the superuser.
pub(crate) async fn start(home: &Home) -> Result<(String, Daemon)> {
    let user = User::for_servers(&["postgres", "nobody"])?;
    let data = home.directory_for("postgres", user.as_ref())?.join("data");
    let binaries = find(&data)?;
    let password = home.secret("postgres.password")?;
    if !data.join("PG_VERSION").exists() {
        initialise(&binaries, &data, &password, user.as_ref())?;
    }
    let port = home.port("postgres")?;

    let mut command = Command::new(binaries.join("postgres"));
    command.arg("-D").arg(&data).current_dir("/");
    for setting in [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        "max_connections=300".to_owned(),
        "timezone=UTC".to_owned(),
    ] {
        command.args(["-c", &setting]);
    }
    if let Some(user) = &user {
        user.apply(&mut command);
    }
    let mut daemon = Daemon::start(home, "postgres", command, "")?;
    let ready = async || accepts(&binaries, port);
    if let Err(error) = daemon.until_ready(Duration::from_secs(60), ready).await {
        daemon.stop(STOP).await?;
        return Err(error);
    }
    let url = format!("postgres://{SUPERUSER}:{password}@{}:{port}/postgres", Ipv4Addr::LOCALHOST);
    Ok((url, daemon))
}

fn initialise(binaries: &Path, data: &Path, password: &str, user: Option<&User>) -> Result<()> {
    // A first start that was interrupted leaves a directory without the file PG_VERSION, and without data.
    if data.exists() {
        fs::remove_dir_all(data)?;
    }
    let password_file = data.with_extension("password");
    fs::write(&password_file, password)?;
    if let Some(user) = user {
        chown(&password_file, Some(user.uid), Some(user.gid))?;
    }
    let mut command = Command::new(binaries.join("initdb"));
    command
        .arg("--pgdata")
        .arg(data)
        .arg("--pwfile")
        .arg(&password_file)
        .current_dir("/")
        .stdin(Stdio::null());
    command.args([
        "--username",
        SUPERUSER,
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C.UTF-8",
    ]);
    if let Some(user) = user {
        user.apply(&mut command);
    }
    let output = command.output().context("run initdb");
    fs::remove_file(&password_file)?;
    let output = output?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn accepts(binaries: &Path, port: u16) -> bool {
    Command::new(binaries.join("pg_isready"))
        .args(["--quiet", "--host", "127.0.0.1", "--port", &port.to_string(), "--timeout", "1"])
        .status()
        .is_ok_and(|status| status.success())
}

/// Finds the directory of the server's programs: those of the version that made the data, or of the newest
/// version if there is no data.
fn find(data: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(data.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
    let mut installed = installed()?;
    installed.sort();
    let found = match &wanted {
        Some(version) => installed.into_iter().find(|(major, _)| major.to_string() == *version),
        None => installed.into_iter().rev().find(|(major, _)| *major >= MIN_MAJOR),
    };
    match (found, wanted) {
        (Some((_, binaries)), _) => Ok(binaries),
        (None, Some(version)) => {
            bail!("{} was made by Postgres {version}, which is not installed", data.display())
        }
        (None, None) => bail!("Postgres {MIN_MAJOR} or newer is not installed: run scripts/packages"),
    }
}

/// Finds installed servers in Debian's directories and with `pg_config`.
fn installed() -> Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        for version in versions {
            let version = version?;
            let binaries = version.path().join("bin");
            if let Some(Ok(major)) = version.file_name().to_str().map(str::parse)
                && binaries.join("postgres").is_file()
            {
                found.push((major, binaries));
            }
        }
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let binaries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if let Some(major) = major_of(&binaries) {
            found.push((major, binaries));
        }
    }
    Ok(found)
}

fn major_of(binaries: &Path) -> Option<u32> {
    let output = Command::new(binaries.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(2)?.split('.').next()?.parse().ok()
}
