//! Defaults from the environment, the same as those of the command line. They are read through Python, whose
//! `os.environ` is the only safe way in a process with threads.
//!
//! ```text
//!   state folder   root argument, $HYPER_ROOT, /var/lib/hyper for root, $XDG_DATA_HOME/hyper, ~/.local/share/hyper
//!   credentials    docker_config argument, $DOCKER_CONFIG, ~/.docker
//!   proxies        $https_proxy, $http_proxy, $all_proxy, $no_proxy, in capitals too
//!   certificates   certs.d of ~/.config/containers, ~/.config/docker, /etc/containers, /etc/docker
//! ```

use hyper_sdk::client::Proxies;
use hyper_sdk::{Error, Result, private_folder};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NAMES: &[&str] = &["HYPER_ROOT", "XDG_DATA_HOME", "HOME", "DOCKER_CONFIG", "PATH"];

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
        for name in NAMES.iter().chain(Proxies::VARIABLES) {
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

    /// The proxies of the environment.
    pub(crate) fn proxies(&self) -> Proxies {
        Proxies::from_variables(|name| self.get(name).map(str::to_owned))
    }

    /// Where certificates for registries are looked for.
    pub(crate) fn certificate_folders(&self) -> Vec<PathBuf> {
        let home = self.get("HOME").map(PathBuf::from);
        let own =
            home.iter().flat_map(|home| ["containers", "docker"].map(|tool| home.join(".config").join(tool)));
        let all = own.chain(["/etc/containers", "/etc/docker"].map(PathBuf::from));
        all.map(|folder| folder.join("certs.d")).collect()
    }
}
