//! Definitions of several builds never panic and always end: as HCL, JSON and compose files.
#![no_main]

use hyper_sdk::bake::{BakeConfig, BakeFile, BakeInput, build_flags};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    for name in ["f.hcl", "f.json", "f.yaml", "f"] {
        let input = BakeInput {
            files: vec![BakeFile { name: name.to_owned(), text: text.to_owned() }],
            variable: &|name| (name == "TAG").then(|| "1".to_owned()),
            dotenv: Some(text.to_owned()),
            variables: BTreeMap::new(),
            home: None,
            platform: "linux/amd64".to_owned(),
            now: 0,
            random: &|| 0,
        };
        let Ok(config) = BakeConfig::read(&input) else { continue };
        if let Ok(plan) = config.plan(&["*".to_owned()], &["*.tags+=x".to_owned()], &|_| None) {
            plan.targets.values().for_each(|target| drop(build_flags(target)));
        }
    }
});
