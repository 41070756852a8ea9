//! The session of a run, from the environment, the global options and the caller of the library.

use crate::args::{ExecutorArgs, GlobalArgs, TransportArgs};
use crate::console::Console;
use hyper_sdk::session::{Defaults, Session, SessionOptions};
use hyper_sdk::space::CacheLimit;
use hyper_sdk::{Error, ErrorKind, Result};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// The variable with the limit of the cache.
const CACHE_LIMIT: &str = "HYPER_CACHE_LIMIT";

/// What a caller of the library changes in the options of every session.
#[derive(Clone)]
pub(crate) struct Configure(Arc<dyn Fn(SessionOptions) -> SessionOptions>);

impl Configure {
    pub(crate) fn new(change: impl Fn(SessionOptions) -> SessionOptions + 'static) -> Self {
        Self(Arc::new(change))
    }
}

impl Default for Configure {
    fn default() -> Self {
        Self::new(|options| options)
    }
}

impl fmt::Debug for Configure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configure")
    }
}

/// Opens the session of a run. Nothing is read or written yet.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] when no state folder is given and there is no home to put it into.
pub(crate) fn open(
    global: &GlobalArgs,
    transport: &TransportArgs,
    executor: &ExecutorArgs,
    console: &Console,
    configure: &Configure,
) -> Result<Session> {
    let mut defaults = defaults();
    defaults.config = global.config.clone().or(defaults.config);
    let mut options =
        SessionOptions::from_defaults(global.root.clone(), defaults)?.progress(console.warnings());
    options.cache_limit = match (global.cache_limit, std::env::var(CACHE_LIMIT)) {
        (Some(limit), _) => limit,
        (None, Ok(text)) if !text.is_empty() => {
            text.parse().map_err(|e: Error| Error::invalid(format!("{CACHE_LIMIT}: {}", e.message())))?
        }
        (None, _) => CacheLimit::default(),
    };
    if let Some(runtime) = executor.executor.as_deref().and_then(runtime).transpose()? {
        options = options.builder(move |builder| builder.runtime(&runtime));
    }
    (configure.0)(transport.apply(options)).open()
}

/// The path of a runtime that `--executor` names; `None` for the native executor.
fn runtime(name: &str) -> Option<Result<PathBuf>> {
    if name == "native" {
        return None;
    }
    Some(match name.contains('/') {
        true => std::path::absolute(name).map_err(|e| Error::io("cannot resolve a path", name, e)),
        false => find_runtime(name).ok_or_else(|| {
            let message = format!(
                "--executor={name}: there is no program `{name}` in PATH: install it, name its path, or use `native`"
            );
            Error::new(ErrorKind::NotFound, message)
        }),
    })
}

/// The path of a runtime in the folders of `PATH`.
pub(crate) fn find_runtime(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        path.is_absolute() && path.metadata().is_ok_and(|stat| stat.is_file() && stat.mode() & 0o111 != 0)
    };
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(is_program)
}

/// The state folder of a run, when it is known.
pub(crate) fn root(global: &GlobalArgs) -> Option<PathBuf> {
    std::path::absolute(global.root.clone().or_else(|| defaults().root)?).ok()
}

fn defaults() -> Defaults {
    Defaults::from_variables(|name| std::env::var_os(name))
}
