//! Cases about capabilities: what is denied is refused, what is claimed works.

use super::kit::*;
use crate::ErrorKind;
use crate::exec::{ExecSpec, Executor, MountSource, Network, RootFs, Security, Ulimit, UlimitKind};
use std::sync::Arc;

const REFUSED: &[ErrorKind] = &[ErrorKind::Unsupported];

pub async fn capabilities_what_is_denied_is_unsupported(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let capabilities = executor.capabilities();
    let changed = |change: fn(&mut ExecSpec)| {
        let mut spec = shell("touch /ran");
        change(&mut spec);
        spec
    };
    let mut denied = Vec::new();
    if !capabilities.private_network {
        denied.push(changed(|spec| spec.network = Network::None));
    }
    if !capabilities.build_network {
        denied.push(changed(|spec| spec.network = Network::Private));
        assert_eq!(executor.build_network().await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    if !capabilities.insecure {
        denied.push(changed(|spec| spec.security = Security::Insecure));
    }
    if !capabilities.limits {
        denied.push(changed(|spec| spec.limits.shm_size = Some(1 << 20)));
    }
    if !capabilities.sandbox {
        let memory = MountSource::Tmpfs { size: None, read_only: false };
        denied.push(with_mount(shell("touch /ran"), "/m", memory));
        denied.push(changed(|spec| spec.hostname = Some("builder".into())));
        denied.push(changed(|spec| spec.resolv_conf = Some(String::new())));
        denied.push(changed(|spec| spec.extra_hosts.push(("seven".into(), "192.0.2.7".into()))));
    }
    for spec in denied {
        fails(try_run(&executor, &rootfs, spec).await, REFUSED);
    }
    if !capabilities.overlays {
        let empty = RootFs::Overlay { lowers: Vec::new(), upper: None };
        fails(try_run(&executor, &empty, command(["true"])).await, REFUSED);
    }
    assert_eq!(
        run(&executor, &rootfs, shell("test -e /ran")).await.code,
        1,
        "a refused command does not run"
    );
}

pub async fn capabilities_a_private_network_has_only_a_loopback(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, private_network);
    let mut spec = shell("grep : /proc/net/dev");
    spec.network = Network::None;
    let out = output_of(&executor, &rootfs, spec).await;
    let names: Vec<&str> = out.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"]);
}

pub async fn capabilities_an_insecure_command_may_mount(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mount = || shell("mount -t tmpfs none /tmp");
    if executor.capabilities().sandbox {
        assert_ne!(run(&executor, &rootfs, mount()).await.code, 0, "a command has few privileges by default");
    }
    needs!(executor, insecure);
    let mut spec = mount();
    spec.security = Security::Insecure;
    assert_eq!(run(&executor, &rootfs, spec).await.code, 0);
}

pub async fn capabilities_a_limit_is_that_of_the_command(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, limits);
    let mut spec = shell("ulimit -Sn; ulimit -Hn");
    spec.limits.ulimits = vec![Ulimit { kind: UlimitKind::Nofile, soft: Some(61), hard: Some(62) }];
    executor.check_limits(&spec.limits).await.unwrap();
    assert_eq!(output_of(&executor, &rootfs, spec).await, "61\n62\n");
}

pub async fn capabilities_do_not_change(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let capabilities = executor.capabilities();
    output_of(&executor, &rootfs, command(["true"])).await;
    assert_eq!(executor.capabilities(), capabilities);
}

pub async fn an_executor_has_a_name(executor: Arc<dyn Executor>, _: RootFs) {
    assert!(!executor.to_string().is_empty());
}
