//! Settings from the environment of a program: folders, proxies, certificates, credential helpers.
//!
//! ```text
//!   state folder   $HYPER_ROOT, /var/lib/hyper for root, $XDG_DATA_HOME/hyper, ~/.local/share/hyper
//!   credentials    $DOCKER_CONFIG/config.json, ~/.docker/config.json; credential helpers in the folders of $PATH
//!   proxies        $https_proxy, $http_proxy, $all_proxy, $no_proxy, in capitals too
//!   S3             $AWS_…, and the files in ~/.aws: see [`AwsEnvironment`]
//!   certificates   certs.d of ~/.config/containers, ~/.config/docker, /etc/containers, /etc/docker
//! ```

use crate::client::{EngineAddresses, Proxies};
use crate::s3::AwsEnvironment;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folders and proxies that the variables of a program name. An empty variable counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The state folder; `None` when there is no home folder to put it into.
    pub root: Option<PathBuf>,
    /// The folder of the `config.json` with credentials; `None` when there is no home folder.
    pub config: Option<PathBuf>,
    /// The home folder.
    pub home: Option<PathBuf>,
    /// The folders of the credential helpers that the `config.json` names.
    pub helper_folders: Vec<PathBuf>,
    /// The folders with certificates for registries, in order.
    pub certificate_folders: Vec<PathBuf>,
    /// The proxies of registries and of the web.
    pub proxies: Proxies,
    /// Where engines that run containers may listen.
    pub engines: EngineAddresses,
    /// What the AWS tools have for buckets of S3.
    pub aws: AwsEnvironment,
}

impl Defaults {
    /// Reads the variables. `|name| std::env::var_os(name)` gives those of the process.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        Self::read(variable, rustix::process::geteuid().is_root())
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = folder("HOME");
        let in_home = |path: &str| home.as_deref().map(|home| home.join(path));
        let data = || {
            let named = folder("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
            named.or_else(|| in_home(".local/share")).map(|data| data.join("hyper"))
        };
        let root =
            folder("HYPER_ROOT").or_else(|| if is_root { Some("/var/lib/hyper".into()) } else { data() });
        let own = [".config/containers", ".config/docker"].into_iter().filter_map(in_home);
        let all = own.chain(["/etc/containers", "/etc/docker"].map(PathBuf::from));
        Self {
            root,
            home: home.clone(),
            config: folder("DOCKER_CONFIG").or_else(|| in_home(".docker")),
            // An empty entry is the current folder, where anyone may have put programs.
            helper_folders: std::env::split_paths(&variable("PATH").unwrap_or_default())
                .filter(|folder| !folder.as_os_str().is_empty())
                .collect(),
            certificate_folders: all.map(|folder: PathBuf| folder.join(Path::new("certs.d"))).collect(),
            proxies: Proxies::from_variables(|name| variable(name)?.into_string().ok()),
            aws: AwsEnvironment::from_variables(variable),
            engines: EngineAddresses::from_variables(variable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)], is_root: bool) -> Defaults {
        let variable = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Defaults::read(variable, is_root)
    }

    #[test]
    fn root_has_a_state_folder_of_the_system() {
        assert_eq!(of(&[("HOME", "/root")], true).root, Some("/var/lib/hyper".into()));
        assert_eq!(of(&[("HYPER_ROOT", "/x")], true).root, Some("/x".into()));
    }

    #[test]
    fn the_state_folder_of_a_user_is_in_the_data_folder() {
        for (pairs, root) in [
            (&[("HOME", "/home/me")][..], Some("/home/me/.local/share/hyper")),
            (&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")], Some("/data/hyper")),
            (&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")], Some("/home/me/.local/share/hyper")),
            (&[("HOME", "/home/me"), ("HYPER_ROOT", "")], Some("/home/me/.local/share/hyper")),
            (&[("XDG_DATA_HOME", "/data"), ("HYPER_ROOT", "here")], Some("here")),
            (&[("HOME", "")], None),
        ] {
            assert_eq!(of(pairs, false).root, root.map(PathBuf::from), "{pairs:?}");
        }
    }

    #[test]
    fn credentials_and_certificates_are_in_the_folders_of_container_tools() {
        let found = of(&[("HOME", "/h"), ("PATH", "/a::/b:"), ("https_proxy", "p:1")], false);
        assert_eq!(found.home, Some("/h".into()));
        assert_eq!(found.config, Some("/h/.docker".into()));
        assert_eq!(found.helper_folders, ["/a", "/b"].map(PathBuf::from));
        let folders = ["/h/.config/containers", "/h/.config/docker", "/etc/containers", "/etc/docker"];
        assert_eq!(found.certificate_folders, folders.map(|folder| Path::new(folder).join("certs.d")));
        assert!(found.proxies.for_url(&url::Url::parse("https://r.example").unwrap()).is_some());
        let found = of(&[("DOCKER_CONFIG", "/d")], false);
        assert_eq!((found.config, found.certificate_folders.len()), (Some("/d".into()), 2));
        assert!(found.helper_folders.is_empty());
    }
}
