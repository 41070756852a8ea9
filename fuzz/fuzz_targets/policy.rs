//! Policies of registries never panic, and a decision on any policy ends.
#![no_main]

use hyper_server::policy::{Operation, Policy, Subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = Policy::parse(text) else { return };
    for (subject, repository) in [(Subject::ANONYMOUS, "a"), (Subject::user("alice"), "team/app/x")] {
        for operation in Operation::ALL {
            policy.decide(&subject, operation, repository, Some("v1"));
        }
        policy.immutable_for(&subject, repository);
    }
});
