//! Images and files: every output is written, equal builds give equal images, and cached steps do not run again.

use super::kit::{EPOCH, Place, blob, build, cached, digest, json, needs, tar_files, watched};
use crate::build::{EpochPolicy, NamedContext, OutputKind, SharedBuilder};
use crate::progress::Event;
use crate::reference::Reference;
use futures::future::join_all;
use std::os::unix::fs::PermissionsExt as _;

const COPY: &str = "FROM scratch\nCOPY f /f\n";

pub async fn an_image_has_a_digest_and_its_names(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let mut request = place.request(COPY);
    request.tags = ["suite/app:1", "r.example/suite:2"].map(|name| Reference::parse(name).unwrap()).to_vec();
    let output = build(&builder, request).await;
    let image = output.image.as_ref().unwrap();
    assert!(image.size > 0 && image.media_type.contains("manifest"), "{image:?}");
    assert_ne!(output.config.as_ref().unwrap(), &image.digest);
    assert_eq!(output.tags, ["docker.io/suite/app:1", "r.example/suite:2"]);
    assert_eq!(cached(&output, "COPY f /f"), [false]);
}

pub async fn files_have_the_paths_and_modes_of_the_text(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let text = "FROM scratch\nCOPY f /a/b\nCOPY --chmod=755 f /tool\nWORKDIR /made\nCOPY <<E note\nsaid\nE\n";
    build(&builder, place.files(text)).await;
    assert_eq!(place.out("a/b").as_deref(), Some("content"));
    assert_eq!(place.out("made/note").as_deref(), Some("said\n"));
    let mode = std::fs::metadata(place.path("out/tool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let mut names: Vec<_> =
        std::fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "made", "tool"]);
}

pub async fn a_tar_has_the_files(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let mut request = place.request(COPY);
    request.outputs = vec![place.tar().into()];
    build(&builder, request).await;
    let (files, newest) = tar_files(&place.path("out.tar"));
    assert_eq!(files, [("f".to_owned(), "content".to_owned())].into());
    assert!(newest <= EPOCH, "{newest}");
}

pub async fn a_layout_has_the_image(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let mut request = place.request(COPY);
    request.outputs = vec![place.layout().into()];
    let output = build(&builder, request).await;
    let layout = place.path("layout");
    let index = json(&std::fs::read(layout.join("index.json")).unwrap());
    assert_eq!(index["manifests"][0]["digest"], digest(&output).as_str());
    let manifest = json(&blob(&layout, digest(&output).as_str()));
    assert_eq!(manifest["config"]["digest"], output.config.as_ref().unwrap().as_str());
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let layer = blob(&layout, layers[0]["digest"].as_str().unwrap());
    assert_eq!(layers[0]["size"], layer.len());
}

pub async fn every_output_is_written(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let mut request = place.files(COPY);
    request.outputs.push(place.tar().into());
    request.outputs.push(place.layout().into());
    build(&builder, request).await;
    assert_eq!(place.out("f").as_deref(), Some("content"));
    assert_eq!(tar_files(&place.path("out.tar")).0.len(), 1);
    assert!(place.path("layout/index.json").exists());
}

pub async fn files_alone_have_no_digest(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "content")]);
    let mut request = place.files(COPY);
    request.outputs.extend([place.tar().into(), OutputKind::CacheOnly.into()]);
    let (result, events) = watched(&builder, request.clone()).await;
    let output = result.unwrap();
    assert_eq!((output.image, output.config, output.tags), (None, None, Vec::new()));
    assert!(!events.iter().any(|event| matches!(event, Event::Result { .. })), "{events:?}");
    // With an image among the outputs there is a digest.
    request.outputs.push(place.layout().into());
    assert!(build(&builder, request).await.image.is_some());
}

pub async fn an_ignored_file_is_not_copied(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x"), ("sub/key.pem", "x"), (".dockerignore", "**/*.pem\n")]);
    build(&builder, place.files("FROM scratch\nCOPY . /all\n")).await;
    assert!(place.out("all/f").is_some() && place.out("all/sub/key.pem").is_none());
}

pub async fn a_named_context_is_read(builder: SharedBuilder) {
    needs!(builder, results);
    let (place, other) = (Place::new(&[]), Place::new(&[("g", "other")]));
    let mut request = place.files("FROM scratch\nCOPY --from=other g /g\n");
    request.named_contexts.insert("other".to_owned(), NamedContext::Folder(other.path("context")));
    build(&builder, request).await;
    assert_eq!(place.out("g").as_deref(), Some("other"));
}

pub async fn a_build_argument_reaches_the_text(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let mut request = place.files("FROM scratch\nARG WHERE=usual\nCOPY f /$WHERE/f\n");
    build(&builder, request.clone()).await;
    assert!(place.out("usual/f").is_some());
    request.build_args.insert("WHERE".to_owned(), "given".to_owned());
    build(&builder, request).await;
    assert!(place.out("given/f").is_some());
}

pub async fn a_target_is_built_and_no_other_stage(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let text = "FROM scratch AS one\nCOPY f /one\nFROM scratch AS two\nCOPY missing /two\n";
    let mut request = place.files(text);
    request.target = Some("one".to_owned());
    let output = build(&builder, request).await;
    assert!(place.out("one").is_some() && place.out("two").is_none());
    assert_eq!(cached(&output, "missing"), [false; 0]);
}

pub async fn labels_are_in_the_config(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let mut request = place.request("FROM scratch\nLABEL own=text\nCOPY f /f\n");
    request.labels.insert("given".to_owned(), "request".to_owned());
    request.outputs = vec![place.layout().into()];
    let output = build(&builder, request).await;
    let config = json(&blob(&place.path("layout"), output.config.unwrap().as_str()));
    let labels = &config["config"]["Labels"];
    assert_eq!((labels["own"].as_str(), labels["given"].as_str()), (Some("text"), Some("request")));
}

pub async fn the_epoch_of_the_request_is_used(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let mut request = place.request(COPY);
    request.outputs = vec![place.tar().into()];
    request.epoch = EpochPolicy::At(EPOCH - 5);
    assert_eq!(build(&builder, request).await.epoch, EPOCH - 5);
    assert!(tar_files(&place.path("out.tar")).1 <= EPOCH - 5);
}

pub async fn equal_requests_give_equal_images(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x"), ("sub/g", "y")]);
    let text = "FROM scratch\nCOPY . /all\nWORKDIR /w\n";
    let first = build(&builder, place.request(text)).await;
    let mut again = place.request(text);
    again.no_cache = true;
    let again = build(&builder, again).await;
    assert_eq!((digest(&first), &first.config), (digest(&again), &again.config));
}

pub async fn a_second_build_is_cached(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let first = build(&builder, place.request(COPY)).await;
    let second = build(&builder, place.files(COPY)).await;
    assert_eq!((cached(&first, "COPY"), cached(&second, "COPY")), (vec![false], vec![true]));
    assert!(place.out("f").is_some(), "the output is written nevertheless");
}

pub async fn steps_run_again_without_the_cache(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let text = "FROM scratch AS one\nCOPY f /f\nFROM one AS two\nCOPY f /g\n";
    build(&builder, place.request(text)).await;
    let mut request = place.request(text);
    request.no_cache_filter = vec!["two".to_owned()];
    let filtered = build(&builder, request.clone()).await;
    assert_eq!((cached(&filtered, "COPY f /f"), cached(&filtered, "COPY f /g")), (vec![true], vec![false]));
    request.no_cache = true;
    assert_eq!(cached(&build(&builder, request).await, "COPY"), [false, false]);
}

pub async fn changed_content_is_seen(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "old")]);
    let first = build(&builder, place.request(COPY)).await;
    place.write("f", "new");
    let mut request = place.request(COPY);
    request.outputs.push(OutputKind::Local(place.path("out")).into());
    let second = build(&builder, request).await;
    assert_ne!(digest(&first), digest(&second));
    assert_eq!((place.out("f").as_deref(), cached(&second, "COPY")), (Some("new"), vec![false]));
    place.write("f", "old");
    assert_eq!(digest(&build(&builder, place.request(COPY)).await), digest(&first));
}

pub async fn concurrent_builds_do_not_mix(builder: SharedBuilder) {
    needs!(builder, results);
    let places: Vec<Place> = (0..5).map(|i| Place::new(&[("f", &format!("content {i}"))])).collect();
    join_all(places.iter().map(|place| build(&builder, place.files(COPY)))).await;
    for (i, place) in places.iter().enumerate() {
        assert_eq!(place.out("f"), Some(format!("content {i}")));
    }
}

pub async fn equal_concurrent_builds_give_one_image(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let outputs = join_all((0..4).map(|_| build(&builder, place.request(COPY)))).await;
    assert!(outputs.iter().all(|output| digest(output) == digest(&outputs[0])));
}
