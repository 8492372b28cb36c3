//! The file in a home that lists its plane's processes, for `steward status`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Plane;

const FILE: &str = "plane.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub processes: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// Base URL of `/metrics`, `/healthz` and `/readyz`.
    pub operator_url: String,
}

impl Layout {
    pub(super) fn of(plane: &Plane) -> Self {
        let entry = |process: &super::Process| Entry {
            name: process.name.clone(),
            operator_url: process.operator_url(),
        };
        Self { processes: plane.processes.iter().map(entry).collect() }
    }

    pub fn write(&self, home: &Path) -> Result<()> {
        let path = home.join(FILE);
        fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Reads the file without opening the home, which `steward dev` has locked.
    pub(crate) fn read(home: &Path) -> Result<Self> {
        let path = home.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }
}
