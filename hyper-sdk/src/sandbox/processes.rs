//! Ends every process below this one, where no pid namespace does so.
//!
//! A process that adopts orphans ([`adopt_orphans`]) stays above everything that it started: what loses its parent
//! becomes its child. So all of it is found below it in `/proc`, however often it forked.

use super::sys;
use std::collections::HashMap;
use std::time::Duration;

const A_MOMENT: Duration = Duration::from_millis(1);

/// Makes this process the parent of what loses its own below it.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    sys::set_subreaper()
}

/// Kills everything below this process and waits for its end. No other code of this process may wait for children
/// meanwhile.
pub(crate) fn end_all_below() {
    let own = sys::own_pid();
    loop {
        let found = below(own, &parents());
        // What is stopped cannot start more while the rest is killed.
        for signal in [libc::SIGSTOP, libc::SIGKILL] {
            for &pid in &found {
                sys::kill(pid, signal);
            }
        }
        loop {
            match sys::wait(-1, false) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // There is none left.
                Err(_) => return,
            }
        }
        std::thread::sleep(A_MOMENT);
    }
}

/// Every process with its parent, as `/proc` shows them.
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        Some((pid, parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
    })
    .collect()
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    u32::try_from(parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?).ok()
}

/// The parent in a line of `/proc/PID/stat`. The name of the program may have any character.
fn parent(stat: &str) -> Option<i32> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

/// The processes below `top`.
fn below(top: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for &(pid, parent) in parents {
        children.entry(parent).or_default().push(pid);
    }
    let (mut found, mut todo) = (Vec::new(), vec![top]);
    while let Some(pid) = todo.pop() {
        // Removed, as numbers that are used again could make a circle.
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            todo.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_after_any_name() {
        assert_eq!(parent("7 (a) b) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (sh) R 1"), Some(1));
        assert_eq!(parent("7 sh R 1"), None);
    }

    #[test]
    fn everything_below_is_found_and_nothing_else() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 2), (8, 9), (9, 8)];
        let mut found = below(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4, 6]);
        assert_eq!(below(8, &parents).len(), 2, "a circle ends");
        assert_eq!(below(7, &parents), [0; 0]);
    }
}
