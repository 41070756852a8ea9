//! The session of the SDK behind a `Hyper` or an `AsyncHyper`, with the settings of Python's environment.
//!
//! The helper of the sandbox is a new process of the same Python without site packages. It loads this module by its file name,
//! and never returns to Python code.

use crate::arguments::{Several, Table};
use crate::environment::{variable, warn};
use crate::failure::exception;
use hyper_sdk::client::keychain::{Credentials, StaticKeychain};
use hyper_sdk::client::read_authorities;
use hyper_sdk::exec::HelperCommand;
use hyper_sdk::frontend::JsonFrontend;
use hyper_sdk::progress::{Event, Progress};
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::session::{Defaults, Session as SdkSession, SessionOptions};
use hyper_sdk::{Error, Result};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// What the helper's Python runs: it needs nothing of the package but the native module.
const HELPER: &str = "import sys; sys.path.append(sys.argv[1]); import _native; _native._exec_helper()";

/// The name of the frontend of `hyper_sdk.graph`.
pub(crate) const GRAPH: &str = "hyper_sdk.graph";

/// A session of the SDK.
pub(crate) struct Session {
    pub(crate) sdk: SdkSession,
    /// Whether the command that starts the helper of the sandbox is known.
    can_build: bool,
}

/// The arguments of the constructors.
pub(crate) struct Options {
    pub(crate) root: Option<PathBuf>,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) credentials: Table<(String, String)>,
    pub(crate) plain_http: bool,
    pub(crate) insecure_tls: bool,
    pub(crate) ca_file: Option<Several<PathBuf>>,
}

impl Session {
    pub(crate) fn open(py: Python<'_>, options: Options) -> PyResult<Arc<Self>> {
        let helper = helper(py)?;
        Self::with(helper, options).map(Arc::new).map_err(|e| exception(&e))
    }

    fn with(helper: Option<HelperCommand>, given: Options) -> Result<Self> {
        let defaults = Defaults::from_variables(variable);
        let mut options = SessionOptions::from_defaults(given.root, defaults)?;
        options.config = given.docker_config.or(options.config);
        let mut keychain = StaticKeychain::anonymous();
        for (host, (user, password)) in given.credentials.0 {
            keychain = keychain.with(RegistryHost::from_address(&host)?, Credentials::basic(user, password));
        }
        options.keychain = Some(Arc::new(keychain));
        (options.plain_http, options.insecure_tls) = (given.plain_http, given.insecure_tls);
        options.authorities = given.ca_file.unwrap_or_default().0;
        // A wrong file is an error now, not when a registry is reached.
        options.authorities.iter().try_for_each(|file| read_authorities(file).map(drop))?;
        options.progress = Progress::new(|event| {
            if let Event::Warning { message, .. } = event {
                warn(&message);
            }
        });
        let can_build = helper.is_some();
        options = options.builder(move |mut builder| {
            if let Some(helper) = &helper {
                builder.helper = helper.clone();
            }
            builder.frontend(GRAPH, Arc::new(JsonFrontend))
        });
        Ok(Self { sdk: options.open()?, can_build })
    }

    /// The session, for builds.
    pub(crate) fn builds(&self) -> Result<&SdkSession> {
        match self.can_build {
            true => Ok(&self.sdk),
            false => Err(Error::unsupported(
                "a program that embeds Python cannot build: `sys.executable` does not name a Python",
            )),
        }
    }
}

/// The command that starts the helper of this module; `None` when it is not known.
fn helper(py: Python<'_>) -> PyResult<Option<HelperCommand>> {
    let program: Option<PathBuf> = py.import("sys")?.getattr("executable")?.extract()?;
    let module: PathBuf = py.import("hyper_sdk._native")?.getattr("__file__")?.extract()?;
    let (Some(program), Some(folder)) = (program.filter(|p| p.is_absolute()), module.parent()) else {
        return Ok(None);
    };
    // Isolated (-I), without site (-S) and without writing byte code (-B): quick, and nothing of the caller's
    // environment decides what runs.
    let mut args: Vec<std::ffi::OsString> = ["-I", "-S", "-B", "-c", HELPER].map(Into::into).into();
    args.push(folder.into());
    Ok(Some(HelperCommand { program, args }))
}
