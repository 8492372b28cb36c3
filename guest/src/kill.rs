//! Ends a command with its descendants, those included that left its process group or whose parents ended.
//!
//! Without a control group of its own (none can be made inside the container) the descendants are found in `/proc`:
//! by process group and session, by parent, and by a mark in their environment, which only a program that rewrites
//! its own environment can shed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, process,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Looks taken at `/proc`: a tree that forks while it is killed needs more than one.
const LOOKS: usize = 16;

/// Kills `root`, its process group and its descendants; `mark` is the entry in their environment.
pub(crate) fn tree(root: u32, mark: &str) {
    for _ in 0..LOOKS {
        if let Some(group) = pid(root) {
            // ESRCH: the group is empty.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let victims = descendants(root, mark);
        if victims.is_empty() {
            return;
        }
        for victim in victims.into_iter().filter_map(pid) {
            // ESRCH: it ended by itself.
            let _ = kill_process(victim, Signal::KILL);
        }
    }
}

/// Processes that carry `mark`, dead ones not counted.
pub(crate) fn marked(mark: &str) -> impl Iterator<Item = u32> {
    processes().into_iter().filter(move |(id, process)| !process.dead && carries(*id, mark)).map(|(id, _)| id)
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
    /// Ended, but not yet waited for.
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

/// Reads `/proc/<pid>/stat`: `pid (name) state parent group session …`; the name may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Process { parent: number()?, group: number()?, session: number()?, dead })
}

fn carries(id: u32, mark: &str) -> bool {
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
