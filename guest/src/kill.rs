//! Kills a command and its descendants, including those that left its process group or have no living parent.
//!
//! The guest may not create a control group in its container, so it finds descendants in `/proc`: by process
//! group and session, by parent, and by a mark in their environment. A program can remove the mark: it can
//! overwrite its own environment, or start another program without the mark (`env -i`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, process,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::limits::KILL_SCANS;

/// Kills `root`, its process group and its descendants. `mark` is the entry `NAME=value` in their
/// environment.
pub(crate) fn tree(root: u32, mark: &str) {
    for _ in 0..KILL_SCANS {
        if let Some(group) = pid(root) {
            // The only error is ESRCH: the group is empty.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let victims = descendants(root, mark);
        if victims.is_empty() {
            return;
        }
        for victim in victims.into_iter().filter_map(pid) {
            // The only error is ESRCH: the process has exited.
            let _ = kill_process(victim, Signal::KILL);
        }
    }
}

/// Returns the ids of the living processes that have the entry `mark` in their environment.
pub(crate) fn marked(mark: &str) -> impl Iterator<Item = u32> {
    processes()
        .into_iter()
        .filter(move |(id, process)| !process.dead && is_marked(*id, mark))
        .map(|(id, _)| id)
}

fn descendants(root: u32, mark: &str) -> BTreeSet<u32> {
    let processes = processes();
    let mut found: BTreeSet<u32> =
        processes.iter().filter(|(_, p)| p.group == root || p.session == root).map(|(id, _)| *id).collect();
    found.insert(root);
    loop {
        let children: Vec<u32> = processes
            .iter()
            .filter(|(id, p)| found.contains(&p.parent) && !found.contains(*id))
            .map(|(id, _)| *id)
            .collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    found.extend(marked(mark));
    found.remove(&process::id());
    found.retain(|id| processes.get(id).is_some_and(|process| !process.dead));
    found
}

struct Process {
    parent: u32,
    group: u32,
    session: u32,
    /// The process has exited, and its parent has not waited for it yet.
    dead: bool,
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, parse(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect()
}

/// Reads `/proc/<pid>/stat`: `pid (name) state parent group session …`. The name may contain spaces and
/// parentheses.
fn parse(stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Process { parent: number()?, group: number()?, session: number()?, dead })
}

fn is_marked(id: u32, mark: &str) -> bool {
    fs::read(format!("/proc/{id}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read() {
        let process = parse("12 (a) b (c) S 1 12 11 0 -1 4194560").unwrap();
        assert_eq!((process.parent, process.group, process.session, process.dead), (1, 12, 11, false));
        assert!(parse("12 (gone) Z 1 12 12").unwrap().dead);
        assert!(parse("12 (cut").is_none());
    }
}
