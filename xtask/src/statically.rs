//! Builds `hyperbuild` and `hyperregistry` as files that need nothing of the machine, for images without a C library.
//!
//! On a machine with musl every program is one already. With the GNU C library the program contains that library, and
//! reads users, groups and host names itself (`hyper_sdk::runtime::use_own_name_services`).

use crate::repository;
use std::path::Path;
use std::process::Command;

/// Builds both programs with a profile of cargo. They are then in `target/static`, and in the folder of the profile until the
/// next build there.
pub(crate) fn run(profile: &str) -> Result<(), String> {
    for (package, program) in [("hyper-cli", "hyperbuild"), ("hyper-server", "hyperregistry")] {
        build(profile, package, program)?;
    }
    Ok(())
}

fn build(profile: &str, package: &str, program: &str) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["rustc", "--locked", "--package", package, "--bin", program, "--profile", profile]);
    // Of the program alone, as it matters only where all is linked. What it uses is compiled once for both kinds.
    cargo.args(["--", "-Ctarget-feature=+crt-static"]);
    repository::run(&mut cargo)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = repository::target().join(folder).join(program);
    check(&built)?;
    let to = repository::target().join("static").join(program);
    let failed = |e| format!("cannot copy {} to {}: {e}", built.display(), to.display());
    std::fs::create_dir_all(to.parent().expect("it is in a folder")).map_err(failed)?;
    // A program that is running cannot be written.
    let _ = std::fs::remove_file(&to);
    std::fs::copy(&built, &to).map_err(failed)?;
    println!("{}", to.display());
    Ok(())
}

/// Fails for a program that another file must load.
fn check(program: &Path) -> Result<(), String> {
    let bytes = std::fs::read(program).map_err(|e| format!("cannot read {}: {e}", program.display()))?;
    match interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => Err(format!("{} is not linked statically: it names an interpreter", program.display())),
        None => Err(format!("{} is not a program of 64 bits", program.display())),
    }
}

/// Whether an ELF file of 64 bits, of this machine's byte order, has a program header of an interpreter.
fn interpreter(file: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = file.get(at..at.checked_add(size)?)?;
        let mut whole = [0; 8];
        match cfg!(target_endian = "little") {
            true => whole[..size].copy_from_slice(bytes),
            false => whole[8 - size..].copy_from_slice(bytes),
        }
        Some(u64::from_ne_bytes(whole))
    };
    if !file.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let (start, size, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    let headers: Option<Vec<u64>> = (0..count).map(|n| number(start + n * size, 4)).collect();
    Some(headers?.contains(&u64::from(INTERPRETER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_others_load_are_told_apart() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // The tests are linked as the machine links.
        assert_eq!(interpreter(&own), Some(!cfg!(target_feature = "crt-static")));
        assert_eq!(interpreter(&own[..60]), None);
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
    }
}
