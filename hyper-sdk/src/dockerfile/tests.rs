//! Tests of the whole parser.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn ok(text: &str) -> Dockerfile {
    parse(text, "Dockerfile").into_result().unwrap_or_else(|e| panic!("{e}")).0
}

fn codes(text: &str) -> Vec<&'static str> {
    parse(text, "Dockerfile").diagnostics.iter().map(|d| d.code).collect()
}

#[test]
fn all_errors_of_a_file_are_reported() {
    let text = "RUN early\nFORM a\nFROM b AS 1x\nCOPY --fron=x a b\nENV k\nWORKDIR\nRUN --mount=type=cach,target=/x y\n";
    assert_eq!(
        codes(text),
        [
            "no-stage",
            "unknown-instruction",
            "invalid-stage-name",
            "unknown-flag",
            "missing-value",
            "missing-argument",
            "invalid-mount"
        ]
    );
    let error = parse(text, "Dockerfile").error().unwrap();
    for part in ["did you mean `FROM`?", "did you mean `--from`?", "did you mean `cache`?", "Dockerfile:4:6"]
    {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

#[test]
fn tokens_have_their_places() {
    let text = "FROM a\nRUN --mount=type=bind,target=/x \\\n  # c\n  --network=none \\\n  make all\nENV k=v \\\n x=\"y z\"\n";
    let file = ok(text);
    let Instruction::Run(run) = &file.stages[0].statements[0].instruction else { panic!() };
    assert_eq!(file.source.slice(run.mounts[0].span), "type=bind,target=/x");
    assert_eq!(file.source.slice(run.network.span), "none");
    assert_eq!(file.source.slice(run.command.words[0].span), "make all");
    let Instruction::Env(env) = &file.stages[0].statements[1].instruction else { panic!() };
    assert_eq!(file.source.slice(env.pairs[1].key.span), "x");
    assert_eq!(file.source.slice(env.pairs[1].value.span), "\"y z\"");
}

#[test]
fn heredocs_belong_to_their_instructions() {
    let file = ok(
        "FROM a\nRUN <<E\n#!/bin/sh\nx\nE\nRUN <<-E cat\n\ty\n\tE\nCOPY <<A <<\"B\" d /x/\na $v\nA\nb\nB\nONBUILD COPY <<C /y\nc\nC\n",
    );
    let statements = &file.stages[0].statements;
    let Instruction::Run(run) = &statements[0].instruction else { panic!() };
    assert_eq!(
        run.command.run_command(),
        RunCommand::Script { name: "E".into(), content: "#!/bin/sh\nx\n".into() }
    );
    let Instruction::Run(run) = &statements[1].instruction else { panic!() };
    assert_eq!(run.command.run_command(), RunCommand::Shell("<<-E cat\n\ty\nE".into()));
    let Instruction::Copy(copy) = &statements[2].instruction else { panic!() };
    assert_eq!(copy.sources.len(), 1);
    assert!(copy.inline[0].expand && !copy.inline[1].expand);
    let env = BTreeMap::from([("v".to_owned(), "1".to_owned())]);
    let Instruction::Copy(copy) = statements[2].instruction.expand('\\', &env).unwrap().instruction else {
        panic!()
    };
    assert_eq!(copy.inline[0].content, "a 1\n");
    let Instruction::Onbuild(onbuild) = &statements[3].instruction else { panic!() };
    assert_eq!(onbuild.expression, "COPY <<C /y\nc\nC");
    let Instruction::Copy(copy) = parse_trigger(&onbuild.expression).unwrap().statement.instruction else {
        panic!()
    };
    assert_eq!(copy.inline[0].content, "c\n");
}

#[test]
fn a_trigger_is_one_allowed_instruction() {
    for good in ["COPY --from=x a b", "MAINTAINER me", "ONBUILD RUN x"] {
        assert!(parse_trigger(good).is_ok(), "{good}");
    }
    for bad in ["", "FROM a", "ONBUILD FROM b", "RUN a\nRUN b", "FOO", "COPY a"] {
        assert!(parse_trigger(bad).is_err(), "{bad}");
    }
    assert_eq!(
        codes("FROM a\nONBUILD FROM b\nONBUILD ONBUILD RUN x\nONBUILD COPY a\nONBUILD"),
        ["invalid-onbuild", "invalid-onbuild", "missing-argument", "missing-argument"]
    );
}

fn plan(text: &str, target: Option<&str>) -> std::result::Result<Plan, Vec<&'static str>> {
    let file = ok(text);
    let scope = file.global_scope(&BTreeMap::new(), &BTreeMap::new()).unwrap();
    let images: Vec<String> = file.bases(&scope).unwrap().into_iter().map(|b| b.image).collect();
    file.plan(file.target(target).unwrap(), &images, &BTreeMap::new())
        .map_err(|errors| errors.iter().map(|d| d.code).collect())
}

#[test]
fn only_stages_that_the_target_needs_are_planned() {
    let text = "ARG B=base\nFROM scratch AS base\nFROM x AS unused\nFROM $B AS mid\nONBUILD COPY --from=0 a b\n\
        FROM alpine\nCOPY --from=MID a b\nRUN --mount=from=2,target=/x --mount=from=base,target=/y z\n";
    let all = plan(text, None).unwrap();
    assert_eq!(all.order, [0, 2, 3]);
    assert_eq!(all.bases[2], StageRef::Stage(0));
    assert_eq!(all.bases[3], StageRef::Name("alpine".into()));
    assert_eq!(plan(text, Some("Base")).unwrap().order, [0]);
    assert_eq!(plan(text, Some("1")).unwrap().order, [1]);
    assert!(ok(text).target(Some("bse")).unwrap_err().message().contains("`base`"));
}

#[test]
fn uses_of_stages_below_are_errors() {
    assert_eq!(
        plan("FROM a AS x\nCOPY --from=y b c\nFROM a AS y\nFROM x\n", None),
        Err(vec!["forward-reference"])
    );
    assert_eq!(
        plan("FROM a AS x\nCOPY --from=y b c\nFROM a AS y\nCOPY --from=x b c\n", None),
        Err(vec!["cycle"])
    );
    assert_eq!(plan("FROM a AS x\nCOPY --from=x b c\n", None), Err(vec!["cycle"]));
    assert_eq!(plan("FROM a\nCOPY --from=7 b c\n", None), Err(vec!["invalid-stage"]));
    assert_eq!(plan("FROM a AS a\n", None).unwrap().bases, [StageRef::Name("a".into())]);
    // A stage that is not needed may use one below.
    assert!(plan("FROM a AS x\nCOPY --from=y b c\nFROM a AS y\n", None).is_ok());
}

#[test]
fn a_heredoc_in_json_form_is_an_empty_file() {
    let file = parse(
        "FROM a\nCOPY [\"x\", \"<<E\", \"<<E F\", \"/\"]\nADD [\"<<-'E'\", \"/\"]\nRUN [\"<<E\"]\n",
        "f",
    );
    assert!(!file.has_errors(), "{}", file.render());
    let statements = &file.dockerfile.stages[0].statements;
    let Instruction::Copy(copy) = &statements[0].instruction else { panic!() };
    let words: Vec<&str> = copy.sources.iter().map(|word| word.value.as_str()).collect();
    assert_eq!(words, ["x", "<<E F"]);
    assert_eq!((copy.inline[0].name.as_str(), copy.inline[0].content.as_str()), ("E", ""));
    let Instruction::Add(add) = &statements[1].instruction else { panic!() };
    assert_eq!((add.sources.len(), add.inline[0].name.as_str(), add.inline[0].expand), (0, "E", false));
    let Instruction::Run(run) = &statements[2].instruction else { panic!() };
    assert_eq!(run.command.run_command(), RunCommand::Exec(vec!["<<E".into()]));
}

#[test]
fn a_heredoc_is_found_after_unknown_expansions() {
    let file = ok("FROM x\nRUN echo ${V:1:2} ${W:3} <<EOF\nbody\nEOF\n");
    let Instruction::Run(run) = &file.stages[0].statements[0].instruction else { panic!() };
    assert_eq!(run.command.heredocs[0].content, "body\n");
    assert_eq!(run.command.text().lines().next(), Some("echo ${V:1:2} ${W:3} <<EOF"));
}

#[test]
fn an_instruction_sees_the_environment_before_it() {
    let file =
        ok("FROM x\nENV a=1 b=$a c=${q:-\"d e\"}\nEXPOSE $p 80\nCOPY --chown=$u --exclude=*$a $a /d$a\n");
    let env = BTreeMap::from(
        [("a", "0"), ("p", "1 2/udp"), ("u", "me")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let expand = |i: usize| file.stages[0].statements[i].instruction.expand('\\', &env).unwrap();
    let first = expand(0);
    let Instruction::Env(e) = first.instruction else { panic!() };
    assert_eq!(e.pairs.iter().map(|p| p.value.as_str()).collect::<Vec<_>>(), ["1", "0", "d e"]);
    assert!(first.variables.used.contains("a") && first.variables.undefined.contains("q"));
    let Instruction::Expose(e) = expand(1).instruction else { panic!() };
    assert_eq!(e.ports.iter().map(Word::as_str).collect::<Vec<_>>(), ["1", "2/udp", "80"]);
    let Instruction::Copy(c) = expand(2).instruction else { panic!() };
    assert_eq!(
        (c.chown.unwrap().as_str(), c.excludes[0].as_str(), c.destination.as_str()),
        ("me", "*$a", "/d0")
    );
}

#[test]
fn mounts_are_typed_after_expansion() {
    let file = ok(
        "FROM x\nRUN --mount=type=cache,target=/c$v,sharing=locked,mode=0700,uid=1 --mount=type=secret,id=s,env=T,required --mount=target=.,rw true\n",
    );
    let Instruction::Run(run) = &file.stages[0].statements[0].instruction else { panic!() };
    let env = BTreeMap::from([("v".to_owned(), "1".to_owned())]);
    let (mounts, variables) = run.mounts('\\', &env).unwrap();
    assert!(variables.used.contains("v"));
    assert_eq!(mounts[0].target.as_deref(), Some("/c1"));
    assert_eq!(
        (mounts[0].sharing, mounts[0].mode, mounts[0].uid),
        (Some(Sharing::Locked), Some(0o700), Some(1))
    );
    assert!(!mounts[0].read_only && mounts[1].required && !mounts[2].read_only);
    for bad in [
        "type=x",
        "target",
        "foo=1",
        "type=secret",
        "type=secret,id=a,source=b",
        "type=bind,mode=1",
        "required=true",
        "type=tmpfs,size=x",
        "sharing=shared",
        "uid=-1,type=ssh",
        "ro=maybe",
        "\"a",
        "",
    ] {
        assert!(Mount::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Mount::parse("size=1k,type=TMPFS,\"target=/a,b\"").unwrap().target.as_deref(), Some("/a,b"));
    assert!(Mount::parse("source=a,target=/b").unwrap().read_only);
}

#[test]
fn from_uses_the_global_scope() {
    let file = ok("ARG V=1\nARG I=img:$V P\nFROM --platform=$BUILDPLATFORM $I AS x\nFROM ${NONE}\n");
    let predefined = BTreeMap::from([("BUILDPLATFORM".to_owned(), "linux/amd64".to_owned())]);
    let scope = file.global_scope(&predefined, &BTreeMap::from([("V".to_owned(), "2".to_owned())])).unwrap();
    assert_eq!(scope.values["I"], "img:2");
    assert!(scope.declared.contains("P") && !scope.values.contains_key("P"));
    let errors = file.bases(&scope).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, "empty-image");
    assert_eq!(parse("FROM a", "f").dockerfile.bases(&scope).unwrap()[0].image, "a");
}

#[test]
fn health_checks_ports_and_descriptions_are_parsed() {
    let file = ok(
        "# app the thing\nFROM x AS app\nHEALTHCHECK --interval=1m30s --retries=3 CMD [\"a\"]\nHEALTHCHECK none\nEXPOSE 9 10\n",
    );
    let statements = &file.stages[0].statements;
    let Instruction::Healthcheck(h) = &statements[0].instruction else { panic!() };
    assert_eq!(h.test(), ["CMD", "a"]);
    let check = h.check.as_ref().unwrap();
    assert_eq!((check.interval.as_secs(), check.retries), (90, 3));
    let Instruction::Healthcheck(h) = &statements[1].instruction else { panic!() };
    assert_eq!(h.test(), ["NONE"]);
    let Instruction::Expose(e) = &statements[2].instruction else { panic!() };
    assert_eq!(e.ports[0].value, "10");
    assert_eq!(file.stages[0].statement.description("app"), Some("the thing"));
    assert_eq!(
        codes("FROM x\nHEALTHCHECK --interval=1 CMD x\nHEALTHCHECK CMDD x\nHEALTHCHECK --retries=-1 CMD x\n"),
        ["invalid-flag-value", "invalid-healthcheck", "invalid-flag-value"]
    );
}

#[test]
fn nesting_and_growth_are_limited() {
    let expander = Expander::new('\\');
    let deep = format!("{}x{}", "${a:-".repeat(100_000), "}".repeat(100_000));
    assert!(expander.word(&deep, &EmptyEnvironment).is_err());
    let env = BTreeMap::from([("a".to_owned(), "x".repeat(1 << 20))]);
    assert!(expander.word(&"$a".repeat(100), &env).is_err());
    assert!(parse(&format!("FROM a\n{}RUN x", "ONBUILD ".repeat(100_000)), "f").has_errors());
}

proptest! {
    #[test]
    fn the_parser_never_panics(text in "\\PC{0,200}") {
        parse(&text, "f").render();
    }

    #[test]
    fn the_parser_never_panics_on_instructions(
        lines in prop::collection::vec("(FROM|RUN|COPY|ADD|ENV|ARG|ONBUILD|HEALTHCHECK|EXPOSE|VOLUME|SHELL|LABEL)?( --(mount|from|chmod|x)(=[a-z,=$\"]{0,8})?)?[ \\\\\"'a-z<$={}\\[\\]#\t,-]{0,20}(\r)?", 0..12)
    ) {
        let text = lines.join("\n");
        let parsed = parse(&text, "f");
        parsed.render();
        for stage in &parsed.dockerfile.stages {
            for statement in &stage.statements {
                let span = statement.name.span;
                prop_assert_eq!(parsed.dockerfile.source.slice(span), statement.name.as_str());
                let _ = statement.instruction.expand('\\', &EmptyEnvironment);
                statement.display();
            }
        }
    }

    #[test]
    fn expansion_never_panics(word in "[\\\\$\\{\\}:+?#%/*'\"a-c<~-]{0,40}") {
        let env = BTreeMap::from([("a".to_owned(), "x y".to_owned()), ("b".to_owned(), String::new())]);
        for expander in [Expander::new('\\'), Expander::new('`'), Expander::for_heredoc(), Expander::new('\\').keep_quotes().keep_escapes().keep_undefined()] {
            let _ = expander.word(&word, &env);
            let _ = expander.words(&word, &env);
        }
    }
}
