//! Headers `Range` never panic, and what they ask for is in the content, once.
#![no_main]

use hyper_server::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|asked: (u64, &str)| {
    let (size, value) = asked;
    let Some(mut parts) = fuzzing::range(value, size) else { return };
    assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
    parts.sort_by_key(|part| part.start);
    assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "{parts:?}");
});
