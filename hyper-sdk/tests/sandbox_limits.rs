//! Many steps, layers and bytes: what steps that run at once share, and where an end is told.

use crate::sandbox::{Fixture, Output, shell};
use hyper_sdk::ErrorKind;
use hyper_sdk::exec::{
    CacheMount, ExecMount, ExecSpec, Executor as _, Identity, MountSource, RootFs, SecretBytes,
};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

#[tokio::test]
async fn many_layers_can_be_mounted() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut lowers = Vec::new();
    for number in 0..300 {
        let layer = fixture.path("layers").join(number.to_string());
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join("top"), number.to_string()).unwrap();
        std::fs::write(layer.join(format!("file{number}")), "").unwrap();
        lowers.push(layer);
    }
    lowers.push(fixture.path("base"));
    let rootfs = RootFs::Overlay { lowers, upper: Some((fixture.path("upper"), fixture.path("work"))) };
    let output = Arc::new(Output::default());
    let spec = shell("cat /top; ls / | grep -c file");
    let status = fixture.executor.run(&rootfs, spec, output.clone()).await.unwrap();
    assert!(status.success());
    assert_eq!(output.texts().0, "0300\n");
}

/// Each step waits in a shared folder until all of them are there.
#[tokio::test]
async fn several_steps_run_at_once() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut runs = Vec::new();
    for number in 0..4 {
        let (upper, work) = (fixture.path(&format!("u{number}")), fixture.path(&format!("d{number}/work")));
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        let rootfs = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: Some((upper, work)) };
        let executor = fixture.executor.clone();
        let mut spec = shell(&format!(
            "echo > /meet/{number}; n=0; while [ $(ls /meet | grep -c .) -lt 4 ]; do \
             n=$((n + 1)); [ $n -lt 600 ] || exit 9; sleep 0.1; done"
        ));
        let path = fixture.path("meet");
        let cache = CacheMount { path, read_only: false, owner: None, from: None };
        spec.mounts.push(ExecMount { target: "/meet".into(), source: MountSource::Cache(cache) });
        runs.push(tokio::spawn(async move {
            executor.run(&rootfs, spec, Arc::new(Output::default())).await.unwrap().code
        }));
    }
    for run in runs {
        assert_eq!(run.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_too_long_or_closed_is_named() {
    let Some(fixture) = Fixture::new().await else { return };
    let long = "x".repeat(128 << 10);
    let mut spec = shell("true");
    spec.args.push(long.clone());
    let error = fixture.run_spec(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.message().contains("argument 3") && error.message().contains("131072"), "{error}");
    let mut spec = shell("true");
    spec.env.push(("LONG".into(), long.clone()));
    let error = fixture.run_spec(spec).await.unwrap_err();
    assert!(error.message().contains("`LONG`") && error.kind() == ErrorKind::TooLarge, "{error}");
    assert!(!format!("{error:?}").contains("xxxx"));

    if fixture.executor.identity() == Identity::Full {
        let closed = fixture.path("base/closed");
        std::fs::create_dir_all(closed.join("deep")).unwrap();
        hyper_sdk::testing::copy_program("/bin/true".as_ref(), &closed.join("deep/true")).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let as_me = |program: &str| {
            let mut spec = ExecSpec::new([program]);
            spec.user = "1000".into();
            spec
        };
        let error = fixture.run_spec(as_me("/closed/deep/true")).await.unwrap_err();
        assert_eq!(error.context_value("path"), Some("/closed"), "{error:?}");
        assert_eq!(error.context_value("program"), Some("/closed/deep/true"));
        std::fs::set_permissions(fixture.path("upper"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = fixture.run_spec(as_me("/bin/sh")).await.unwrap_err();
        assert_eq!(error.context_value("path"), Some("/"), "{error:?}");
    }
}

/// Steps that run at once, with mounts inside a cache that they share: each finds its own, and none is lost.
#[tokio::test]
async fn mounts_inside_a_shared_cache_do_not_disturb_each_other() {
    let Some(fixture) = Fixture::new().await else { return };
    for round in 0..12 {
        let mut runs = Vec::new();
        for number in 0..6 {
            let place = fixture.path(&format!("r{round}-{number}"));
            let (upper, work) = (place.join("upper"), place.join("d/work"));
            std::fs::create_dir_all(&upper).unwrap();
            std::fs::create_dir_all(&work).unwrap();
            let rootfs = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: Some((upper, work)) };
            let cache = |name: &str| {
                let path = fixture.path(&format!("{name}-{round}"));
                MountSource::Cache(CacheMount { path, read_only: false, owner: None, from: None })
            };
            let tree = RootFs::Overlay { lowers: vec![fixture.path("base")], upper: None };
            let secret = SecretBytes::new(format!("s{number}"));
            let mut spec = shell(&format!(
                "echo {number} > /foo/bar/own{number} && echo {number} > /foo/bar/baz/own{number} && \
                 cat /foo/bar/own{number} /foo/bar/baz/own{number} /foo/bar/deep/key && ls /foo/bar/etc/passwd && \
                 touch /foo/bar/memory/x && pwd"
            ));
            spec.cwd = "/foo/bar/baz".into();
            for (target, source) in [
                ("/foo/bar", cache("outer")),
                ("/foo/bar/baz", cache("inner")),
                ("/foo/bar/etc", MountSource::Tree { tree, path: "/etc".into(), writable: false }),
                ("/foo/bar/memory", MountSource::Tmpfs { size: None, read_only: false }),
                ("/foo/bar/deep/key", MountSource::Secret { content: secret, mode: 0o444, uid: 0, gid: 0 }),
            ] {
                spec.mounts.push(ExecMount { target: target.into(), source });
            }
            let (executor, output) = (fixture.executor.clone(), Arc::new(Output::default()));
            runs.push(tokio::spawn(async move {
                let status = executor.run(&rootfs, spec, output.clone()).await;
                (number, status, output.texts(), place)
            }));
        }
        for run in runs {
            let (number, status, (output, errors), place) = run.await.unwrap();
            let status = status.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
            assert_eq!((status.code, errors.as_str()), (0, ""), "round {round}");
            assert_eq!(output, format!("{number}\n{number}\ns{number}/foo/bar/etc/passwd\n/foo/bar/baz\n"));
            // The working folder is part of the step's result, though a mount with a place of the same name hid it.
            assert!(place.join("upper/foo/bar/baz").is_dir());
        }
        for number in 0..6 {
            for cache in ["outer", "inner"] {
                assert!(fixture.path(&format!("{cache}-{round}/own{number}")).exists(), "{cache} {number}");
            }
        }
    }
}
