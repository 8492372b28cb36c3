//! A private Redis (or Valkey): on the loopback address, with a password, without a file on disk, because
//! Steward stores only data in Redis that may be lost.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{home::Home, process::Daemon, user::User};

/// Signals that stop the server, each with the time to wait for its effect.
pub const STOP: &[(Signal, Duration)] =
    &[(Signal::TERM, Duration::from_secs(5)), (Signal::KILL, Duration::from_secs(5))];

/// Starts the home's Redis server, and returns its URL.
pub async fn start(home: &Home) -> Result<(String, Daemon)> {
    let user = User::for_servers(&["redis", "valkey", "nobody"])?;
    let password = home.secret("redis.password")?;
    let port = home.port("redis")?;
    // The configuration is passed on standard input, so that no command line shows the password.
    let configuration = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly no\ndaemonize no\ndir /\n"
    );
    let mut command = Command::new(find()?);
    command.arg("-").current_dir("/");
    if let Some(user) = &user {
        user.apply(&mut command);
    }
    let mut daemon = Daemon::start(home, "redis", command, &configuration)?;
    if let Err(error) = daemon.until_ready(Duration::from_secs(20), async || answers(port).await).await {
        daemon.stop(STOP).await?;
        return Err(error);
    }
    Ok((format!("redis://default:{password}@{}:{port}/", Ipv4Addr::LOCALHOST), daemon))
}

fn find() -> Result<&'static str> {
    let runs = |program: &&str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    match ["redis-server", "valkey-server"].into_iter().find(runs) {
        Some(program) => Ok(program),
        None => bail!("redis-server is not installed: run scripts/packages"),
    }
}

/// Returns whether the server answers. Without the password it answers a PING with an error, which is enough.
async fn answers(port: u16) -> bool {
    async fn ping(port: u16) -> Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).await.context("read the reply")?;
        Ok(&reply == b"-NOAUTH")
    }
    ping(port).await.unwrap_or(false)
}
