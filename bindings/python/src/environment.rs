//! Defaults from the environment, the same as those of the command line. They are read through Python, whose
//! `os.environ` is the only safe way in a process with threads.
//!
//! ```text
//!   state folder   root argument, $HYPER_ROOT, /var/lib/hyper for root, $XDG_DATA_HOME/hyper, ~/.local/share/hyper
//!   credentials    docker_config argument, $DOCKER_CONFIG, ~/.docker
//!   proxies        $https_proxy, $http_proxy, $all_proxy, $no_proxy
//! ```

use hyper_sdk::reference::RegistryHost;
use hyper_sdk::{Error, Result, private_folder};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

// HTTP_PROXY in upper case is not read: in CGI programs a client chooses it.
const NAMES: &[&str] = &[
    "HYPER_ROOT",
    "XDG_DATA_HOME",
    "HOME",
    "DOCKER_CONFIG",
    "PATH",
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Makes a folder that other users cannot enter, or closes it. That they could before is a `RuntimeWarning`.
///
/// # Errors
/// Those of [`private_folder::open`].
pub(crate) fn open_private(folder: &Path) -> Result<()> {
    if let Some(text) = private_folder::open(folder)?.warning {
        Python::attach(|py| {
            let category = py.get_type::<pyo3::exceptions::PyRuntimeWarning>();
            let warned =
                py.import("warnings").and_then(|module| module.call_method1("warn", (text, category)));
            if let Err(raised) = warned {
                // Warnings are errors here; this one must not keep anybody from the work.
                raised.write_unraisable(py, None);
            }
        });
    }
    Ok(())
}

/// The variables that matter.
#[derive(Clone)]
pub(crate) struct Environment {
    variables: BTreeMap<&'static str, String>,
    is_root: bool,
}

impl Environment {
    /// Reads `os.environ`. Empty variables count as absent.
    pub(crate) fn read(py: Python<'_>) -> PyResult<Self> {
        let os = py.import("os")?;
        let all = os.getattr("environ")?;
        let mut variables = BTreeMap::new();
        for name in NAMES {
            if let Some(value) = all.call_method1("get", (name,))?.extract::<Option<String>>()?
                && !value.is_empty()
            {
                variables.insert(*name, value);
            }
        }
        Ok(Self { variables, is_root: os.call_method0("geteuid")?.extract::<u32>()? == 0 })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The state folder when none is given.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        if let Some(root) = self.get("HYPER_ROOT") {
            return Ok(root.into());
        }
        if self.is_root {
            return Ok("/var/lib/hyper".into());
        }
        let data = self.get("XDG_DATA_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
        let data = data.or_else(|| Some(PathBuf::from(self.get("HOME")?).join(".local/share")));
        data.map(|folder| folder.join("hyper")).ok_or_else(|| {
            Error::invalid("there is no home folder to keep images in: give a state folder as `root`")
        })
    }

    /// The folder of Docker's `config.json` when none is given.
    pub(crate) fn docker_config(&self) -> Option<PathBuf> {
        let home = || Some(PathBuf::from(self.get("HOME")?).join(".docker"));
        self.get("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
    }

    /// Where programs are.
    pub(crate) fn path(&self) -> Vec<PathBuf> {
        std::env::split_paths(self.get("PATH").unwrap_or_default()).collect()
    }

    /// The proxy for a host.
    pub(crate) fn proxy(&self, host: &RegistryHost, tls: bool) -> Option<String> {
        if host.is_loopback() {
            return None;
        }
        let exempt = |entry: &str| {
            let entry = entry.trim().trim_start_matches("*.").trim_start_matches('.');
            let suffix = || host.name().strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
            entry == "*" || (!entry.is_empty() && (host.name() == entry || suffix()))
        };
        if self.first(&["no_proxy", "NO_PROXY"]).unwrap_or_default().split(',').any(exempt) {
            return None;
        }
        let names: &[&str] = if tls {
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            &["http_proxy", "all_proxy", "ALL_PROXY"]
        };
        self.first(names).map(str::to_owned)
    }
}
