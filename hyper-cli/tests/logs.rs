//! What steps write, in any amount and form: whole in the log file, and in little memory.

use crate::support::{Place, busybox, find, skip, told};
use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The most memory that a program took, in bytes, as long as it is there to be asked.
fn peak(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
}

/// Runs a program to its end, and returns its peak memory.
fn measured(mut child: Child) -> (Output, u64) {
    let start = Instant::now();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(&child).unwrap_or(0));
        assert!(start.elapsed() < Duration::from_secs(300), "it takes for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
    (child.wait_with_output().unwrap(), most)
}

/// Everything that a build in this place has logged.
fn log(place: &Place) -> String {
    let mut files: Vec<_> =
        std::fs::read_dir(place.join("state/logs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    std::fs::read_to_string(files.remove(0)).unwrap()
}

/// A build that writes its progress in this way.
fn build(place: &Place, mode: &str, script: &str) -> Command {
    let mut command = place.build(&format!("FROM base\nRUN {script}\n"), &["-o=type=cacheonly"]);
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mode = format!("--progress={mode}");
    let replaced =
        arguments.into_iter().map(|a| if a == "--progress=json" { mode.clone().into() } else { a });
    let replaced: Vec<std::ffi::OsString> = replaced.collect();
    let mut other = place.hyper(&[]);
    other.args(replaced);
    command = other;
    command
}

#[test]
fn one_line_without_an_end_takes_little_memory() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    const LENGTH: usize = 60_000_000;
    for mode in ["plain", "json", "quiet", "none"] {
        let place = Place::new();
        let shown = place.join("shown");
        let mut command = build(&place, mode, &format!("head -c {LENGTH} /dev/zero | tr '\\0' a"));
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&shown).unwrap());
        let (output, most) = measured(command.spawn().unwrap());
        let shown = std::fs::read_to_string(shown).unwrap();
        assert!(output.status.success(), "{mode}: {}", &shown[..shown.len().min(2000)]);
        assert!(most < 100 << 20, "{mode}: {most} bytes");
        let of = |text: &str| text.bytes().filter(|b| *b == b'a').count();
        assert!(
            log(&place).lines().any(|line| of(line) >= LENGTH),
            "{mode}: the log file has the line, whole"
        );
        match mode {
            "plain" => assert!(shown.lines().any(|line| of(line) >= LENGTH)),
            "json" => assert!(of(&shown) >= LENGTH),
            _ => assert_eq!(shown, ""),
        }
    }
}

#[test]
fn a_terminal_shows_the_start_of_a_long_line() {
    if busybox().is_none() || find("script").is_none() {
        skip!("there is no static busybox, or no `script` to make a terminal with");
    }
    let place = Place::new();
    let program = build(&place, "tty", "head -c 60000000 /dev/zero | tr '\\0' a; exit 3");
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let line = format!("{}; echo peak $?; grep VmHWM /proc/self/status", line.join(" "));
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(place.join("."));
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("peak 1") && shown.contains("aaaa") && shown.contains('…'), "{}", shown.len());
    assert!(shown.len() < 4 << 20, "{}", shown.len());
    assert!(log(&place).lines().any(|line| line.len() >= 60_000_000));
}

#[test]
fn a_blocked_display_stops_the_step_and_takes_no_memory() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    const LINES: usize = 25_000_000;
    let place = Place::new();
    let mut command = build(&place, "json", &format!("yes abc | head -n {LINES}"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nobody reads: all of it would be held by now.
    std::thread::sleep(Duration::from_secs(6));
    let mut most = peak(&child).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut lines, mut block) = (0, vec![0; 1 << 20]);
        loop {
            let n = stderr.read(&mut block).unwrap();
            if n == 0 {
                return lines;
            }
            lines += block[..n].windows(5).filter(|w| w == b"abc\\n").count();
        }
    });
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(&child).unwrap_or(0));
        assert!(start.elapsed() < Duration::from_secs(300), "it takes for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(most < 80 << 20, "{most} bytes");
    let shown = reader.join().unwrap();
    // A few are cut by the blocks that they were read in.
    assert!(shown > LINES - LINES / 1000 && shown <= LINES, "{shown}");
    assert_eq!(log(&place).lines().filter(|line| line.ends_with(" abc")).count(), LINES);
}

#[test]
fn characters_and_overwritten_lines_are_whole() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    // Characters of three bytes, in blocks that end within one of them; progress that overwrites itself without an end.
    let script = "yes € | tr -d '\\n' | head -c 600000; echo; \
                  i=0; while [ $i -lt 3000 ]; do printf '\\r%s %%' $i; i=$((i+1)); done";
    let output = build(&place, "plain", script).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    for text in [String::from_utf8(output.stderr).unwrap(), log(&place)] {
        assert!(text.contains(&"€".repeat(200_000)), "{}", &text[..text.len().min(3000)]);
        assert!(!text.contains('\u{fffd}'));
        assert!(text.contains(" 2999 %\n") && !text.contains(" 2998 %"), "what is overwritten is gone");
    }
}
