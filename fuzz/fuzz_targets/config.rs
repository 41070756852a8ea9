//! Configurations of the registry never panic, and an error says what is wrong.
#![no_main]

use hyper_server::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = fuzzing::config(text) {
        assert!(!error.to_string().is_empty());
    }
});
