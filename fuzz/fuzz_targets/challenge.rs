//! Challenges and links of registries never panic, and what was read of a challenge is read again from its plain form.
#![no_main]

use hyper_sdk::client::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::next_link(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let challenges = fuzzing::challenges(text);
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let plain = challenges.iter().map(|(scheme, parameters)| {
        let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
        format!("{scheme} {}", parameters.join(","))
    });
    assert_eq!(fuzzing::challenges(&plain.collect::<Vec<_>>().join(", ")), challenges);
});
