//! Names of images, and what is said when there is none of a name.

use crate::serve::Serving;
use crate::support::{Place, Registry, told};

/// A place with two images: of `context` and of `other`.
fn place() -> Place {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /one\n");
    place.write("other/Dockerfile", "FROM scratch\nCOPY Dockerfile /two\n");
    place
}

fn refused(place: &Place, arguments: &[&str]) -> String {
    let output = place.hyper(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_missing_image_of_the_store_is_named_with_the_nearest_names() {
    let place = place();
    place.ok(&["build", "-q", "-t", "app:1", "-t", "localhost:5/team/tool:2", "context"]);
    for arguments in [
        &["tag", "app:9", "b"][..],
        &["rm", "app:9"],
        &["inspect", "app:9"],
        &["inspect", "--raw", "app:9"],
        &["inspect", "--platform=linux/amd64", "app:9"],
        &["push", "app:9", "--to", "localhost:5/app:9"],
    ] {
        let told = refused(&place, arguments);
        let wanted = "the local store has no image `app:9`: did you mean `app:1`?";
        assert!(told.contains(wanted), "{arguments:?}: {told}");
        assert!(told.contains("hint: `hyperbuild images`"), "{arguments:?}: {told}");
    }
    assert!(refused(&place, &["rm", "tool:2"]).contains("did you mean `localhost:5/team/tool:2`?"));
    let told = refused(&place, &["inspect", "elephant"]);
    assert!(told.contains("no image `elephant:latest`") && !told.contains("did you mean"), "{told}");
}

#[test]
fn a_missing_platform_is_told_with_those_that_are_there() {
    let place = place();
    place.ok(&[
        "build",
        "-q",
        "-t",
        "app:1",
        "--build-arg=BUILDKIT_MULTI_PLATFORM=1",
        "--platform=linux/s390x",
        "context",
    ]);
    let told = refused(&place, &["inspect", "--platform=linux/riscv64", "app:1"]);
    assert!(told.contains("linux/s390x") && told.contains("hint: choose one of these platforms"), "{told}");
}

#[test]
fn a_missing_image_of_a_registry_has_a_hint_about_the_name() {
    let (place, registry) = (place(), Registry::start());
    let told = refused(&place, &["pull", &format!("{}/no/such:1", registry.host)]);
    assert!(told.contains("has no such image: check name and tag"), "{told}");
    assert!(!told.contains("platform"), "{told}");
    let told = refused(&place, &["pull", "no-such-host.invalid/app"]);
    assert!(told.contains("look names up") && !told.contains("plain"), "{told}");
}

/// The three names of one image: with the host, and without it in the store and on a server of it.
#[test]
fn an_image_that_was_pushed_without_a_host_has_one_name() {
    let (place, elsewhere) = (place(), place());
    let server = Serving::start(&place, &[]);
    let there = format!("{}/foo:1", server.host());
    let pushed = elsewhere.ok(&["build", "-q", "-t", &there, "--push", "context"]);
    let rows = |place: &Place| {
        let listed = place.ok(&["images", "--digests"]);
        listed.lines().skip(1).map(|l| l.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&place), ["foo:1"]);
    assert_eq!(place.ok(&["inspect", "--format=json", "foo:1"]).matches(&pushed).count(), 1);
    // A build takes it without the network.
    place.write("child/Dockerfile", "FROM foo:1\nCOPY Dockerfile /child\n");
    place.ok(&["build", "-q", "-o", "files", "child"]);
    assert!(place.join("files/one").exists() && place.join("files/child").exists());
    // An image of the full name hides it, and both can be named.
    place.ok(&["build", "-q", "-t", "foo:1", "other"]);
    let by_digest = format!("foo@{pushed}");
    assert_eq!(rows(&place), ["foo:1".to_owned(), by_digest.clone()]);
    place.ok(&["build", "-q", "-o", "hidden", "child"]);
    assert!(place.join("hidden/two").exists() && !place.join("hidden/one").exists());
    place.ok(&["inspect", &by_digest]);
    place.ok(&["rm", &by_digest]);
    assert_eq!(rows(&place), ["foo:1"]);
}

#[test]
fn the_same_image_is_listed_once() {
    let place = place();
    let server = Serving::start(&place, &[]);
    place.ok(&["build", "-q", "-t", "foo:1", "context"]);
    place.ok(&["push", "foo:1", "--to", &format!("{}/foo:1", server.host())]);
    assert_eq!(place.ok(&["images"]).matches("foo").count(), 1);
    place.ok(&["rm", "foo:1"]);
    assert_eq!(place.ok(&["images"]).matches("foo:1").count(), 1);
}

#[test]
fn usage_shows_what_is_required_alone() {
    let place = place();
    let output = place.hyper(&["pull"]).env("DOCKER_CONFIG", place.join("home")).output().unwrap();
    let said = told(&output);
    assert!(said.contains("Usage: hyperbuild pull <IMAGE>"), "{said}");
    let output = place.hyper(&["build", "context"]).env("BUILDKIT_PROGRESS", "elephant").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("BUILDKIT_PROGRESS=`elephant`"), "{}", told(&output));
}

#[test]
fn without_a_home_folder_the_options_that_help_are_named() {
    let place = place();
    for (arguments, option) in [
        (&["images"][..], "--root"),
        (&["login", "-u", "me", "--password-stdin", "localhost:1", "--root=state"], "--config"),
        (&["logout", "localhost:1", "--root=state"], "--config"),
    ] {
        // Root has a state folder of the system.
        if arguments == ["images"] && crate::support::is_root() {
            continue;
        }
        let output = place.hyper(arguments).env_remove("HOME").env_remove("HYPER_ROOT").output().unwrap();
        let told = told(&output);
        assert!(told.contains("there is no home folder") && told.contains(option), "{told}");
    }
}
