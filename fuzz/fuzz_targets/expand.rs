//! Expansion never panics, and a word without anything to expand stays as it is.
#![no_main]

use hyper_sdk::dockerfile::{Expander, Heredoc};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|word: &str| {
    let env: BTreeMap<String, String> =
        [("a", "x y/z"), ("b", ""), ("c", "a.tar.gz")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    for expander in [
        Expander::new('\\'),
        Expander::new('`'),
        Expander::for_heredoc(),
        Expander::new('\\').keep_quotes().keep_escapes().keep_undefined(),
    ] {
        let result = expander.word(word, &env);
        if !word.contains(['$', '\'', '"', '\\', '`']) {
            assert_eq!(result.expect("nothing to expand").text, word);
        }
        let _ = expander.words(word, &env);
    }
    let _ = Heredoc::parse(word);
});
