//! Request lines never panic, and a path that leads out of its repository leads nowhere.
#![no_main]

use hyper_server::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&[u8], &str, Option<&str>)| {
    let (method, path, query) = parts;
    for method in [method, b"GET", b"PUT", b"POST", b"PATCH", b"DELETE"] {
        let leads = fuzzing::route(method, path, query);
        assert!(!leads || !path.split('/').any(|part| part == ".." || part == "."), "{path}");
    }
    fuzzing::token_form(path);
});
