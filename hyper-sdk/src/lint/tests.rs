//! Tests of every rule with its examples, and of all rules together.

use super::*;
use crate::dockerfile::{IgnoreSet, parse};
use crate::platform::Platform;
use proptest::prelude::*;

fn context(rule: &Rule) -> LintContext {
    let mut context = LintContext {
        ignore: rule.ignore_file.map(|t| IgnoreSet::parse(t).unwrap()),
        ..LintContext::default()
    };
    context.users.insert(0, String::new());
    context.platforms.insert(0, "linux/amd64".parse::<Platform>().unwrap());
    context.platform = Some("linux/amd64".parse().unwrap());
    context.predefined =
        ["TARGETPLATFORM", "BUILDPLATFORM"].map(|n| (n.to_owned(), "linux/amd64".to_owned())).into();
    context
}

fn found(text: &str, context: &LintContext) -> Vec<Finding> {
    let parsed = parse(text, "Dockerfile");
    assert!(!parsed.has_errors(), "{}", parsed.render());
    let options = CheckOptions { experimental: RuleSet::All, ..CheckOptions::default() };
    lint(&parsed.dockerfile, context, Some(&options))
}

fn names(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.rule.name).collect()
}

#[test]
fn every_bad_example_breaks_its_rule_alone() {
    for rule in RULES {
        // The constant of the example of the platform of an image is what it is about.
        let own = |f: &Finding| {
            rule.name != "InvalidBaseImagePlatform" || f.rule.name != "FromPlatformFlagConstDisallowed"
        };
        let bad: Vec<Finding> = found(rule.bad, &context(rule)).into_iter().filter(own).collect();
        assert_eq!(names(&bad), [rule.name], "{}", rule.bad);
        let good: Vec<Finding> = found(rule.good, &context(rule)).into_iter().filter(own).collect();
        assert_eq!(names(&good), [""; 0], "{}", rule.good);
        assert_eq!(bad.iter().all(|f| f.edits.is_empty()), !rule.fixable, "{}", rule.name);
        if rule.fixable {
            let fixed = apply_edits(rule.bad, bad.iter().flat_map(|f| &f.edits));
            assert_eq!(fixed, rule.good, "{}", rule.name);
        }
        for text in [rule.summary, rule.why, rule.bad, rule.good] {
            assert!(!text.is_empty(), "{} lacks a text", rule.name);
        }
    }
}

#[test]
fn names_are_unique_and_found_in_any_case() {
    let all: std::collections::BTreeSet<&str> = RULES.iter().map(|r| r.name).collect();
    assert_eq!(all.len(), RULES.len());
    assert_eq!(rule("stagenamecasing").unwrap().name, "StageNameCasing");
    assert!(rule("x").is_none());
}

#[test]
fn rules_are_selected_by_name() {
    let text = "from a as B\nUSER root\nRUN sudo x\n";
    let with = |directive: &str| {
        let text = format!("# check={directive}\n{text}");
        let parsed = parse(&text, "Dockerfile");
        names(&lint(&parsed.dockerfile, &LintContext::default(), None))
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(with("error=true"), ["ConsistentInstructionCasing", "StageNameCasing", "ShellSudoUsed"]);
    assert_eq!(with("skip=StageNameCasing,shellsudoused"), ["ConsistentInstructionCasing"]);
    assert!(with("skip=all").is_empty());
    let options = CheckOptions::parse("skip=StageNamesCasing;experimental=nothing").unwrap();
    let unknown = unknown_rules(&options, Span::new(0, 0));
    assert_eq!(unknown.len(), 2);
    assert_eq!(unknown[0].help, ["did you mean `StageNameCasing`?"]);
}

#[test]
fn a_comment_selects_rules_for_its_instruction_alone() {
    let text = "# about\n# check=skip=ConsistentInstructionCasing the old tool wants it\nFROM a\n\
                # check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n\
                # Check = skip=all\nRUN cd \\\n /x\nRUN cd /y\n";
    let findings = found(text, &LintContext::default());
    assert_eq!(names(&findings), ["MaintainerDeprecated", "ShellCdWithoutEffect"]);
    assert_eq!(findings[0].span.start, text.find("MAINTAINER y").unwrap());
    assert_eq!(findings[1].span.start, text.find("cd /y").unwrap());

    let text = "FROM a\n# check=experimental=InvalidDefinitionDescription\n# other\nFROM a AS b\n# other\nFROM a AS c\n";
    let parsed = parse(text, "Dockerfile");
    assert_eq!(
        names(&lint(&parsed.dockerfile, &LintContext::default(), None)),
        ["InvalidDefinitionDescription"]
    );

    let parsed = parse("FROM a\n# check=skip=Nothing\nRUN x\n# check=skipp=A\nRUN y\n", "Dockerfile");
    let warnings = comment_warnings(&parsed.dockerfile);
    assert_eq!(warnings.iter().map(|d| d.code).collect::<Vec<_>>(), ["unknown-rule", "invalid-check"]);
}

#[test]
fn unknown_context_gives_no_findings() {
    // The base may set NAME; the platform of the image may be right.
    assert!(found("FROM image\nCOPY $NAME /\n", &LintContext::default()).is_empty());
    let mut context = LintContext::default();
    context.environments.insert(0, vec!["NAME=x".into()]);
    assert!(found("FROM image\nCOPY $NAME $PATH /\n", &context).is_empty());
    assert_eq!(names(&found("FROM image\nCOPY $OTHER /\n", &context)), ["UndefinedVar"]);
    // Declared without a value, with a default on the spot, and from the stage below.
    let text = "FROM image AS a\nARG X\nENV Y=1\nCOPY $X ${Z:-z} /\nFROM a\nCOPY $Y $X /\n";
    assert!(found(text, &context).is_empty(), "{:?}", names(&found(text, &context)));
}

#[test]
fn shell_rules_have_exceptions() {
    for text in [
        "FROM debian\nRUN cd /x && make\n",
        "FROM debian\nRUN (cd /x; make); cd / && ls\n",
        "FROM debian\nRUN apt-get -o A=b install -yq x && apt-get -qq install y; apt-get install $FLAGS z\n",
        "FROM debian\nRUN yes | apt-get install x\n",
        "FROM debian\nRUN apt-get update\nRUN apt-get update && apt-get install -y x\n",
        "FROM debian\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\nRUN apt-get install -y x\n",
        "FROM debian\nRUN curl -f x | sh || true\nRUN set -o pipefail; curl -f x | sh\nRUN wget -O- x | tar x\n",
        "FROM debian\nRUN set -o pipefail; curl -s https://x | jq .\nRUN curl -I https://x -o y\nRUN curl --fail -o y https://x\n",
        "FROM debian\nUSER me\nRUN sudo x\n",
        "FROM of-somebody\nRUN sudo x\n",
        "FROM debian\nUSER root\nRUN sudo -u me x && sudo -Hu me y && sudo --user=me z\n",
        "FROM debian\nRUN git log | head -n 1; tar -c . | tar -x -C /x; gpg --fingerprint | cat\n",
        "FROM debian\nRUN apt-get update && ./install-dependencies\nRUN apt-get install -y x\n",
        "FROM debian\nRUN apt-get update\nRUN apt-get purge -y x\n",
        "FROM debian\nRUN if curl -s x | grep -q y; then z; fi; ! curl x | grep y; curl --version | head -n 1\n",
        "FROM debian\nRUN curl -sSL https://x | tee y | sha256sum -c z || true\nRUN curl -o /dev/null https://x\n",
        "FROM debian\nRUN curl -o a https://x && echo 00 a | sha256sum -c -\nRUN curl -V > a; curl file:///x -o y\n",
        "FROM debian\nRUN ulimit -a\nRUN umask\nRUN export -p > /env\nRUN alias\n",
        "FROM debian\nRUN apt-get install -q=2 x; apt-get install --just-print y\n",
        "FROM debian\nRUN apt-get update && xargs -a list apt-get install -y\nRUN apt-get install -y /tmp/x.deb\n",
        "FROM debian\nRUN apt-get update\nRUN apt-get update && apt-get install -y x && rm -rf /var/lib/apt/lists/*\n\
         RUN rm -rf /var/lib/apt/lists/*\n",
        "FROM windows\nSHELL [\"powershell\"]\nRUN cd x\n",
        "FROM debian\nRUN [\"sudo\", \"x\"]\n",
        "FROM debian\nRUN <<EOF\n#!/usr/bin/env python3\ncd = 1\nEOF\n",
        "FROM debian\nRUN echo 'sudo x' # sudo y\n",
        "FROM debian\nRUN case $x in sudo|curl) ls ;; esac\n",
    ] {
        let findings: Vec<Finding> = found(text, &LintContext::default())
            .into_iter()
            .filter(|f| !f.rule.name.contains("Casing"))
            .collect();
        assert!(findings.is_empty(), "{text}{:?}", names(&findings));
    }
    let text = "FROM debian\nRUN <<EOF\nset -e\napt-get install x\nEOF\n";
    let findings = found(text, &LintContext::default());
    assert_eq!(names(&findings), ["AptInstallWithoutYes"]);
    assert_eq!(&text[findings[0].span.start..findings[0].span.end], "apt-get install x");
    let text = "FROM debian\nUSER 0:0\nRUN echo sudo && \\\n    sudo \\\n    make\n";
    let findings = found(text, &LintContext::default());
    assert_eq!(findings[0].span.start, text.rfind("sudo").unwrap());
}

#[test]
fn shell_rules_find_hidden_failures() {
    for (line, rule) in [
        ("curl -f x | sh || exit 1", "ShellPipeHidesFailure"),
        ("curl -f x | gpg --dearmor | tee y", "ShellPipeHidesFailure"),
        ("curl -s \"$URL/x\" -o y", "CurlWithoutFail"),
        ("curl --fail-early -o x https://x", "CurlWithoutFail"),
        ("wget -qO- x | sh", "ShellPipeHidesFailure"),
        ("make && cd ..", "ShellCdWithoutEffect"),
        ("ulimit -n 4096", "ShellExportWithoutEffect"),
        ("umask 022", "ShellExportWithoutEffect"),
    ] {
        assert_eq!(
            names(&found(&format!("FROM debian\nRUN {line}\n"), &LintContext::default())),
            [rule],
            "{line}"
        );
    }
}

#[test]
fn every_form_of_a_redundant_platform_is_found() {
    let context = context(rule("RedundantTargetPlatform").unwrap());
    let text = "FROM --platform=${TARGETPLATFORM:-linux/386} a\n";
    assert_eq!(names(&found(text, &context)), ["RedundantTargetPlatform"]);
    assert!(
        found("ARG P\nFROM --platform=${P:-$TARGETPLATFORM} a\nFROM --platform=$BUILDPLATFORM a\n", &context)
            .len()
            < 2
    );
}

#[test]
fn arguments_of_one_line_see_each_other() {
    let text = "FROM scratch\nARG A=1 B=$A C=$D D\nENV X=$B$D\n";
    let findings = found(text, &LintContext::default());
    assert_eq!(names(&findings), ["UndefinedVar"]);
    assert_eq!(&text[findings[0].span.start..findings[0].span.end], "$D");
    let context =
        LintContext { build_args: [("C".to_owned(), "c".to_owned())].into(), ..LintContext::default() };
    assert!(found(text, &context).is_empty(), "the default is not used");
}

#[test]
fn bodies_of_heredocs_are_checked() {
    let text = "FROM scratch\nCOPY <<E <<'F' /\n$N\nE\n$N\nF\n";
    let findings = found(text, &LintContext::default());
    assert_eq!(names(&findings), ["UndefinedVar"]);
    assert_eq!(findings[0].span.start, text.find("$N").unwrap());
}

#[test]
fn arguments_above_the_first_from_are_not_in_the_image() {
    assert!(found("arg TOKEN\nFROM a\n", &LintContext::default()).is_empty());
    assert!(found("FROM a:$TARGETSTAGE\n", &LintContext::default()).is_empty());
}

#[test]
fn the_first_workdir_and_the_shell_before_count() {
    let found =
        |text: &str| found(text, &LintContext::default()).iter().map(|f| f.span.start).collect::<Vec<_>>();
    let text = "FROM a\nWORKDIR b\nWORKDIR c\n";
    assert_eq!(found(text), [text.find('b').unwrap()]);
    let text = "FROM a\nCMD x\nSHELL [\"y\"]\nENTRYPOINT z\n";
    assert_eq!(found(text), [text.find("CMD").unwrap()]);
}

#[test]
fn triggers_are_checked_in_their_own_file() {
    let text = "FROM scratch\nONBUILD ENV A b\nONBUILD EXPOSE 80/TCP\nONBUILD CMD foo\nONBUILD CMD bar\n\
                ONBUILD WORKDIR x\nONBUILD COPY $NOPE /\nONBUILD RUN apt-get install x\nCMD [\"x\"]\n";
    let expected = [
        "LegacyKeyValueFormat",
        "ExposeProtoCasing",
        "JSONArgsRecommended",
        "JSONArgsRecommended",
        "AptInstallWithoutYes",
    ];
    assert_eq!(names(&found(text, &LintContext::default())), expected);
}

#[test]
fn a_path_on_a_drive_is_absolute() {
    assert!(found("FROM a\nWORKDIR C:\\\\x\nWORKDIR y\n", &LintContext::default()).is_empty());
}

#[test]
fn quoted_legacy_values_are_fixed() {
    for (line, fixed) in [
        ("LABEL maintainer \"A 'x' <b@c>\"", Some("LABEL maintainer=\"A 'x' <b@c>\"")),
        ("ENV PATH \"${A}/bin:$PATH\"", Some("ENV PATH=\"${A}/bin:$PATH\"")),
        ("ENV A \"b\" c", None),
        ("ENV A \"b\\\"c\"", None),
    ] {
        let text = format!("FROM scratch\nENV A=x\n{line}\n");
        let findings = found(&text, &LintContext::default());
        let after = apply_edits(&text, findings.iter().flat_map(|f| &f.edits));
        assert_eq!(after.lines().nth(2), Some(fixed.unwrap_or(line)), "{line}");
    }
}

#[test]
fn the_shell_of_the_base_image_counts() {
    let text = "FROM base\nRUN curl -f x | sh\nCMD start\n";
    assert_eq!(
        names(&found(text, &LintContext::default())),
        ["ShellPipeHidesFailure", "JSONArgsRecommended"]
    );
    let mut context = LintContext::default();
    context.shells.insert(0, ["/bin/bash", "-o", "pipefail", "-c"].map(str::to_owned).to_vec());
    assert!(found(text, &context).is_empty());
    let mut context = LintContext::default();
    context.platforms.insert(0, "windows/amd64".parse().unwrap());
    context.platform = context.platforms.get(&0).cloned();
    assert_eq!(names(&found(text, &context)), ["JSONArgsRecommended"]);
}

#[test]
fn removed_lists_are_reported_once() {
    let text = "FROM debian\nRUN apt-get update && apt-get install -y x\n".to_owned()
        + &"RUN rm -rf /var/lib/apt/lists/*\n".repeat(3);
    assert_eq!(names(&found(&text, &LintContext::default())), ["AptListsRemovedTooLate"]);
}

#[test]
fn fingerprints_and_secrets_are_distinguished() {
    let digits = "0123456789abcdef0123456789abcdef01234567";
    for (name, secret) in [
        ("GPG_KEY", false),
        ("RELEASE_KEY", false),
        ("API_TOKEN", true),
        ("GITHUB_TOKEN", true),
        ("API_KEY", true),
        ("SECRET_KEY", true),
        ("PASSWORD", true),
        ("TOKEN_FILE", false),
        ("SECRET_VERSION", false),
    ] {
        let text = format!("FROM debian\nENV {name}={digits}\n");
        assert_eq!(found(&text, &LintContext::default()).len(), usize::from(secret), "{name}");
    }
    assert_eq!(found("FROM debian\nENV GPG_KEY=swordfish\n", &LintContext::default()).len(), 1);
}

#[test]
fn sarif_has_rules_places_and_fixes() {
    let source = Source::new("a b/Dockerfile", "FROM x as y\n");
    let parsed = parse(source.text(), source.name());
    let log = to_sarif(&lint(&parsed.dockerfile, &LintContext::default(), None), &[], &source);
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), RULES.len());
    let result = &run["results"][0];
    assert_eq!(result["ruleId"], "FromAsCasing");
    assert_eq!(
        run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize]["id"],
        "FromAsCasing"
    );
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "a%20b/Dockerfile");
    assert_eq!((&place["region"]["startColumn"], &place["region"]["endColumn"]), (&8.into(), &10.into()));
    let fix = &result["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!(fix["insertedContent"]["text"], "AS");
}

/// The instructions as they are understood, without their places and the case of their names.
fn meaning(text: &str) -> Vec<String> {
    let parsed = parse(text, "Dockerfile");
    let mut all = Vec::new();
    for stage in &parsed.dockerfile.stages {
        all.push(format!("{:?} {}", stage.name(), stage.from.image.value));
        for statement in &stage.statements {
            let instruction = match &statement.instruction {
                crate::dockerfile::Instruction::Env(env) => {
                    let pairs: Vec<String> = env
                        .pairs
                        .iter()
                        .map(|p| format!("{}={}", p.key.value, p.value.value.trim_matches('"')))
                        .collect();
                    format!("ENV {pairs:?}")
                }
                crate::dockerfile::Instruction::Expose(expose) => {
                    let words = expose.ports.iter().map(|p| p.value.as_str());
                    format!("EXPOSE {:?}", crate::dockerfile::ports::parse(words).map(|p| p.exposed).ok())
                }
                crate::dockerfile::Instruction::Run(run) => format!("RUN {}", run.command.text()),
                other => format!("{:?}", other.keyword()),
            };
            all.push(instruction);
        }
    }
    all
}

proptest! {
    #[test]
    fn fixes_converge_and_keep_the_meaning(lines in proptest::collection::vec(
        prop_oneof![
            Just("from a as B"), Just("FROM a AS b"), Just("FROM --platform=$TARGETPLATFORM  a"), Just("env A b c"),
            Just("ENV A \"b\" c"), Just("ENV A \"b c\""), Just("EXPOSE 80/TCP 1:2"), Just("expose 80/Udp"), Just("RUN a && \\\n\n  b"),
            Just("Run x"), Just("LABEL k v"), Just("# comment"), Just(""), Just("ENV A=b"), Just("label x=y"),
        ],
        1..14,
    )) {
        let mut text = format!("FROM base\n{}\n", lines.join("\n"));
        let before = meaning(&text);
        for round in 0.. {
            let parsed = parse(&text, "Dockerfile");
            let findings = lint(&parsed.dockerfile, &LintContext::default(), None);
            let edits: Vec<&Edit> = findings.iter().flat_map(|f| &f.edits).collect();
            if edits.is_empty() {
                break;
            }
            prop_assert!(round < 5, "fixing does not come to an end: {text}");
            text = apply_edits(&text, edits);
        }
        prop_assert_eq!(meaning(&text), before);
    }

    #[test]
    fn every_file_can_be_linted(text in "(FROM|RUN|ENV|ARG|COPY|EXPOSE)[ -~\n]{0,80}\n(RUN|CMD|LABEL)[ -~\n]{0,60}") {
        let parsed = parse(&text, "Dockerfile");
        for finding in lint(&parsed.dockerfile, &LintContext::default(), None) {
            prop_assert!(text.get(finding.span.start..finding.span.end).is_some());
            finding.diagnostic().render(&parsed.dockerfile.source);
        }
    }
}

#[test]
fn a_mode_without_execute_bit_is_found_when_it_may_create_a_folder() {
    let messages = |text: &str| {
        let all = found(text, &LintContext::default()).into_iter();
        all.filter(|f| f.rule.name == "ChmodClosesNewFolder").map(|f| f.message).collect::<Vec<_>>()
    };
    for (text, folder) in [
        ("FROM scratch\nCOPY --chmod=0644 f /missing/f", "/missing"),
        ("FROM scratch\nADD --chmod=600 f /a/b/", "/a/b"),
        ("FROM alpine\nCOPY --chmod=644 f g /app", "/app"),
        ("FROM alpine\nCOPY --chmod=644 <<f /app/sub/f\nx\nf", "/app/sub"),
        ("FROM alpine\nARG MODE=644\nCOPY --chmod=$MODE f /app/f", "/app"),
        ("FROM alpine\nRUN mkdir /other\nCOPY --chmod=644 f /app/f", "/app"),
        ("FROM alpine\nCOPY --chmod=644 f /app/f\nWORKDIR /app", "/app"),
    ] {
        let messages = messages(text);
        assert!(messages.len() == 1 && messages[0].contains(&format!("`{folder}`")), "{text}: {messages:?}");
    }
    for text in [
        "FROM scratch\nCOPY --chmod=0755 f /missing/f",
        "FROM scratch\nCOPY --chmod=u=rw f /missing/f",
        "FROM scratch\nCOPY --chmod=0644 f /f",
        "FROM scratch\nCOPY --chmod=0644 f missing/f",
        "FROM scratch\nCOPY f /missing/f",
        "FROM alpine\nCOPY --chmod=0644 f /usr/local/bin/f",
        "FROM alpine\nWORKDIR /app/sub\nCOPY --chmod=0644 f /app/f",
        "FROM alpine\nRUN mkdir -p /app\nCOPY --chmod=0644 f /app/f",
        "FROM alpine\nCOPY . /app/\nCOPY --chmod=0644 f /app/f",
        "FROM alpine AS a\nWORKDIR /app\nFROM a\nCOPY --chmod=0644 f /app/f",
    ] {
        assert!(messages(text).is_empty(), "{text}");
    }
}

#[test]
fn an_empty_context_is_reported_once_for_each_source() {
    let messages = |ignore: &str, text: &str| {
        let context =
            LintContext { ignore: Some(IgnoreSet::parse(ignore).unwrap()), ..LintContext::default() };
        let copies = found(text, &context).into_iter().filter(|f| f.rule.name == "CopyIgnoredFile");
        copies.map(|f| f.message).collect::<Vec<_>>()
    };
    assert_eq!(
        messages("*\n", "FROM scratch\nCOPY . .\n"),
        ["`.` is left out of the context by the ignore file"]
    );
    assert_eq!(messages("**\n", "FROM scratch\nADD ./ /x\n").len(), 1);
    assert_eq!(messages("*\n!a\n", "FROM scratch\nCOPY . .\n").len(), 0);
    assert_eq!(messages("*.md\n", "FROM scratch\nCOPY . .\n").len(), 0);
    assert_eq!(messages("*\n", "FROM scratch AS a\nCOPY a /\nFROM scratch\nCOPY --from=a . .\n").len(), 1);
}
