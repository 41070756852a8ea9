//! Headers `Content-Range`, of requests and of responses, never panic, and the server and the client agree on a range.
#![no_main]

use hyper_sdk::client::fuzzing as client;
use hyper_server::fuzzing as server;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    client::upload_range(value);
    if let Some((first, length)) = server::content_range(value) {
        assert!(length > 0);
        let last = first.checked_add(length - 1).unwrap();
        assert_eq!(server::content_range(&format!("{first}-{last}")), Some((first, length)));
        assert_eq!(client::upload_range(&format!("{first}-{last}")), Some((first, last)));
    }
    if let Some((first, last, size)) = client::content_range(value) {
        assert!(first <= last && size.is_none_or(|size| last < size));
    }
});
