//! The values of flags never panic: mounts, devices, owners, modes, durations, sizes, ports, addresses.
#![no_main]

use hyper_sdk::dockerfile::{
    AddSource, CheckOptions, GitReference, Mount, Owner, parse_device, parse_duration, parse_ports,
    parse_size,
};
use hyper_sdk::mode::ModeChange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Mount::parse(text);
    let _ = parse_device(text);
    let _ = Owner::parse(text);
    let _ = parse_duration(text);
    let _ = parse_size(text);
    let _ = AddSource::parse(text);
    let _ = GitReference::parse_context(text);
    let _ = CheckOptions::parse(text);
    let _ = parse_ports(text.split(' '));
    if let Ok(change) = ModeChange::parse(text) {
        for mode in [0, 0o644, 0o755, 0o7777] {
            assert!(change.apply(mode, true) <= 0o7777);
        }
    }
});
