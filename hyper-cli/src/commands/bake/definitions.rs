//! The files with definitions, and what they are evaluated with.

use super::arguments::BakeArgs;
use crate::failure::Failure;
use crate::flags::unsupported;
use hyper_sdk::bake::{BakeConfig, BakeFile, BakeInput, MAX_FILE};
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::platform::Platform;
use hyper_sdk::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};

/// The files that are read without `--file`, a later one overriding an earlier one.
const COMPOSE: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
const BAKE: [&str; 4] =
    ["docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl"];

/// A variable of the environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a variable of the environment is true.
fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| matches!(value.trim(), "1" | "true" | "t" | "T" | "TRUE" | "True"))
}

/// A variable that definitions see.
pub(super) fn visible(name: &str) -> Option<String> {
    variable(name).filter(|_| !is_on("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"))
}

/// Reads and evaluates the definitions.
pub(super) fn read(args: &BakeArgs) -> Result<BakeConfig, Failure> {
    if is_on("BUILDX_BAKE_FILE_RELATIVE_PATHS") {
        return Err(unsupported("BUILDX_BAKE_FILE_RELATIVE_PATHS is not supported yet"));
    }
    let files = files(args)?;
    let mut variables = BTreeMap::new();
    for text in args.variables.iter().filter(|text| !text.is_empty()) {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => variables.insert(name.to_owned(), value.to_owned()),
            _ => return Err(Failure::usage(format!("--var `{text}`: expected NAME=VALUE"))),
        };
    }
    let input = BakeInput {
        files,
        variable: &visible,
        dotenv: text(".env")?,
        variables,
        home: variable("HOME"),
        platform: Platform::host().to_string(),
        now: SystemClock.now(),
        random: &random,
    };
    Ok(BakeConfig::read(&input)?)
}

/// A random number, of the keys that the standard library draws for hash tables.
fn random() -> u128 {
    let half = || u128::from(RandomState::new().hash_one(0));
    half() << 64 | half()
}

fn files(args: &BakeArgs) -> Result<Vec<BakeFile>, Failure> {
    let mut names = args.files.clone();
    if names.is_empty()
        && let Some(paths) = variable("BUILDX_BAKE_FILE")
    {
        let separator = variable("BUILDX_BAKE_PATH_SEPARATOR").filter(|separator| !separator.is_empty());
        let parts = paths.split(separator.as_deref().unwrap_or(":")).map(str::trim);
        names.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
    }
    let mut files = Vec::new();
    if names.is_empty() {
        for name in COMPOSE.iter().chain(&BAKE) {
            if let Some(text) = text(name)? {
                files.push(BakeFile { name: (*name).to_owned(), text });
            }
        }
        if files.is_empty() {
            let hint = "name a file with --file";
            let error = Error::new(
                ErrorKind::NotFound,
                "there is no docker-bake.hcl, docker-bake.json or compose file here",
            );
            return Err(Failure::from(error).with_hint(hint));
        }
    }
    for name in names {
        let name = name.strip_prefix("cwd://").unwrap_or(&name);
        let content = match name {
            "-" => Some(limited("standard input", &mut io::stdin().lock())?),
            name => text(name)?,
        };
        let text = content.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such file with definitions")
                .with_context("path", name)
        })?;
        files.push(BakeFile { name: name.to_owned(), text });
    }
    Ok(files)
}

/// The text of a file; `None` when there is none.
fn text(path: &str) -> Result<Option<String>, Failure> {
    match std::fs::File::open(path) {
        Ok(mut file) if file.metadata().is_ok_and(|stat| !stat.is_dir()) => {
            limited(path, &mut file).map(Some)
        }
        Ok(_) if path == ".env" => Ok(None),
        Ok(_) => Err(Error::invalid("this is a folder, and no file with definitions")
            .with_context("path", path)
            .into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot read definitions", path, e).into()),
    }
}

fn limited(name: &str, from: &mut dyn Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE as u64 + 1;
    from.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io("cannot read definitions", name, e))?;
    if bytes.len() > MAX_FILE {
        return Err(Error::invalid("a file with definitions has at most 1 MiB")
            .with_context("path", name)
            .into());
    }
    let text = String::from_utf8(bytes);
    Ok(text.map_err(|_| Error::invalid("a file with definitions is not UTF-8").with_context("path", name))?)
}
