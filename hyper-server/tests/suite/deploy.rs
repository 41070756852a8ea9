//! The files of `deploy/`: they name what exists, and the tools that read them accept them.

use super::program::{PROGRAM, run, stderr};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const METRICS: &str = include_str!("../../../docs/reference/metrics.md");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/dashboard.json");
const UNIT: &str = include_str!("../../../deploy/systemd/hyperregistry.service");
const BACKUP: &str = include_str!("../../../deploy/systemd/hyperregistry-backup.service");
const TIMER: &str = include_str!("../../../deploy/systemd/hyperregistry-backup.timer");
const CONFIG: &str = include_str!("../../../deploy/systemd/config.toml");
const GUIDE: &str = include_str!("../../../docs/operate.md");

/// The metrics of the reference, with their types.
fn metrics() -> BTreeMap<&'static str, &'static str> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| `hyperregistry_"));
    rows.map(|row| {
        let mut cells = row.split(" | ");
        (cells.next().unwrap().trim_end_matches('`'), cells.next().unwrap())
    })
    .collect()
}

/// The values of each label of the reference.
fn label_values() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once("` | `").filter(|(name, _)| !name.contains('|')));
    rows.map(|(name, values)| (name, values.trim_end_matches('`').split("`, `").collect())).collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let metrics = metrics();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter_map(|word| word.strip_prefix("hyperregistry_"))
        .map(|name| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            histogram.filter(|name| metrics.get(name) == Some(&"histogram")).unwrap_or(name).to_owned()
        })
        .collect()
}

/// The expressions of a dashboard.
fn expressions(dashboard: &str) -> String {
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| format!("{}\n", target["expr"].as_str().unwrap())).collect()
}

/// Whether a regular expression of letters, `.` and `|` matches a value.
fn matches(pattern: &str, value: &str) -> bool {
    pattern.split('|').any(|one| {
        one.len() == value.len() && one.bytes().zip(value.bytes()).all(|(p, v)| p == b'.' || p == v)
    })
}

#[test]
fn alerts_and_dashboard_name_metrics_and_labels_that_exist() {
    let (metrics, values) = (metrics(), label_values());
    assert_eq!(values["method"].len(), 7, "{values:?}");
    for text in [ALERTS, expressions(DASHBOARD).as_str()] {
        for name in named(text) {
            assert!(metrics.contains_key(&*name), "there is no metric hyperregistry_{name}");
        }
        let mut matchers = 0;
        for (label, known) in &values {
            for part in
                text.split(&format!("{label}=")).skip(1).chain(text.split(&format!("{label}!~")).skip(1))
            {
                let pattern = part.trim_start_matches('~').trim_start_matches('"').split('"').next().unwrap();
                for one in pattern.split('|') {
                    assert!(known.iter().any(|value| matches(one, value)), "{label} is never `{one}`");
                }
                matchers += 1;
            }
        }
        assert!(matchers > 0);
    }
}

/// The labels that a text names in matchers, in `by (…)`, and in `{{…}}`.
fn labels(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let matchers = ["=\"", "=~\"", "!=\"", "!~\""];
    let before = matchers.iter().flat_map(|end| text.match_indices(end)).map(|(at, _)| {
        let text = &text[..at];
        &text[text.rfind(|c| !is_name(c)).map_or(0, |at| at + 1)..]
    });
    let by = text.split("by (").skip(1).flat_map(|rest| rest.split(')').next().unwrap().split(", "));
    before.chain(by).filter(|name| !name.is_empty()).collect()
}

#[test]
fn alerts_and_dashboard_use_no_other_labels() {
    let values = label_values();
    let expressions = expressions(DASHBOARD);
    let alerts: String = ALERTS.lines().filter(|line| !line.contains("summary:")).collect();
    for text in [alerts.as_str(), &expressions] {
        let labels = labels(text);
        assert!(labels.contains("instance") || labels.contains("route"), "{labels:?}");
        for label in labels {
            let is_known =
                values.contains_key(label) || ["instance", "job", "le", "version"].contains(&label);
            assert!(is_known, "no metric has the label {label}");
        }
    }
}

#[test]
fn no_two_panels_of_the_dashboard_have_one_id() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut ids: Vec<_> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|two| two[0] != two[1]), "{ids:?}");
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown = named(&expressions(DASHBOARD));
    let missing: Vec<_> = metrics().into_keys().filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What counts failures, and 0 in a healthy server.
#[test]
fn every_metric_of_a_fault_has_an_alert() {
    let named = named(ALERTS);
    let faults = ["failures", "lost", "damaged", "unreadable", "refused"];
    let faults = metrics().into_keys().filter(|name| faults.iter().any(|fault| name.contains(fault)));
    let without: Vec<_> = faults.filter(|name| !named.contains(*name)).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn every_alert_is_tested_and_explained() {
    let tests = [
        include_str!("../../../deploy/prometheus/alerts_test.yaml"),
        include_str!("../../../deploy/prometheus/alerts_scrub_test.yaml"),
    ]
    .concat();
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n");
        assert!(tests.contains(&fires), "no test fires {alert}");
        assert!(GUIDE.contains(&format!("| `{alert}` |")), "docs/operate.md does not explain {alert}");
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// Runs a tool; `None`, with a word why, when it is not there.
fn tool(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(e) => {
            println!("SKIPPED: {} cannot be started: {e}", command.get_program().display());
            None
        }
    }
}

#[test]
fn prometheus_accepts_the_alerts_and_their_tests_pass() {
    for arguments in [
        &["check", "rules", "alerts.yaml"][..],
        &["test", "rules", "alerts_test.yaml", "alerts_scrub_test.yaml"],
    ] {
        let mut promtool = Command::new("promtool");
        let Some(output) = tool(promtool.args(arguments).current_dir(folder("prometheus"))) else { return };
        assert!(output.status.success(), "{output:?}");
    }
}

/// The value of a key of a unit.
fn value(unit: &'static str, key: &str) -> &'static str {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap()
}

/// The value of a key of the unit of the server.
fn of_unit(key: &str) -> &'static str {
    value(UNIT, key)
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_safe() {
    let folder = tempfile::tempdir().unwrap();
    let units = [
        ("hyperregistry.service", UNIT),
        ("hyperregistry-backup.service", BACKUP),
        ("hyperregistry-backup.timer", TIMER),
    ];
    for (name, text) in units {
        // It must exist, and is not installed here.
        std::fs::write(folder.path().join(name), text.replace("/usr/local/bin/hyperregistry", PROGRAM))
            .unwrap();
    }
    for (name, _) in units {
        let analyze = |arguments: &[&str]| {
            tool(Command::new("systemd-analyze").args(arguments).arg(folder.path().join(name)))
        };
        let Some(output) = analyze(&["verify", "--man=no"]) else { return };
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {}", stderr(&output));
        if name.ends_with(".service") {
            // From 0 to 100, where 100 is a service without any limit.
            let output = analyze(&["security", "--offline=yes", "--threshold=15"]).unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
        }
    }
}

/// The commands of the unit make a backup of a store that its configuration names, in the only folder that it may write besides.
#[test]
fn the_unit_of_backups_makes_one_and_removes_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("config.toml"), format!("data = {:?}\n", path("data"))).unwrap();
    let token = run(&["token", "ls", "--data", &path("data")], "");
    assert!(!token.status.success(), "there is no store yet");
    drop(super::program::Process::start(Path::new(&path("data")), &[]));
    let commands: Vec<_> = BACKUP.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    assert_eq!(commands.len(), 2);
    let dest = value(BACKUP, "ReadWritePaths");
    assert_eq!(value(BACKUP, "RequiresMountsFor"), dest);
    for _ in 0..2 {
        for command in &commands {
            let words: Vec<String> = command
                .split(' ')
                .skip(1)
                .map(|word| word.replace(dest, &path("backups")).replace("/etc/hyperregistry", &path("")))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = run(&words, "");
            assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        }
    }
    assert_eq!(std::fs::read_dir(path("backups/snapshots")).unwrap().count(), 2);
    for key in ["User", "EnvironmentFile", "StateDirectory", "UMask"] {
        assert_eq!(value(BACKUP, key), of_unit(key), "{key}");
    }
}

#[test]
fn the_unit_gives_the_server_what_its_configuration_needs() {
    let reference = run(&["config", "reference"], "");
    let reference = String::from_utf8(reference.stdout).unwrap();
    let number = |key: &str| -> u64 {
        let lines = reference.lines().filter_map(|line| line.strip_prefix(&format!("{key} = ")));
        let values = lines.map(|value| {
            let digits = value.trim_start_matches('"').chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse().unwrap()
        });
        // A database has `connections`, too.
        values.max().unwrap()
    };
    // The tasks of the server have five seconds after the requests.
    assert!(of_unit("TimeoutStopSec").parse::<u64>().unwrap() > number("drain-timeout") + 5);
    assert!(of_unit("LimitNOFILE").parse::<u64>().unwrap() > 4 * number("connections"));
    // A faulty file sends no signal.
    let check = of_unit("ExecStart").replace(" serve ", " config check ");
    let reloads: Vec<_> = UNIT.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    assert_eq!(reloads, [check.as_str(), "/bin/kill -HUP $MAINPID"]);
}

#[test]
fn the_configuration_of_the_unit_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("tls.crt"), issued.cert.pem()).unwrap();
    std::fs::write(path("tls.key"), issued.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(path("tls.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(path("users"), run(&["htpasswd", "--cost", "8", "alice"], "s3cret").stdout).unwrap();
    let here = folder.path().to_str().unwrap();
    let text = CONFIG.replace("/etc/hyperregistry", here).replace("/var/log/hyperregistry", here);
    std::fs::write(path("config.toml"), text).unwrap();
    let output = run(&["config", "check", "--config", path("config.toml").to_str().unwrap()], "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "a warning");
    // All other folders are read-only for the unit.
    let config: toml::Table = CONFIG.parse().unwrap();
    let (data, audit) = (config["data"].as_str().unwrap(), config["log"]["audit"].as_str().unwrap());
    assert_eq!(data, format!("/var/lib/{}", of_unit("StateDirectory")));
    assert_eq!(Path::new(audit).parent().unwrap(), Path::new("/var/log").join(of_unit("LogsDirectory")));
}
