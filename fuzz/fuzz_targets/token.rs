//! Tokens never panic, and none that the registry did not issue opens it.
#![no_main]

use hyper_server::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (i64, &[u8])| {
    let (now, bytes) = parts;
    let _ = fuzzing::key_set(bytes);
    if let Some(user) = fuzzing::claims(bytes, now) {
        assert!(user.starts_with("ci:") && !user.contains(char::is_control), "{user:?}");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(!fuzzing::token(text, now), "{text}");
    }
});
