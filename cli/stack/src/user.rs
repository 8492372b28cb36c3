//! The unprivileged user that servers run as when `steward` runs as root.

use std::{fs, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Finds the first of `names` that is a user of this machine, if this process is root. Otherwise returns
    /// `None`: servers then run as the caller's user.
    pub(crate) fn for_servers(names: &[&str]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let user = names.iter().find_map(|name| users.lines().find_map(|line| Self::parse(line, name)));
        match user {
            Some(user) => Ok(Some(user)),
            None => bail!("none of the users {} exists to run a server as", names.join(", ")),
        }
    }

    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some(Self { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Makes the command run as this user.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}
