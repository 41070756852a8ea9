//! BuildKit's own cases: parser trees and shell expansion tables, where a copy of them is at hand.
//!
//! `HYPER_SHARED_FIXTURES` names the folder that holds `dockerfile-parser/` and `shell/`.

use hyper_sdk::dockerfile::{Ast, Environment, Expander, Source, parse};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn fixtures(part: &str) -> Option<PathBuf> {
    match std::env::var_os("HYPER_SHARED_FIXTURES") {
        Some(folder) => Some(PathBuf::from(folder).join(part)),
        None => {
            println!("SKIPPED: {part}: HYPER_SHARED_FIXTURES is not set");
            None
        }
    }
}

fn folders(path: PathBuf) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn trees_are_those_of_the_reference() {
    let Some(folder) = fixtures("dockerfile-parser/positive") else { return };
    let mut wrong = Vec::new();
    let cases = folders(folder);
    assert!(cases.len() >= 33, "only {} cases", cases.len());
    for case in cases {
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        let expected = std::fs::read_to_string(case.join("result")).unwrap();
        let tree = Ast::parse(&Source::new("Dockerfile", text)).dump();
        if tree.trim() != expected.trim() {
            wrong.push(format!("{}:\n{tree}\n--- expected\n{expected}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_the_reference_refuses_is_refused() {
    let Some(folder) = fixtures("dockerfile-parser/negative") else { return };
    for case in folders(folder) {
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        assert!(
            Ast::parse(&Source::new("Dockerfile", text.clone())).diagnostics.iter().any(|d| d.is_error()),
            "{}",
            case.display()
        );
        assert!(parse(&text, "Dockerfile").has_errors(), "{}", case.display());
    }
}

#[test]
fn words_expand_as_in_the_reference() {
    let Some(file) = fixtures("shell/envVarTest") else { return };
    let env: BTreeMap<String, String> =
        [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let expander = Expander::new('\\');
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let mut parts = line.splitn(3, '|').map(str::trim);
        let (Some(system), Some(word), Some(expected)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("{line}")
        };
        if system == "W" {
            continue;
        }
        rows += 1;
        let result = expander.word(word, &env);
        let agrees = match (&result, expected) {
            (Err(_), "error") => true,
            (Ok(expanded), expected) => expanded.text == expected,
            (Err(_), _) => false,
        };
        if !agrees {
            wrong.push(format!("{line}: {result:?}"));
        }
    }
    assert!(rows > 200, "only {rows} rows");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn texts_split_as_in_the_reference() {
    let Some(file) = fixtures("shell/wordsTest") else { return };
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut rows = 0;
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if let Some(definition) = line.strip_prefix("ENV ") {
            let (name, value) = definition.trim_start().split_once('=').unwrap();
            env.insert(name.to_owned(), value.to_owned());
            continue;
        }
        rows += 1;
        let (text, expected) = line.split_once('|').unwrap();
        // One space behind the bar belongs to the layout, the others to the expectation.
        let expected = expected.trim_start();
        match Expander::new('\\').words(text.trim(), &env as &dyn Environment) {
            Ok(words) => assert_eq!(words.join(","), expected, "{line}"),
            Err(_) => assert_eq!(expected, "error", "{line}"),
        }
    }
    assert!(rows > 20, "only {rows} rows");
}
