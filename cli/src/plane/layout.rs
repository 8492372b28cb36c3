//! Where a plane's processes are: written beside its data, so that other commands find them.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Plane;

const FILE: &str = "plane.json";

/// Where a plane's processes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Each process.
    pub processes: Vec<Entry>,
}

/// Where one process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Base URL of its operators' port.
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

    /// Writes it into a home.
    pub fn write(&self, home: &Path) -> Result<()> {
        let path = home.join(FILE);
        fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Reads it from a home, which another process may own.
    pub fn read(home: &Path) -> Result<Self> {
        let path = home.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }
}
