//! The one command that runs every test: Rust unit and integration tests, doctests, the examples, Python tests,
//! end-to-end tests.
//!
//! A test that cannot run here prints a line that starts with `SKIPPED:` and says why; it is counted as skipped, not
//! as passed. With `--ci` a skip whose line contains none of the texts in `.ci/allowed-skips` is a failure. The whole
//! output is kept in `target/xtask-test.log`.

use crate::{features, repository, setup};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const SKIPPED: &str = "SKIPPED:";

/// The result of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    skips: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.skips.extend(other.skips);
    }
}

/// Runs everything and prints `N passed, N failed, N skipped`.
pub(crate) fn run(ci: bool, install: bool) -> Result<(), String> {
    if install {
        setup::packages();
        setup::s3_server();
        if ci {
            setup::user()?;
        }
    }
    if ci {
        features::check()?;
    }
    let log_path = repository::target().join("xtask-test.log");
    std::fs::create_dir_all(repository::target())
        .map_err(|e| format!("cannot make the target folder: {e}"))?;
    let mut log = File::create(&log_path).map_err(|e| format!("cannot write {}: {e}", log_path.display()))?;

    let mut total = Tally::default();
    // The Python module has no Rust tests, and linking it needs a Python that pytest brings; maturin builds it below.
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--workspace", "--exclude", "hyper-python", "--no-fail-fast", "--", "--show-output"]);
    total.add(rust(&mut cargo, &mut log)?);
    // In the same target folder: other crates are compiled once.
    let mut examples = Command::new("cargo");
    examples.args(["test", "--workspace", "--manifest-path", repository::EXAMPLES, "--target-dir"]);
    examples.arg(repository::target()).args(["--no-fail-fast", "--", "--show-output"]);
    total.add(rust(&mut examples, &mut log)?);
    total.add(python(install, &mut log)?);

    let mut verdict = Ok(());
    if ci {
        let allowed =
            std::fs::read_to_string(repository::root().join(".ci/allowed-skips")).unwrap_or_default();
        let allowed: Vec<&str> = allowed.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        let unexpected: Vec<&str> = total
            .skips
            .iter()
            .map(String::as_str)
            .filter(|s| !allowed.iter().any(|a| s.contains(a)))
            .collect();
        if !unexpected.is_empty() {
            verdict = Err(format!("tests were skipped that should run here:\n  {}", unexpected.join("\n  ")));
        }
    }
    if total.failed > 0 {
        verdict = Err(format!("tests failed: the whole output is in {}", log_path.display()));
    } else if total.passed == 0 {
        verdict = Err("no test ran".to_owned());
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    verdict
}

/// Runs `cargo test` and counts.
fn rust(command: &mut Command, log: &mut File) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut in_failures = false;
    let ok = stream(command, log, |line| {
        if let Some((passed, failed, ignored)) = rust_result(line) {
            in_failures = false;
            tally.passed += passed;
            tally.failed += failed;
            tally.skipped += ignored;
            return true;
        }
        if line == "failures:" {
            in_failures = true;
        }
        if let Some(at) = line.find(SKIPPED) {
            // The test that printed it has been counted as passed.
            tally.skips.push(line[at..].to_owned());
            return true;
        }
        let title = line.trim_start();
        in_failures
            || line.ends_with("... FAILED")
            || title.starts_with("Running ")
            || title.starts_with("Doc-tests ")
            || title.starts_with("error")
            || title.starts_with("warning")
    })?;
    let skips = tally.skips.len() as u64;
    tally.passed = tally.passed.saturating_sub(skips);
    tally.skipped += skips;
    if !ok && tally.failed == 0 {
        // Something did not compile or crashed: the exit status is the only witness.
        tally.failed = 1;
    }
    Ok(tally)
}

/// Builds the Python module, runs its tests and counts.
fn python(install: bool, log: &mut File) -> Result<Tally, String> {
    let bindings = repository::root().join("bindings/python");
    if !bindings.join("pyproject.toml").exists() {
        return Ok(Tally::default());
    }
    let skip = |why: String| {
        let line = format!("{SKIPPED} the Python tests: {why}");
        println!("{line}");
        Ok(Tally { skipped: 1, skips: vec![line], ..Tally::default() })
    };
    if !repository::has("python3") {
        return skip("there is no python3".to_owned());
    }
    let environment = match setup::python(install) {
        Ok(folder) => folder,
        Err(why) => return skip(why),
    };
    let python = environment.join("bin/python");
    let mut maturin = Command::new(&python);
    maturin
        .args(["-m", "maturin", "develop", "--quiet", "--manifest-path"])
        .arg(bindings.join("Cargo.toml"))
        .env("VIRTUAL_ENV", &environment)
        .env_remove("CONDA_PREFIX");
    repository::run(&mut maturin)?;
    let mut types = types(&python, &bindings, log)?;
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]).arg(bindings.join("tests"));
    let mut tally = Tally::default();
    let ok = stream(&mut pytest, log, |line| {
        if line.starts_with("SKIPPED ") {
            tally.skips.push(line.to_owned());
        } else if let Some((passed, failed, skipped)) = pytest_result(line) {
            tally.passed += passed;
            tally.failed += failed;
            tally.skipped += skipped;
        }
        true
    })?;
    if !ok && tally.failed == 0 {
        tally.failed = 1;
    }
    types.add(tally);
    Ok(types)
}

/// Checks the types of the Python package, its tests and its examples as their users do, and the stub of the package
/// against the module. Each check counts as a test.
fn types(python: &Path, bindings: &Path, log: &mut File) -> Result<Tally, String> {
    let package = bindings.join("python/hyper_sdk");
    let examples = repository::root().join("examples/python");
    let mypy = || {
        let mut mypy = Command::new(python);
        mypy.args(["-m", "mypy", "--strict", "--cache-dir", "/dev/null"]);
        mypy
    };
    let mut of_package = mypy();
    of_package.arg(&package);
    // By themselves: they see the package as it is installed.
    let mut of_users = mypy();
    of_users.arg(bindings.join("tests")).arg(&examples);
    let mut pyright = Command::new(python);
    pyright.args(["-m", "pyright", "--pythonpath"]).arg(python).arg(&package).arg(&examples);
    let mut stubtest = Command::new(python);
    stubtest.args(["-m", "mypy.stubtest", "hyper_sdk"]);
    let mut tally = Tally::default();
    for mut check in [of_package, of_users, pyright, stubtest] {
        match stream(&mut check, log, |_| true)? {
            true => tally.passed += 1,
            false => tally.failed += 1,
        }
    }
    Ok(tally)
}

/// Runs a command, keeps every line of its output in the log and shows those that `show` picks. Returns its success.
fn stream(command: &mut Command, log: &mut File, mut show: impl FnMut(&str) -> bool) -> Result<bool, String> {
    let shown = repository::show(command);
    eprintln!("+ {shown}");
    let (reader, writer) = std::io::pipe().map_err(|e| e.to_string())?;
    let error_writer = writer.try_clone().map_err(|e| e.to_string())?;
    command.current_dir(repository::root()).stdin(Stdio::null()).stdout(writer).stderr(error_writer);
    let mut child = command.spawn().map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    // The command keeps copies of the pipe's writing end, which would keep the loop below waiting for ever.
    *command = Command::new("true");
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(|e| e.to_string())?;
        let line = String::from_utf8_lossy(&line);
        writeln!(log, "{line}").map_err(|e| format!("cannot write the log: {e}"))?;
        if show(&line) {
            println!("{line}");
        }
    }
    Ok(child.wait().map_err(|e| e.to_string())?.success())
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn rust_result(line: &str) -> Option<(u64, u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    Some((count(counts, "passed")?, count(counts, "failed")?, count(counts, "ignored")?))
}

/// Reads `3 passed, 1 failed, 2 skipped in 0.12s`; absent words count as none.
fn pytest_result(line: &str) -> Option<(u64, u64, u64)> {
    let line = line.trim_matches(['=', ' ']);
    let known = ["passed", "failed", "skipped", "error", "errors"];
    let is_summary = line.contains(" in ") && known.iter().any(|word| count(line, word).is_some());
    if !is_summary {
        return None;
    }
    let get = |word| count(line, word).unwrap_or(0);
    Some((get("passed"), get("failed") + get("error") + get("errors"), get("skipped")))
}

/// The number before a word.
fn count(text: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', ';']).filter(|w| !w.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word)?[0].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line =
            "test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(rust_result(line), Some((12, 1, 2)));
        assert_eq!(rust_result("running 3 tests"), None);
        assert_eq!(pytest_result("3 passed, 1 skipped in 0.12s"), Some((3, 0, 1)));
        assert_eq!(pytest_result("===== 1 failed, 1 error in 2.00s ====="), Some((0, 2, 0)));
        assert_eq!(pytest_result("test passed in style"), None);
    }

    #[test]
    fn a_skip_is_not_a_pass() {
        let text = "test a ... ok\nSKIPPED: a sample of the test of the tally\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        let mut log = tempfile();
        let mut command = Command::new("printf");
        command.arg("%s").arg(text);
        let tally = rust(&mut command, &mut log).unwrap();
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: 0,
                skipped: 1,
                skips: vec!["SKIPPED: a sample of the test of the tally".to_owned()]
            }
        );
    }

    #[test]
    fn a_crash_is_a_failure() {
        let mut log = tempfile();
        assert_eq!(rust(&mut Command::new("false"), &mut log).unwrap().failed, 1);
    }

    fn tempfile() -> File {
        File::options().write(true).open("/dev/null").unwrap()
    }
}
