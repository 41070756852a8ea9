//! What is known of this machine's sandbox is kept in the state folder: a cached build starts no helper, and a machine that
//! has changed is noticed before anything runs.

use crate::rootless::ordinary_user;
use crate::support::{Place, Who, busybox, is_root, skip, told};

const STEPS: &str = "FROM base\nRUN echo one > /one\nRUN echo two > /two\n";

/// What is kept, changed so that no helper says the same.
fn make_untrue(place: &Place) -> String {
    let file = place.join("state/sandbox.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let untrue = text.replacen("\"identity_reasons\":[]", "\"identity_reasons\":[\"not so\"]", 1);
    assert_ne!(text, untrue, "the file has no such part");
    std::fs::write(&file, &untrue).unwrap();
    untrue
}

fn kept(place: &Place) -> Option<String> {
    std::fs::read_to_string(place.join("state/sandbox.json")).ok()
}

/// Root and an ordinary user, where there can be both.
fn everybody() -> Vec<Who> {
    let mut all = vec![Who::Me];
    match ordinary_user() {
        Ok(user) if is_root() => all.push(user),
        Ok(_) => {}
        Err(why) => println!("SKIPPED: {why}"),
    }
    all
}

#[test]
fn a_cached_build_starts_no_helper_and_a_changed_machine_is_found_out_anew() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    for who in everybody() {
        let place = Place::of(who);
        let first = place.built(STEPS, &[]);
        let truth = kept(&place).expect("what was found out is kept");
        let untrue = make_untrue(&place);

        for limits in [&[][..], &["--ulimit=core=0", "--shm-size=1m"]] {
            let cached = place.built(STEPS, limits);
            assert_eq!(cached.digest, first.digest);
            assert_eq!(kept(&place).as_deref(), Some(untrue.as_str()), "a helper was started: {limits:?}");
        }

        let more = place.built(&format!("{STEPS}RUN cat /one /two\n"), &[]);
        assert_eq!(more.log(), "one\ntwo\n", "the step ran once");
        assert_eq!(kept(&place).as_deref(), Some(truth.as_str()), "it was found out anew");

        for command in ["du", "prune"] {
            make_untrue(&place);
            place.ok(&[command]);
            assert_eq!(kept(&place).as_deref(), Some(truth.as_str()), "`{command}` found it out anew");
        }

        make_untrue(&place);
        assert!(place.ok(&["info"]).contains("namespaces"));
        assert_eq!(kept(&place).as_deref(), Some(truth.as_str()), "`info` looks anew");
    }
}

#[test]
fn a_changed_machine_ends_a_build_that_cannot_start_again() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    place.built(STEPS, &[]);
    make_untrue(&place);
    let dockerfile = format!("{STEPS}RUN echo three > /three\n");
    let streamed = || place.build(&dockerfile, &["-o", "type=tar,dest=-"]).output().unwrap();
    let refused = streamed();
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{}", told(&refused));
    assert!(told(&refused).contains("what this machine lets a sandbox do has changed: build again"));
    assert_eq!(kept(&place), None);
    let again = streamed();
    assert!(again.status.success(), "{}", told(&again));
    assert!(again.stdout.windows(5).any(|text| text == b"three"));
}

#[test]
fn a_machine_that_offers_less_is_looked_at_every_time() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, to be somebody else, and a static busybox");
    }
    let place = Place::of(Who::Id(45_679));
    for _ in 0..2 {
        place.built(STEPS, &[]);
        assert_eq!(kept(&place), None);
    }
}
