//! Definitions from text to plan.

use super::*;

fn try_plan(files: &[(&str, &str)], names: &[&str], sets: &[&str], env: &[(&str, &str)]) -> Result<BakePlan> {
    let variable =
        |name: &str| env.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
    let input = BakeInput {
        files: files
            .iter()
            .map(|(name, text)| BakeFile { name: (*name).into(), text: (*text).into() })
            .collect(),
        variable: &variable,
        dotenv: None,
        variables: BTreeMap::new(),
        home: Some("/home/u".into()),
        platform: "linux/amd64".into(),
        now: 1_700_000_000,
        random: &|| 7,
    };
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let names = if names.is_empty() { own(&["default"]) } else { own(names) };
    BakeConfig::read(&input)?.plan(&names, &own(sets), &variable)
}

fn hcl(text: &str) -> BakePlan {
    try_plan(&[("docker-bake.hcl", text)], &[], &[], &[]).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn fails(text: &str) -> String {
    match try_plan(&[("docker-bake.hcl", text)], &[], &[], &[]) {
        Ok(plan) => panic!("passed: {text}\n{plan:?}"),
        Err(e) => e.to_string(),
    }
}

/// The value of `V` in the arguments of the target `default`.
fn value(expression: &str) -> String {
    let text = format!("target \"default\" {{\n  args = {{ V = {expression} }}\n}}\n");
    hcl(&text).targets["default"].args.get("V").cloned().unwrap_or("null".to_owned())
}

#[test]
fn expressions_have_the_values_of_the_language() {
    for (expression, expected) in [
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("-5 % 3", "-2"),
        ("0.1 + 0.2", "0.3"),
        ("5 > 3 && !false", "true"),
        ("\"1\" + \"2\"", "3"),
        ("1 == \"1\"", "false"),
        ("null == null", "true"),
        ("true ? 1 : \"x\"", "1"),
        // Both results have one type: a tuple beside a set is a set, beside a list a list.
        ("join(\",\", true ? [\"b\", \"a\", \"b\"] : setsubtract([\"x\"], [\"x\"]))", "a,b"),
        ("join(\",\", true ? [\"b\", \"a\", \"b\"] : split(\",\", \"x\"))", "b,a,b"),
        ("null", "null"),
        ("join(\",\", [for i, x in [\"a\", \"b\"] : \"${i}${x}\"])", "0a,1b"),
        ("join(\",\", [for x in [\"a\", \"b\"] : x if x != \"a\"])", "b"),
        (
            "jsonencode({for x in [\"aa\", \"ab\", \"b\"] : substr(x, 0, 1) => x...})",
            r#"{"a":["aa","ab"],"b":["b"]}"#,
        ),
        ("jsonencode([{ a = 1 }, { a = 2 }][*].a)", "[1,2]"),
        ("{ a = { b = \"c\" } }.a[\"b\"]", "c"),
        ("\"%{ if 1 > 2 }x%{ else }y%{ endif }\"", "y"),
        ("\"%{ for x in [1, 2] }<${x}>%{ endfor }\"", "<1><2>"),
        ("\"a ${~ \"b\" ~} c\"", "abc"),
        ("\"$${x} %%{y}\"", "${x} %{y}"),
        ("try(nope, 1 / 0, \"third\")", "third"),
        ("can(nope)", "false"),
        ("max([1, 5, 2]...)", "5"),
        ("timestamp()", "2023-11-14T22:13:20Z"),
        ("homedir()", "/home/u"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn variables_and_functions_come_in_any_order() {
    let plan = hcl(r#"
        target "default" { args = { A = double(base), B = all("-", "x", "y"), C = later } }
        function "double" {
          params = [n]
          result = n * factor
        }
        function "all" {
          params = [sep]
          variadic_params = rest
          result = join(sep, rest)
        }
        later = "${base}!"
        variable "base" { default = 21 }
        variable "factor" { default = 2 }
    "#
    .replace("{ args = { A", "{\n args = { A")
    .replace("C = later } }", "C = later }\n}")
    .as_str());
    let args = &plan.targets["default"].args;
    assert_eq!((args["A"].as_str(), args["B"].as_str(), args["C"].as_str()), ("42", "x-y", "21!"));
}

#[test]
fn the_environment_overrides_variables_by_their_type() {
    let text = r#"
        variable "S" { default = "s" }
        variable "N" { default = 1 }
        variable "B" { default = false }
        variable "L" {
          type = list(string)
          default = ["a"]
        }
        variable "M" { type = map(number) }
        variable "U" {}
        target "default" {
          args = { S = S, N = N + 1, B = B ? "on" : "off", L = join("|", L), M = jsonencode(M), U = "<${U}>" }
        }
    "#;
    let args = |env: &[(&str, &str)]| {
        try_plan(&[("f.hcl", text)], &[], &[], env).map(|plan| plan.targets["default"].args.clone())
    };
    let plain = args(&[]).unwrap();
    assert_eq!((plain["N"].as_str(), plain["L"].as_str(), plain["U"].as_str()), ("2", "a", "<>"));
    let env = [("S", "x"), ("N", "41"), ("B", "1"), ("L", "b,\"c,d\""), ("M_JSON", "{\"a\":2}"), ("U", "u")];
    let given = args(&env).unwrap();
    for (name, expected) in
        [("S", "x"), ("N", "42"), ("B", "on"), ("L", "b|c,d"), ("M", r#"{"a":2}"#), ("U", "<u>")]
    {
        assert_eq!(given[name], expected, "{name}");
    }
    for (name, wrong, why) in
        [("N", "x", "expected a number"), ("B", "maybe", "true or false"), ("M", "a", "KEY:VALUE")]
    {
        let e = args(&[(name, wrong)]).unwrap_err().to_string();
        assert!(e.contains(why) && e.contains(&format!("`{name}`")), "{e}");
    }
}

#[test]
fn a_validation_says_why_a_value_is_wrong() {
    let text = |value: &str| {
        format!(
            "variable \"V\" {{\n  default = \"{value}\"\n  validation {{\n    condition = V != \"bad\"\n    error_message = \"V is ${{V}}\"\n  }}\n}}\ntarget \"default\" {{}}\n"
        )
    };
    hcl(&text("good"));
    let e = fails(&text("bad"));
    assert!(e.contains("the variable `V` is not valid: V is bad") && e.contains("docker-bake.hcl:4"), "{e}");
}

#[test]
fn targets_inherit_and_are_merged_over_files() {
    let first = r#"
        target "base" {
          args = { A = "1", B = "1" }
          tags = ["base"]
          annotations = ["a=1"]
          cache-from = ["img"]
        }
        target "default" {
          inherits = ["base"]
          args = { B = "2" }
          annotations = ["b=1", "a=1"]
        }
    "#;
    let second = r#"target "default" { tags = ["over"] }"#;
    let plan = try_plan(&[("a.hcl", first), ("b.override.hcl", second)], &[], &[], &[]).unwrap();
    let target = &plan.targets["default"];
    assert_eq!((target.args["A"].as_str(), target.args["B"].as_str()), ("1", "2"));
    assert_eq!(target.tags.as_deref().unwrap(), ["over"]);
    assert_eq!(target.annotations.as_deref().unwrap(), ["a=1", "b=1"]);
    assert_eq!(target.cache_from.as_ref().unwrap()[0]["ref"], "img");
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["group"]["default"]["targets"][0], "default");
    assert_eq!(json["target"]["default"]["dockerfile"], "Dockerfile");
}

#[test]
fn a_matrix_makes_targets_and_a_group() {
    let plan = hcl(r#"
        target "default" {
          name = "app-${v.n}-${replace(ver, ".", "-")}"
          matrix = {
            v = [{ n = "a" }, { n = "b" }]
            ver = ["1.0", "2.0"]
          }
          args = { VER = ver }
          tags = ["${v.n}:${ver}"]
        }
    "#);
    assert_eq!(plan.targets.len(), 4);
    assert_eq!(plan.targets["app-b-2-0"].tags.as_deref().unwrap(), ["b:2.0"]);
    assert_eq!(plan.groups["default"].targets.len(), 4);
}

#[test]
fn a_matrix_may_make_a_target_with_its_own_label() {
    let plan = hcl("target \"default\" {\n  name = t\n  matrix = { t = [\"default\", \"b\"] }\n}\n");
    assert_eq!(plan.targets.keys().collect::<Vec<_>>(), ["b", "default"]);
}

#[test]
fn attributes_refer_to_those_of_other_targets() {
    let plan = hcl(r#"
        target "default" {
          tags = [for t in target.base.tags : "${t}-x"]
          args = { A = target.base.args.V, D = target.base.name }
        }
        target "base" {
          tags = ["t"]
          args = { V = "v" }
        }
    "#);
    let target = &plan.targets["default"];
    assert_eq!(target.tags.as_deref().unwrap(), ["t-x"]);
    assert_eq!((target.args["A"].as_str(), target.args["D"].as_str()), ("v", "base"));
}

#[test]
fn linked_targets_are_built_for_their_result_alone() {
    let plan = hcl(r#"
        target "default" { contexts = { b = "target:base" } }
        target "base" {
          network = "host"
          output = ["type=registry"]
        }
    "#);
    let base = &plan.targets["base"];
    assert!(base.linked);
    assert_eq!(base.output.as_ref().unwrap()[0]["type"], "cacheonly");
    assert_eq!(plan.targets["default"].entitlements.as_deref().unwrap(), ["network.host"]);
    let e = fails(
        "target \"default\" { contexts = { b = \"target:x\" } }\ntarget \"x\" { contexts = { b = \"target:default\" } }\n",
    );
    assert!(e.contains("need each other"), "{e}");
}

#[test]
fn changes_of_the_caller_reach_the_targets_that_match() {
    let text = r#"
        group "default" { targets = ["a", "b"] }
        target "a" {
          tags = ["t"]
          secret = ["id=s,src=x"]
        }
        target "b" { output = ["type=docker"] }
    "#;
    let set = |sets: &[&str]| try_plan(&[("f.hcl", text)], &[], sets, &[("FROM_ENV", "e")]);
    let plan = set(&[
        "*.args.X=1",
        "a.args.FROM_ENV",
        "a.tags+=u",
        "b.tags=v",
        "*.platform=linux/arm64",
        "a.secret.s=env=E",
        "*.no-cache=true",
        "*.push=true",
        "a.no-cache-filter=x",
        "b.shm-size=1m",
        "b.labels.k=v",
    ])
    .unwrap();
    let (a, b) = (&plan.targets["a"], &plan.targets["b"]);
    assert_eq!((a.args["X"].as_str(), a.args["FROM_ENV"].as_str()), ("1", "e"));
    assert_eq!(a.tags.as_deref().unwrap(), ["t", "u"]);
    assert_eq!((b.tags.as_deref().unwrap(), b.labels["k"].as_str()), (&["v".to_owned()][..], "v"));
    assert_eq!(a.secret.as_ref().unwrap()[0].env, "E");
    assert_eq!((a.no_cache, a.no_cache_filter.as_deref().unwrap()), (Some(true), &["x".to_owned()][..]));
    assert_eq!(a.output.as_ref().unwrap()[0]["push"], "true");
    assert_eq!(b.output.as_ref().unwrap().len(), 2, "a docker output stays, and one that pushes comes");
    for (wrong, why) in [
        ("x.tags=a", "no target matches `x`"),
        ("x.args.NOT_IN_THE_ENVIRONMENT", "no target matches `x`"),
        ("a", "expected TARGET.KEY=VALUE"),
        ("a.tags", "expected TARGET.KEY=VALUE"),
        ("a.args=x", "needs a name"),
        ("a.tag=x", "did you mean `tags`"),
        ("a.inherits=x", "cannot be set"),
        ("a.context+=x", "is no list"),
        ("a.no-cache=x", "expected true or false"),
        ("a.secret.z=env=E", "no such secret"),
        ("a.output=what=x,y=z", "has no `type`"),
    ] {
        let e = set(&[wrong]).unwrap_err().to_string();
        assert!(e.contains(why), "{wrong}: {e}");
    }
}

#[test]
fn names_are_patterns_and_groups() {
    let text = "group \"g\" { targets = [\"a\", \"h\"] }\ngroup \"h\" { targets = [\"b\", \"g\"] }\ntarget \"a\" {}\ntarget \"b\" {}\ntarget \"c\" {}\n";
    let names = |names: &[&str]| {
        try_plan(&[("f.hcl", text)], names, &[], &[]).map(|plan| plan.targets.into_keys().collect::<Vec<_>>())
    };
    assert_eq!(names(&["g"]).unwrap(), ["a", "b"]);
    assert_eq!(names(&["[bc]"]).unwrap(), ["b", "c"]);
    assert!(names(&["z*"]).unwrap_err().to_string().contains("no target matches"));
    assert!(names(&["aa"]).unwrap_err().to_string().contains("there is no target `aa`: did you mean `a`"));
}

#[test]
fn a_group_takes_precedence_over_a_matrix_of_its_name() {
    let matrix =
        "target \"default\" {\n  name = \"m-${n}\"\n  matrix = { n = [\"a\", \"b\"] }\n}\ntarget \"x\" {}\n";
    let group = "group \"default\" { targets = [\"x\"] }\n";
    let default = |files: &[(&str, &str)]| {
        let plan = try_plan(files, &[], &[], &[]).unwrap();
        (plan.groups["default"].targets.clone(), plan.targets.into_keys().collect::<Vec<_>>())
    };
    let only_x = (vec!["x".to_owned()], vec!["x".to_owned()]);
    assert_eq!(default(&[("a.hcl", matrix)]).0, ["m-a", "m-b"]);
    assert_eq!(default(&[("a.hcl", matrix), ("b.hcl", group)]), only_x);
    assert_eq!(default(&[("b.hcl", group), ("a.hcl", matrix)]), only_x);
    let compose = "services:\n  x:\n    build: .\n";
    assert_eq!(default(&[("compose.yaml", compose), ("a.hcl", matrix)]), only_x);
}

#[test]
fn secrets_of_caches_are_not_shown() {
    let wrong = ["secret_access_key=hun\"ter2", "secret_access_key=a,hunter2", "Session_Token=a,b=hunter2"];
    for (index, field) in wrong.iter().enumerate() {
        let cache =
            if index == 2 { format!("bucket=b,{field}") } else { format!("type=s3,bucket=b,{field}") };
        let value = serde_json::to_string(&cache).unwrap();
        let text = fails(&format!("target \"default\" {{\n  cache-to = [{value}]\n}}\n"));
        assert!(text.starts_with("docker-bake.hcl:2: "), "{text}");
        let sets = ["default", "x"].map(|name| {
            let set = format!("{name}.cache-to={cache}");
            let target = [("docker-bake.hcl", "target \"default\" {}\n")];
            try_plan(&target, &[], &[&set], &[]).unwrap_err().to_string()
        });
        assert!(sets[1].contains("the change of `x.cache-to`: no target matches"), "{sets:?}");
        for text in [&text].into_iter().chain(&sets) {
            assert!(!text.contains("hun") && !text.contains("ter2"), "{text}");
        }
    }
}

#[test]
fn a_plan_shows_no_secret_of_a_cache() {
    let shown = |url: &str| {
        let cache = format!("type=s3,secret_access_key=hunter2,endpoint_url={url}");
        let plan = hcl(&format!("target \"default\" {{\n  cache-to = [\"{cache}\"]\n}}\n"));
        serde_json::to_string(&plan.targets["default"]).unwrap()
    };
    assert!(shown("https://h:9000").contains("https://h:9000") && !shown("https://h").contains("hunter2"));
    assert!(!shown("https://me:ter2@h").contains("ter2"), "{}", shown("https://me:ter2@h"));
}

#[test]
fn errors_say_where() {
    for (text, why, place) in [
        ("target \"default\" {\n  tags = [nope]\n}\n", "there is no variable `nope`", ":2:11"),
        ("target \"default\" {\n  tags = [\n}\n", "invalid expression", ":3:"),
        ("target \"default\" {\n  tags = \"x\"\n}\n", "`tags`: expected a list", ":2:10"),
        ("target \"default\" {\n  args = { A = uper(\"x\") }\n}\n", "did you mean `upper`", ":2:16"),
        ("target \"a.b\" {}\n", "is no name", ":1:"),
        (
            "variable \"A\" { default = B }\nvariable \"B\" { default = A }\ntarget \"default\" {}\n",
            "needs itself",
            ":",
        ),
        (
            "function \"f\" {\n  params = [x]\n  result = f(x)\n}\ntarget \"default\" { args = { A = f(1) } }\n",
            "needs itself",
            ":3:",
        ),
        ("target \"default\" { tags = target.default.tags }\n", "needs itself", ":1:"),
        ("target \"default\" { matrix = 1 }\n", "not a map", ":1:"),
        ("target \"default\" { args = { A = bcrypt(\"x\") } }\n", "not supported", ":1:"),
        ("target \"default\" { args = { A = \"x${null}\" } }\n", "in a text", ":1:"),
        ("target \"default\" {\n  context = \"-\"\n}\n", "cannot be standard input", ""),
        ("variable \"A\" {\n  type = strin\n}\n", "not a type", ":2:10"),
    ] {
        let e = fails(text);
        assert!(e.contains(why) && e.contains(place), "{text}: {e}");
    }
}

#[test]
fn json_is_the_same_language() {
    let text = r#"{
        "variable": { "TAG": { "default": "1" } },
        "function": { "inc": { "params": ["n"], "result": "${n + 1}" } },
        "group": { "default": { "targets": ["app"] } },
        "target": {
            "app": { "//": "a comment", "args": { "A": "${inc(TAG)}", "B": "$${x}" }, "tags": ["app:${TAG}"], "pull": true }
        }
    }"#;
    let plan = try_plan(&[("docker-bake.json", text)], &[], &[], &[("TAG", "7")]).unwrap();
    let target = &plan.targets["app"];
    assert_eq!((target.args["A"].as_str(), target.args["B"].as_str()), ("8", "${x}"));
    assert_eq!((target.tags.as_deref().unwrap(), target.pull), (&["app:7".to_owned()][..], Some(true)));
    assert_eq!(serde_json::to_value(&plan).unwrap()["target"]["app"]["args"]["B"], "$${x}");
    for (wrong, place) in
        [("{", ":1:2"), ("{\"target\": [1]}", ":1:"), ("{\"a\": \"\\x\"}", ":1:7"), ("{} x", ":1:4")]
    {
        let e = try_plan(&[("f.json", wrong)], &[], &[], &[]).unwrap_err().to_string();
        assert!(e.contains(place), "{wrong}: {e}");
    }
}

#[test]
fn services_of_compose_files_are_targets() {
    let text = r#"
x-common: &common
  context: ./app/
  args:
    - FROM_ENV
    - GIVEN=${GIVEN:-default}
services:
  web.api:
    image: example.com/web
    build:
      <<: *common
      target: final
      additional_contexts:
        base: service:db
      secrets: [token]
      ulimits: { nofile: 100 }
      shm_size: 128m
      x-bake:
        platforms: linux/amd64 linux/arm64
        cache-to: type=registry,ref=c
  db:
    build: db
  cache:
    image: redis
secrets:
  token:
    environment: TOKEN
"#;
    let plan = try_plan(&[("compose.yaml", text)], &[], &[], &[("FROM_ENV", "e")]).unwrap();
    assert_eq!(plan.groups["default"].targets, ["db", "web_api"]);
    let web = &plan.targets["web_api"];
    assert_eq!((web.context.as_deref(), web.target.as_deref()), (Some("app"), Some("final")));
    assert_eq!((web.args["FROM_ENV"].as_str(), web.args["GIVEN"].as_str()), ("e", "default"));
    assert_eq!((web.contexts["base"].as_str(), web.shm_size.as_deref()), ("target:db", Some("128MiB")));
    assert_eq!(web.tags.as_deref().unwrap(), ["example.com/web"]);
    assert_eq!(web.platforms.as_deref().unwrap(), ["linux/amd64", "linux/arm64"]);
    assert_eq!(web.secret.as_ref().unwrap()[0].env, "TOKEN");
    assert_eq!(web.ulimits.as_deref().unwrap(), ["nofile=100:100"]);
    for (wrong, why) in [
        ("services: 1\n", "`services` is not a map"),
        ("services:\n  a:\n    build: [1]\n", "`build` of the service `a`"),
        ("services:\n  a:\n    build: ${X:?needed}\n", "needed"),
        ("include: [x]\nservices: {}\n", "`include` is not supported"),
        ("services:\n  a: { extends: a, build: . }\n", "extends itself"),
        ("services: {a: {build: {secrets: [x]}}}\nsecrets: {x: {external: true}}\n", "external"),
        ("a: b: c\n", "cannot be used"),
    ] {
        let e = try_plan(&[("compose.yaml", wrong)], &[], &[], &[]).unwrap_err().to_string();
        assert!(e.contains(why), "{wrong}: {e}");
    }
}

#[test]
fn hostile_definitions_end_with_an_error() {
    let doubling: String = (1..60)
        .map(|i| format!("variable \"V{i}\" {{ default = \"${{V{}}}${{V{}}}\" }}\n", i - 1, i - 1))
        .collect();
    let chain: String =
        (1..5000).map(|i| format!("variable \"V{}\" {{ default = V{i} }}\n", i - 1)).collect();
    let calls: String = (1..60)
        .map(|i| format!("function \"f{i}\" {{\n params = [x]\n result = f{}(f{}(x))\n}}\n", i - 1, i - 1))
        .collect();
    let base = "function \"f0\" {\n params = [x]\n result = x\n}\n";
    let rows = "[for i in range(1000) : \"${i}\"]";
    for text in [
        format!("variable \"V0\" {{ default = \"xx\" }}\n{doubling}target \"default\" {{}}\n"),
        format!("{chain}target \"default\" {{}}\n"),
        format!("{base}{calls}target \"default\" {{ args = {{ A = f59(1) }} }}\n"),
        format!(
            "target \"default\" {{\n name = \"a${{a}}${{b}}\"\n matrix = {{ a = {rows}, b = {rows} }}\n}}\n"
        ),
        format!("target \"default\" {{ args = {{ A = {}1{} }} }}\n", "[".repeat(5000), "]".repeat(5000)),
        format!("target \"default\" {{ args = {{ A = {} }} }}\n", "-".repeat(5000) + "1"),
        format!("target \"default\" {{ args = {{ A = setproduct({rows}, {rows}, {rows}) }} }}\n"),
        "target \"default\" { args = { A = indent(1000000000, \"\\n\\n\") } }\n".to_owned(),
        "target \"default\" { args = { A = format(\"%1000000000d\", 1) } }\n".to_owned(),
        format!(
            "target \"default\" {{ inherits = [\"t1\"] }}\n{}",
            (1..300)
                .map(|i| format!("target \"t{i}\" {{ inherits = [\"t{}\"] }}\n", i + 1))
                .collect::<String>()
        ),
    ] {
        let e = fails(&text);
        assert!(e.len() < 100_000, "{} bytes", e.len());
    }
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(try_plan(&[("f.json", &deep)], &[], &[], &[]).is_err());
    let large = "#".repeat(MAX_FILE + 1);
    assert!(
        try_plan(&[("f.hcl", &large)], &[], &[], &[]).unwrap_err().to_string().contains("more than 1 MiB")
    );
}
