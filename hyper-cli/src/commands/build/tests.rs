//! From arguments to requests.

use super::*;
use clap::Parser;
use hyper_sdk::build::Output;
use hyper_sdk::exec::Network;
use hyper_sdk::media_type::Compression;
use std::ffi::OsString;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    args: BuildArgs,
}

fn parse(arguments: &[&str]) -> Result<BuildRequest, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let context = folder.path().to_str().unwrap();
    let only =
        Only::try_parse_from([&["build"], arguments, &[context]].concat()).map_err(|e| e.to_string())?;
    let message = |failure| match failure {
        Failure::Usage(message) => message,
        Failure::Work { error, .. } => error.to_string(),
        other => format!("{other:?}"),
    };
    only.args.unsupported.check().map_err(message)?;
    let session = Session::builder(folder.path().join("state")).open().unwrap();
    check_destinations(&only.args, &session, None).map_err(message)?;
    let variable = |name: &str| (name == "FROM_ENV").then(|| OsString::from("value"));
    request(&only.args, &session, None, variable).map(|(request, _)| request).map_err(message)
}

#[test]
fn without_flags_the_image_goes_into_the_store() {
    let request = parse(&[]).unwrap();
    assert_eq!(request.outputs, [Output::store()]);
    assert_eq!(request.dockerfile.as_deref(), Some("FROM scratch\n"));
    assert_eq!(request.network, Network::Host);
}

#[test]
fn flags_reach_the_request() {
    let request = parse(&[
        "-t",
        "a:1",
        "-t",
        "localhost:5000/b",
        "--build-arg",
        "A=1",
        "--build-arg",
        "FROM_ENV",
        "--label",
        "k=v",
        "--target",
        "t",
        "--platform",
        "linux/arm64",
        "--no-cache",
        "--network",
        "none",
        "--add-host",
        "h:1.2.3.4",
        "--allow",
        "security.insecure",
        "--allow=device=vendor.example/gpu=1",
        "--cdi-config-dir=/cdi",
        "--source-date-epoch",
        "5",
        "--build-context",
        "Base=docker-image://x",
        "-o",
        "type=oci,dest=a.tar,compression=zstd,compression-level=3",
        "--no-cache-filter",
        "a,b",
        "--pull=true",
        "--push=false",
    ])
    .unwrap();
    assert_eq!(request.tags.len(), 2);
    assert_eq!(request.build_args["FROM_ENV"], "value");
    assert_eq!(request.labels["k"], "v");
    assert_eq!(request.target.as_deref(), Some("t"));
    assert_eq!(request.platforms[0].to_string(), "linux/arm64");
    assert!(request.no_cache && request.pull && request.allow_insecure);
    assert!(request.allow_devices.names.contains_key("vendor.example/gpu=1"));
    assert_eq!(request.device_folders, [PathBuf::from("/cdi")]);
    assert_eq!(request.no_cache_filter, ["a", "b"]);
    assert_eq!(request.network, Network::None);
    assert!(request.named_contexts.contains_key("base"));
    assert_eq!((&request.outputs[0].image.compression, request.outputs.len()), (&Compression::Zstd, 1));
}

#[test]
fn the_help_names_every_form_of_a_context_and_every_field_of_an_output() {
    use clap::CommandFactory;
    let command = Only::command();
    let help = |id: &str| {
        let argument = command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
        argument.get_long_help().or(argument.get_help()).unwrap().to_string()
    };
    for (id, words) in [
        ("context", &["folder", "git", "archive", "`-`", "Dockerfile"][..]),
        ("build_contexts", &["folder", "git", "archive", "docker-image://", "oci-layout://", "target:STAGE"]),
    ] {
        let help = help(id);
        words.iter().for_each(|word| assert!(help.contains(word), "{id}: {word}: {help}"));
    }
    let help = help("outputs");
    let refusal = Output::parse("type=image,what=x").unwrap_err().to_string();
    let (_, fields) = refusal.split_once("known are type, ").unwrap();
    let (fields, _) = fields.split_once(" and ").unwrap();
    let types = "image registry oci docker tar local cacheonly".split(' ').map(str::to_owned);
    for word in types.chain(fields.split(", ").map(|field| format!("{field}="))) {
        assert!(help.contains(&word), "{word}: {help}");
    }
}

#[test]
fn push_and_load_are_outputs() {
    assert_eq!(parse(&["--push", "-t", "a"]).unwrap().outputs, [Output::push()]);
    assert_eq!(parse(&["--load", "-o", "out"]).unwrap().outputs.len(), 2);
}

#[test]
fn errors_name_the_wrong_or_unsupported_flag() {
    for (arguments, text) in [
        (&["--push"][..], "needs a name"),
        (&["--cache-from", "type=gha"], "--cache-from: type=gha is not supported yet"),
        (&["--ssh", "default"], "SSH_AUTH_SOCK"),
        (&["--ssh", "a=/nowhere/at/all"], "/nowhere/at/all"),
        (&["--sbom=true"], "--sbom is not supported yet"),
        (&["--platform", "linux/amd64,foo"], "`foo` is not a platform"),
        (&["--platform=linux/amd64", "--platform=linux/arm64", "-o=type=docker,dest=a"], "use type=oci"),
        (&["--allow", "device=a,as=b"], "`as=b`"),
        (&["--allow", "devices"], "--allow `devices`: expected security.insecure"),
        (&["-o", "-", "-o", "type=oci,dest=-"], "only one output"),
        (&["-o", "-", "-o", "type=docker"], "only one output"),
        (&["-o", "type=docker,dest=a", "--annotation", "index:a=b"], "an index are not for type=docker"),
        (&["-t", "a", "--annotation", "manifest[plan9/386]:a=b"], "for a platform that is not built"),
        (&["-o", "type=oci,oci-mediatypes=false", "--annotation", "a=b"], "annotations"),
        (&["-o", "type=oci,source-date-epoch=5", "--source-date-epoch", "now"], "source-date-epoch"),
        (&["--build-context", "x"], "expected NAME=CONTEXT"),
        (&["--build-context", "x=ftp://a/b"], "`ftp://`"),
        (&["--network", "bridge"], "bridge"),
        (&["--elephant"], "--elephant"),
        (&["-t", "UPPER"], "UPPER"),
    ] {
        let message = parse(arguments).err().unwrap_or_else(|| panic!("{arguments:?} passed"));
        assert!(message.contains(text), "{arguments:?}: {message}");
    }
}

#[test]
fn errors_name_a_context_that_is_not_a_folder() {
    for (context, text) in [
        ("ftp://x/y", "`ftp://`"),
        ("https://x/y.git?elephant=1", "elephant"),
        ("/nowhere/at/all", "no such build context"),
    ] {
        let only = Only::try_parse_from(["build", context]).unwrap();
        let session = Session::builder("/nowhere").open().unwrap();
        let failure = request(&only.args, &session, None, |_| None).unwrap_err();
        let Failure::Work { error, .. } = failure else { panic!("{failure:?}") };
        assert!(error.to_string().contains(text), "{error}");
    }
}
