//! How the time to parse, lint and match grows with the input: `cargo bench --package hyper-benches --bench dockerfile`.
//!
//! Each row is a kind of text that could be hard, at a size and at twice and four times that size. Linear work shows
//! ratios of about 2; the program says which rows are not.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use hyper_sdk::dockerfile::{EmptyEnvironment, Expander, IgnoreSet, parse};
use hyper_sdk::lint::{LintContext, lint};
use std::time::{Duration, Instant};

/// The best of several runs.
fn best(work: impl Fn()) -> Duration {
    (0..5)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// Makes a text of so many lines or parts.
type Make = Box<dyn Fn(usize) -> String>;

/// Above this the time of twice the input counts as more than linear.
const LINEAR: f64 = 2.8;
/// Shorter times say nothing about growth.
const MEASURABLE: Duration = Duration::from_micros(300);

fn row(name: &str, lines: usize, make: impl Fn(usize) -> String, work: impl Fn(&str)) -> bool {
    let times: Vec<Duration> = [1, 2, 4]
        .into_iter()
        .map(|factor| {
            let text = make(lines * factor);
            best(|| work(&text))
        })
        .collect();
    let ratio = |at: usize| times[at].as_secs_f64() / times[at - 1].as_secs_f64().max(1e-9);
    let grows = times[2] > MEASURABLE && ratio(2) > LINEAR && ratio(1) > LINEAR;
    let shown: Vec<String> = times.iter().map(|t| format!("{:>9.2}", t.as_secs_f64() * 1e3)).collect();
    let verdict = if grows { "MORE THAN LINEAR" } else { "" };
    println!("{name:<44} {} ms  x{:.1} x{:.1} {verdict}", shown.join(" "), ratio(1), ratio(2));
    !grows
}

fn read(text: &str) {
    std::hint::black_box(parse(text, "Dockerfile"));
}

fn check(text: &str) {
    let parsed = parse(text, "Dockerfile");
    let source = &parsed.dockerfile.source;
    for finding in lint(&parsed.dockerfile, &LintContext::default(), None) {
        std::hint::black_box((source.position(finding.span.start), finding.diagnostic().render(source)));
    }
}

fn usual(lines: usize) -> String {
    let block = "RUN apt-get update && \\\n    apt-get install -y curl\nCOPY --chown=1:2 src /app/src\nENV A=b C=\"d e\"\n\
        LABEL org.example.name=value\nWORKDIR /app\nEXPOSE 80/tcp\nRUN --mount=type=cache,target=/c make\n# a comment\n\n";
    let rows = lines / 10;
    format!("FROM debian:12 AS build\n{}", block.repeat(rows))
}

fn main() {
    let mut linear = true;
    println!("{:<44} {:>9} {:>9} {:>9}", "", "n", "2n", "4n");
    let text = usual(10_000);
    println!(
        "a usual file of {} lines: parsed in {:.2} ms",
        text.lines().count(),
        best(|| read(&text)).as_secs_f64() * 1e3
    );
    let repeated =
        |head: &'static str, line: &'static str| move |n: usize| format!("{head}{}", line.repeat(n));
    let kinds: Vec<(&str, Make)> = vec![
        ("usual lines", Box::new(usual)),
        ("one instruction over all lines", Box::new(repeated("FROM a\nRUN x", " \\\n  y"))),
        ("comments in a continuation", Box::new(repeated("FROM a\nRUN x", " \\\n# c\n y"))),
        ("empty lines in a continuation", Box::new(repeated("FROM a\nRUN x \\\n", "\n"))),
        ("one line of words", Box::new(repeated("FROM a\nENV", " a=b"))),
        ("one line of backslashes", Box::new(repeated("FROM a\nENV a=", "\\\\"))),
        ("one line of quotes", Box::new(repeated("FROM a\nENV a=", "'\"'"))),
        ("one long word", Box::new(repeated("FROM a\nRUN ", "x"))),
        ("unknown instructions", Box::new(repeated("FROM a\n", "COPPY a b\n"))),
        ("unknown flags", Box::new(repeated("FROM a\nCOPY", " --fron=b"))),
        (
            "stages",
            Box::new(|n| (0..n).map(|i| format!("FROM s{} AS s{i}\n", i.saturating_sub(1))).collect()),
        ),
        ("stages of one name", Box::new(repeated("", "FROM a AS b\n"))),
        (
            "heredocs of a line",
            Box::new(|n| format!("FROM a\nCOPY{} /\n{}", " <<E".repeat(n), "E\n".repeat(n))),
        ),
        ("an open heredoc", Box::new(repeated("FROM a\nRUN <<E\n", "x\n"))),
        ("open heredocs", Box::new(repeated("FROM a\n", "RUN <<E\n"))),
        ("a JSON array", Box::new(|n| format!("FROM a\nRUN [\"x\"{}]\n", ",\"y\"".repeat(n)))),
        ("an open JSON array", Box::new(repeated("FROM a\nRUN [\"x\"", ",\"y\""))),
        ("open JSON arrays", Box::new(repeated("FROM a\nRUN ", "["))),
        ("ONBUILD of ONBUILD", Box::new(repeated("FROM a\n", "ONBUILD "))),
        (
            "mounts of a RUN",
            Box::new(|n| format!("FROM a\nRUN{} x\n", " --mount=type=cache,target=/c".repeat(n))),
        ),
        ("directives", Box::new(repeated("", "# check=skip=all\n"))),
        (
            "undefined names in the body of a file",
            Box::new(|n| {
                let names: String = (0..n).map(|i| format!("$name{i}\n")).collect();
                format!("FROM scratch\nCOPY <<E /\n{names}E\n")
            }),
        ),
        ("pairs of one line with findings", Box::new(repeated("FROM scratch\nENV", " TOKEN=b"))),
        ("ports", Box::new(repeated("FROM a\nEXPOSE", " 1/tcp"))),
    ];
    for (name, make) in &kinds {
        linear &= row(&format!("parse: {name}"), 5_000, make, read);
        linear &= row(&format!("lint: {name}"), 2_500, make, check);
    }
    let expand = |text: &str| {
        let _ = std::hint::black_box(Expander::new('\\').word(text, &EmptyEnvironment));
    };
    for (name, head, part, tail) in [
        ("variables", "", "$a", ""),
        ("defaults", "", "${a:-b}", ""),
        ("open braces", "", "${", ""),
        ("replacements", "", "${a//b/c}", ""),
        ("escapes", "\"", "\\$", "\""),
    ] {
        let make = move |n: usize| format!("{head}{}{tail}", part.repeat(n));
        linear &= row(&format!("expand: {name}"), 5_000, make, expand);
    }
    let ignore = |text: &str| {
        if let Ok(set) = IgnoreSet::parse(text) {
            std::hint::black_box(set.matches("a/b/c/d/e/f"));
        }
    };
    for (name, line) in [("names", "node_modules\n"), ("stars", "**/*.o\n"), ("exceptions", "!a/**/b\n")] {
        linear &= row(&format!("ignore: {name}"), 5_000, move |n| line.repeat(n), ignore);
    }
    if !linear {
        println!("some rows grow faster than their input");
        std::process::exit(1);
    }
    println!("every row is linear");
}
