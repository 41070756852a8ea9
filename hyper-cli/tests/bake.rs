//! `bake`: definitions of several builds are printed, listed and built.

use crate::support::{Place, base, busybox, skip, succeed, told};
use serde_json::Value;
use std::process::Command;

const DEFINITIONS: &str = r#"
variable "TAG" {
  default = "1"
  description = "the version"
}

group "default" {
  targets = ["app", "docs"]
}

target "_common" {
  context = "context"
  labels = { version = TAG }
}

target "base" {
  inherits = ["_common"]
  dockerfile-inline = "FROM scratch\nCOPY f /base\n"
}

target "app" {
  inherits = ["_common"]
  dockerfile-inline = "FROM start\nCOPY f /app\n"
  contexts = { start = "target:base" }
  tags = ["example.com/app:${TAG}"]
  description = "the program"
}

target "docs" {
  inherits = ["_common"]
  dockerfile = "docs.Dockerfile"
  output = ["type=local,dest=out"]
}
"#;

fn place() -> Place {
    let place = Place::new();
    place.write("docker-bake.hcl", DEFINITIONS);
    place.write("context/f", "content\n");
    place.write("context/docs.Dockerfile", "FROM scratch\nCOPY f /docs\n");
    place
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What a command says that is refused with a status.
fn refused(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", told(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_plan_is_printed_and_nothing_is_touched() {
    let place = place();
    place.write("docker-bake.override.json", r#"{"target": {"docs": {"args": {"A": "${TAG}"}}}}"#);
    let plan = json(&succeed(place.hyper(&["bake", "--print", "--set", "docs.args.B=b"]).env("TAG", "7")));
    assert_eq!(plan["group"]["default"]["targets"], serde_json::json!(["app", "docs"]));
    assert_eq!(plan["target"]["app"]["tags"][0], "example.com/app:7");
    assert_eq!(plan["target"]["docs"]["args"], serde_json::json!({"A": "7", "B": "b"}));
    assert_eq!(plan["target"]["base"]["output"][0]["type"], "cacheonly");
    let other = place.ok(&["bake", "--print", "-f", "docker-bake.hcl", "--var", "TAG=9", "--push", "ap*"]);
    let app = &json(&other)["target"]["app"];
    assert_eq!((&app["tags"][0], &app["output"][0]["push"]), (&"example.com/app:9".into(), &"true".into()));
    let mut command = place.hyper(&["bake", "--print", "docs"]);
    let plan =
        json(&succeed(command.env("BUILDX_BAKE_FILE", "docker-bake.hcl").env("SOURCE_DATE_EPOCH", "5")));
    assert_eq!(plan["target"]["docs"]["args"], serde_json::json!({"SOURCE_DATE_EPOCH": "5"}));
    assert!(!place.join("state").exists(), "the state folder was made");
    for wrong in ["network", "fs.read", "fs.read=", "ssh=default"] {
        let text = refused(&mut place.hyper(&["bake", "--print", "--allow", wrong]), 2);
        assert!(text.contains(&format!("--allow `{wrong}`: expected security.insecure")), "{text}");
    }
}

#[test]
fn targets_and_variables_are_listed() {
    let place = place();
    let targets = place.ok(&["bake", "--list=targets"]);
    assert!(targets.contains("app") && targets.contains("the program"), "{targets}");
    assert!(targets.contains("app, docs") && !targets.contains("_common"), "{targets}");
    let variables = json(&place.ok(&["bake", "--list=type=variables,format=json"]));
    assert_eq!(variables, serde_json::json!([{"name": "TAG", "description": "the version", "value": "1"}]));
    let e = refused(&mut place.hyper(&["bake", "--list=x"]), 2);
    assert!(e.contains("expected targets or variables"), "{e}");
}

#[test]
fn all_targets_are_built_and_one_is_the_base_of_another() {
    let place = place();
    let printed = place.ok(&["bake", "--progress=plain", "--metadata-file=meta.json"]);
    assert!(printed.starts_with("app sha256:"), "{printed}");
    assert_eq!(std::fs::read_to_string(place.join("out/docs")).unwrap(), "content\n");
    let metadata = json(&std::fs::read_to_string(place.join("meta.json")).unwrap());
    let digest = metadata["app"]["containerimage.digest"].as_str().unwrap();
    assert!(printed.contains(digest) && metadata["docs"].is_object(), "{metadata}");
    let image = json(&place.ok(&["inspect", "example.com/app:1", "--format=json"]));
    assert_eq!(image["manifest"]["layers"].as_array().map(Vec::len), Some(2), "{image}");
    let images = place.ok(&["images"]);
    assert!(!images.contains("base"), "what only another target needs is kept: {images}");
    // Nothing is left of the results that were passed on.
    let scratch = std::fs::read_dir(place.join("state/scratch")).unwrap();
    let left =
        scratch.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("jobs-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn the_step_that_targets_share_runs_once() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    place.write(
        "context/Dockerfile",
        "FROM base AS shared\nRUN echo shared > /s\nFROM shared AS a\nRUN echo a > /a\nFROM shared AS b\nRUN echo b > /b\n",
    );
    let text = format!(
        "group \"default\" {{\n  targets = [\"a\", \"b\", \"c\"]\n}}\ntarget \"a\" {{\n  name = t\n  matrix = {{ t = [\"a\", \"b\"] }}\n  target = t\n  context = \"context\"\n  contexts = {{ base = \"oci-layout://{0}\" }}\n}}\ntarget \"c\" {{\n  context = \"context\"\n  dockerfile-inline = \"FROM base\\nRUN echo c > /c\\n\"\n  contexts = {{ base = \"oci-layout://{0}\" }}\n}}\n",
        base().display()
    );
    place.write("docker-bake.hcl", &text);
    let output = place.hyper(&["bake", "--progress=json", "--allow=fs.read=*"]).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let events: Vec<Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let started = |text: &str| {
        let named = |event: &&Value| {
            event["event"] == "started" && event["name"].as_str().is_some_and(|name| name.contains(text))
        };
        events.iter().filter(named).map(|event| event["task"].clone()).collect::<Vec<_>>()
    };
    let ended = |task: &Value| {
        let end = events.iter().find(|event| event["event"] == "finished" && event["task"] == *task);
        end.map(|event| event["outcome"].clone())
    };
    let shared: Vec<_> = started("echo shared").iter().map(ended).collect();
    assert_eq!(shared.iter().filter(|outcome| **outcome == Some("done".into())).count(), 1, "{shared:?}");
    assert_eq!(started("echo c").len(), 1);
    assert!(stderr.contains("[a ") && stderr.contains("[b ") && stderr.contains("[c "), "{stderr}");
}

#[test]
fn what_is_not_supported_is_an_error_of_the_build_alone() {
    let place = place();
    for (attribute, flag) in [
        ("policy = [\"filename=p.rego\"]", "--policy"),
        ("attest = [\"type=sbom\"]", "--attest"),
        ("call = \"check\"", "--call"),
        ("network = \"bridge\"", "--network"),
    ] {
        let text = format!(
            "target \"default\" {{\n  context = \"context\"\n  dockerfile-inline = \"FROM scratch\\n\"\n  {attribute}\n}}\n"
        );
        place.write("x.hcl", &text);
        place.ok(&["bake", "--print", "-f", "x.hcl"]);
        let output = place.hyper(&["bake", "-f", "x.hcl"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(flag), "{attribute}: {stderr}");
    }
    for (arguments, why) in [
        (&["https://example.com/r.git"][..], "are not supported yet"),
        (&["--call=check"], "--call is not supported"),
        (&["--builder=x"], "--builder is not supported"),
    ] {
        let output = place.hyper(&[&["bake"], arguments].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(why), "{arguments:?}: {stderr}");
    }
}

/// A check that reads another text than the builder would let these through.
#[test]
fn no_spelling_of_a_file_outside_avoids_the_permission() {
    let place = place();
    place.write("secret", "outside");
    place.write("inside/context/f", "content\n");
    std::fs::create_dir_all(place.join("inside/a:")).unwrap();
    let outside = |name: &str| place.join(name).display().to_string();
    let (secret, folder) = (outside("secret"), outside("elsewhere"));
    let mut leaks = Vec::new();
    for (attribute, wanted) in [
        (format!("cache-to = [{{ type = \"local\", DEST = \"{folder}\" }}]"), "fs.write"),
        (format!("cache-to = [{{ type = \"local\", \"dest \" = \"{folder}\" }}]"), "fs.write"),
        (format!("cache-to = [\"type=local, dest={folder}\"]"), "fs.write"),
        (format!("cache-from = [{{ type = \"local\", Src = \"{}\" }}]", outside("context")), "fs.read"),
        (
            format!(
                "cache-to = [{{ type = \"registry\", ref = \"r/a\", \"type \" = \"local\", dest = \"{folder}\" }}]"
            ),
            "`type` is given twice",
        ),
        (format!("output = [{{ type = \"local\", DEST = \"{folder}\" }}]"), "fs.write"),
        (format!("output = [{{ type = \"oci\", \" dest\" = \"{folder}\" }}]"), "fs.write"),
        (format!("secret = [{{ id = \"{secret}\" }}]"), "fs.read"),
        (format!("secret = [\"id={secret}\"]"), "fs.read"),
        (format!("secret = [{{ id = \"s\", src = \"{secret}\" }}]"), "fs.read"),
        (format!("ssh = [{{ id = \"default={secret}\" }}]"), "fs.read"),
        (format!("ssh = [{{ id = \"default\", paths = [\"{secret}\"] }}]"), "fs.read"),
        ("ssh = [\"default\"]".to_owned(), "permission: ssh"),
        ("ssh = [\"other=\"]".to_owned(), "permission: ssh"),
        ("ssh = [{ id = \"default\" }]".to_owned(), "permission: ssh"),
        ("ssh = [{ id = \"a\", paths = [\"\"] }]".to_owned(), "permission: ssh"),
        ("contexts = { other = \"a://../../context\" }".to_owned(), "fs.read"),
        (format!("contexts = {{ other = \"oci-layout://{}\" }}", outside("context")), "fs.read"),
        ("context = \"a://../../context\"".to_owned(), "fs.read"),
        (format!("dockerfile = \"{secret}\""), "fs.read"),
    ] {
        let (mut context, mut inline) =
            ("context = \"context\"", "dockerfile-inline = \"FROM scratch\\nCOPY f /\\n\"");
        match attribute.split_once(' ').unwrap().0 {
            "context" => context = "",
            "dockerfile" => inline = "",
            _ => {}
        }
        place.write(
            "inside/docker-bake.hcl",
            &format!("target \"default\" {{\n  {context}\n  {inline}\n  {attribute}\n}}\n"),
        );
        let mut bake = place.hyper(&["bake"]);
        let output = bake.current_dir(place.join("inside")).output().unwrap();
        if output.status.success() || !told(&output).contains(wanted) {
            leaks.push(format!("{attribute}: {}", told(&output)));
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    assert!(!place.join("elsewhere").exists());
}

#[test]
fn files_outside_and_privileges_need_a_permission() {
    let place = place();
    place.write("inside/docker-bake.hcl", &DEFINITIONS.replace("\"context\"", "\"../context\""));
    let bake = |arguments: &[&str]| {
        let mut command = place.hyper(&[&["bake"], arguments].concat());
        command.current_dir(place.join("inside"));
        command
    };
    let e = refused(&mut bake(&["docs"]), 1);
    assert!(e.contains("fs.read=../context") && e.contains("--allow"), "{e}");
    let e = refused(&mut bake(&["docs", "--allow=fs.read=..", "--set=docs.output=type=local,dest=x"]), 0);
    assert!(!e.contains("permission"), "{e}");
    std::os::unix::fs::symlink(place.join("elsewhere"), place.join("inside/out")).unwrap();
    std::fs::create_dir(place.join("elsewhere")).unwrap();
    let e = refused(&mut bake(&["docs", "--allow=fs.read=.."]), 1);
    assert!(e.contains("fs.write=out"), "a link leads out: {e}");
    let text = "target \"default\" {\n  context = \"context\"\n  dockerfile-inline = \"FROM scratch\\nCOPY f /\\n\"\n  network = \"host\"\n}\n";
    place.write("host.hcl", text);
    let e = refused(&mut place.hyper(&["bake", "-f", "host.hcl"]), 1);
    assert!(e.contains("needs a permission: network.host"), "{e}");
    place.ok(&["bake", "-f", "host.hcl", "--allow=network.host"]);
    place.write("agent.hcl", &text.replace("network = \"host\"", "ssh = [\"default\"]"));
    // Nobody answers at the socket, which no step asks for.
    for permission in ["--allow=ssh", "--set=*.ssh=default"] {
        let mut bake = place.hyper(&["bake", "-f", "agent.hcl", permission]);
        let output = bake.env("SSH_AUTH_SOCK", place.join("agent")).output().unwrap();
        assert!(!told(&output).contains("permission"), "{permission}: {}", told(&output));
    }
    let e = refused(&mut place.hyper(&["bake", "-f", "host.hcl", "--allow=what"]), 2);
    assert!(e.contains("expected security.insecure"), "{e}");
}

#[test]
fn a_wrong_definition_is_shown_with_its_place() {
    let place = place();
    place.write("docker-bake.hcl", "target \"default\" {\n  tags = [nope]\n}\n");
    let e = refused(&mut place.hyper(&["bake"]), 1);
    assert!(e.contains("docker-bake.hcl:2:11") && e.contains("^^^^"), "{e}");
    std::fs::remove_file(place.join("docker-bake.hcl")).unwrap();
    let e = refused(&mut place.hyper(&["bake"]), 1);
    assert!(e.contains("there is no docker-bake.hcl") && e.contains("--file"), "{e}");
    let e = refused(&mut place.hyper(&["bake", "-f", "none.hcl"]), 1);
    assert!(e.contains("none.hcl"), "{e}");
    place.write("compose.yaml", "services:\n  web:\n    build:\n      context: context\n      dockerfile: docs.Dockerfile\n    image: web:${TAG}\n");
    place.write(".env", "TAG=from-file\n");
    let plan = json(&place.ok(&["bake", "--print"]));
    assert_eq!(plan["target"]["web"]["tags"][0], "web:from-file");
    let digest = place.ok(&["bake", "-q"]);
    assert!(digest.starts_with("web sha256:"), "{digest}");
}
