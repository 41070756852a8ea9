//! Cases about the end of commands and about concurrent commands.

use super::kit::*;
use crate::exec::{Executor, RootFs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A background process that writes until it is killed.
const BEATS: &str = "(while echo x >> /tmp/beats; do sleep 0.01; done) > /tmp/log 2>&1 &";
/// Waits for the first output of the background process.
const WAIT: &str = "for i in $(seq 1 3000); do test -s /tmp/beats && break; sleep 0.01; done;";

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Waits until a file has stopped growing.
async fn stops(path: &Path) {
    let stopped = async {
        let mut before = size(path);
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = size(path);
            if now == before {
                return;
            }
            before = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("a process still runs");
}

pub async fn a_dropped_command_is_killed(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let beats = on_the_host(&rootfs, "tmp/beats");
    // The command itself, what it started, and what that started.
    let script = format!("{BEATS} sh -c '{BEATS} sleep 1000' & {WAIT} echo started; sleep 1000");
    run_until(&executor, &rootfs, shell(&script), "started").await;
    assert!(size(&beats) > 0, "they did run");
    stops(&beats).await;
}

pub async fn processes_of_a_command_end_with_it(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let beats = on_the_host(&rootfs, "tmp/beats");
    let script = format!("{BEATS} {WAIT} exit 5");
    assert_eq!(run(&executor, &rootfs, shell(&script)).await.code, 5);
    assert!(size(&beats) > 0, "it did run");
    stops(&beats).await;
    // A process that keeps the output open does not delay the end of the command.
    assert_eq!(run(&executor, &rootfs, shell("sleep 1000 & echo over")).await.out, "over\n");
}

pub async fn commands_run_at_once(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let first = run_until(&executor, &rootfs, shell("echo started; sleep 1000"), "never");
    let others = async {
        for i in 0..3 {
            let (root, _folder) = another(&rootfs);
            assert_eq!(output_of(&executor, &root, shell(&format!("echo {i}"))).await, format!("{i}\n"));
        }
    };
    tokio::select! {
        biased;
        () = first => {}
        () = others => {}
    }
}

pub async fn a_failed_command_leaves_the_executor_usable(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let (other, _folder) = another(&rootfs);
    run_until(&executor, &other, shell("echo started; sleep 1000"), "started").await;
    assert!(try_run(&executor, &rootfs, command(["no-such-program"])).await.is_err());
    assert_eq!(run(&executor, &rootfs, shell("kill -9 $$")).await.code, 137);
    assert_eq!(output_of(&executor, &rootfs, shell("echo fine")).await, "fine\n");
}
