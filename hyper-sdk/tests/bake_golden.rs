//! Our own cases of definitions: `golden/bake/CASE` has the files, and `expected.json` the plan that `docker buildx bake
//! --print` makes of them. The files are read in the order of their names. `arguments`, when it is there, has the names of
//! targets and lines such as `set KEY=VALUE` and `env NAME=VALUE`.

use hyper_sdk::bake::{BakeConfig, BakeFile, BakeInput};
use std::collections::BTreeMap;
use std::path::Path;

fn plan(case: &Path) -> serde_json::Value {
    let mut paths: Vec<_> = std::fs::read_dir(case).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let (mut files, mut names, mut sets, mut env) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        match name.as_str() {
            "expected.json" => {}
            "arguments" => {
                for line in text.lines() {
                    match line.split_once(' ') {
                        Some(("set", change)) => sets.push(change.to_owned()),
                        Some(("env", pair)) => {
                            let (name, value) = pair.split_once('=').unwrap();
                            env.insert(name.to_owned(), value.to_owned());
                        }
                        _ => names.push(line.to_owned()),
                    }
                }
            }
            _ => files.push(BakeFile { name, text }),
        }
    }
    if names.is_empty() {
        names.push("default".to_owned());
    }
    let variable = |name: &str| env.get(name).cloned();
    let input = BakeInput {
        files,
        variable: &variable,
        dotenv: None,
        variables: BTreeMap::new(),
        home: None,
        platform: "linux/amd64".to_owned(),
        now: 0,
        random: &|| 0,
    };
    let plan = BakeConfig::read(&input).and_then(|config| config.plan(&names, &sets, &variable));
    let mut json = serde_json::to_value(plan.unwrap_or_else(|e| panic!("{}: {e}", case.display()))).unwrap();
    // The order of a group has no meaning.
    for group in json["group"].as_object_mut().into_iter().flatten() {
        let targets = group.1["targets"].as_array_mut().unwrap();
        targets.sort_by_key(|name| name.as_str().map(str::to_owned));
    }
    json
}

#[test]
fn every_case_gives_the_plan_of_buildx() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bake");
    let mut cases = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let case = entry.unwrap().path();
        let expected = std::fs::read_to_string(case.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        let found = plan(&case);
        cases += 1;
        if found != expected {
            wrong.push(format!("{}:\n{found:#}\n--- expected\n{expected:#}", case.display()));
        }
    }
    assert!(cases >= 8, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
