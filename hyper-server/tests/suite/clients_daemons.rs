//! The clients of the matrix that are a daemon: docker and containerd. Each is started in folders of its own, and ends with its
//! test.

use super::clients::Client;
use super::clients_images::layout;
use super::clients_site::{Home, Said, clean};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A daemon with what it has started, in namespaces of mounts and processes: nothing of it outlives this value.
struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts a daemon by a script of the shell and waits until it answers; fails with the end of its log.
    fn start(folder: TempDir, script: &str, answers: impl Fn(&Path) -> bool) -> Result<Self, String> {
        let log = folder.path().join("log");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "sh",
            "-ec",
            script,
        ]);
        let file = fs::File::create(&log).unwrap();
        clean(&mut command).current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut daemon = Self { child: command.spawn().map_err(|e| e.to_string())?, folder };
        let start = Instant::now();
        while !answers(daemon.folder.path()) {
            let ended = daemon.child.try_wait().unwrap().is_some();
            if ended || start.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(&log).unwrap();
                let lines: Vec<&str> = log.lines().collect();
                return Err(lines[lines.len().saturating_sub(10)..].join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_socket_open(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// docker: its daemon asks the registry, with the password that the program sends along.
pub(super) struct Docker {
    program: PathBuf,
    daemon: Daemon,
}

impl Docker {
    pub(super) fn start(program: PathBuf, daemon: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etc", "run"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Certificates are read from /etc/docker, and nothing of the machine's own is in use.
        let script = format!(
            "mkdir -p /etc/docker; mount --bind etc /etc/docker; mount -t tmpfs tmpfs /run; exec {} \
             --data-root \"$PWD/data\" --exec-root \"$PWD/run\" --pidfile \"$PWD/pid\" \
             --host \"unix://$PWD/socket\" --storage-driver vfs --iptables=false --ip6tables=false --bridge=none",
            daemon.display()
        );
        let daemon = Daemon::start(folder, &script, |folder| is_socket_open(&folder.join("socket")))?;
        Ok(Self { program, daemon })
    }

    fn run(&self, home: &Home<'_>, arguments: &[&str], input: &str) -> Said {
        let socket = format!("unix://{}", self.daemon.path("socket"));
        home.run(&self.program, &[&["--host", &socket], arguments].concat(), input)
    }

    /// Gives the daemon the certificates of a home.
    fn trust(&self, home: &Home<'_>) {
        let folder = PathBuf::from(self.daemon.path("etc/certs.d")).join(&home.site.host);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&home.certificates).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }

    /// The id and the digest of an image.
    fn inspect(&self, home: &Home<'_>, image: &str) -> Vec<u8> {
        let format = "{{.Id}} {{index .RepoDigests 0}}";
        self.run(home, &["image", "inspect", "--format", format, image], "").expect().stdout().to_vec()
    }
}

impl Client for Docker {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        self.trust(home);
        Some(self.run(home, &["login", "-u", user, "--password-stdin", &home.site.host], password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        self.trust(home);
        let image = home.image(repository);
        self.run(home, &["import", "layer.tar", &image], "").expect();
        let said = self.run(home, &["push", &image], "");
        let content = if said.ok { self.inspect(home, &image) } else { Vec::new() };
        self.run(home, &["rmi", &image], "").expect();
        (said, content)
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        self.trust(home);
        let image = home.image(repository);
        let said = self.run(home, &["pull", &image], "");
        let content = if said.ok { self.inspect(home, &image) } else { Vec::new() };
        if said.ok {
            self.run(home, &["rmi", &image], "").expect();
        }
        (said, content)
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["unauthorized: ", "failed with status: 401 Unauthorized", "no basic auth credentials", "denied: "]
    }
}

/// containerd: it asks for a manifest first, and answers the challenge.
pub(super) struct Containerd {
    program: PathBuf,
    daemon: Daemon,
}

impl Containerd {
    pub(super) fn start(program: PathBuf, daemon: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("socket")
        );
        fs::write(path("config.toml"), config).unwrap();
        let script = format!("mount -t tmpfs tmpfs /run; exec {} --config config.toml", daemon.display());
        let answers = |folder: &Path| {
            let mut version = Command::new(&program);
            version.arg("--address").arg(folder.join("socket")).arg("version");
            is_socket_open(&folder.join("socket")) && version.output().unwrap().status.success()
        };
        let daemon = Daemon::start(folder, &script, answers)?;
        Ok(Self { program, daemon })
    }

    fn run(&self, home: &Home<'_>, arguments: &[&str]) -> Said {
        let own = ["--address", &self.daemon.path("socket"), "--namespace", "test", "images"];
        home.run(&self.program, &[&own, arguments].concat(), "")
    }

    /// The flags with which the registry is asked: its certificates, and the password.
    fn flags(home: &Home<'_>) -> Vec<String> {
        let host = &home.site.host;
        let folder = home.folder.join("hosts").join(host);
        fs::create_dir_all(&folder).unwrap();
        let mut trust = format!("ca = {:?}\n", home.ca());
        if home.has_certificate {
            let [certificate, key] = ["client.cert", "client.key"].map(|name| home.certificates.join(name));
            trust += &format!("client = [[{certificate:?}, {key:?}]]\n");
        }
        let url = format!("https://{host}");
        let hosts = format!("server = {url:?}\n{trust}[host.{url:?}]\n{trust}");
        fs::write(folder.join("hosts.toml"), hosts).unwrap();
        let mut flags = vec!["--hosts-dir".to_owned(), home.path("hosts")];
        if let Some((user, password)) = home.login {
            flags.extend(["--user".to_owned(), format!("{user}:{password}")]);
        }
        flags
    }

    /// The digest of an image that the daemon has, which it removes.
    fn remove(&self, home: &Home<'_>, image: &str) -> Vec<u8> {
        let list = self.run(home, &["ls"]).expect();
        let list = String::from_utf8(list.stdout().to_vec()).unwrap();
        let line = list.lines().find(|line| line.starts_with(&format!("{image} ")));
        let digest = line.unwrap().split_whitespace().find(|part| part.starts_with("sha256:")).unwrap();
        self.run(home, &["rm", "--sync", image]).expect();
        digest.to_owned().into_bytes()
    }
}

impl Client for Containerd {
    fn login(&self, _home: &Home<'_>) -> Option<Said> {
        None
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        let mut tar = Command::new("tar");
        let made = tar.args(["-C", "layout", "-cf", "layout.tar", "."]).current_dir(&home.folder).status();
        assert!(made.unwrap().success());
        let image = home.image(repository);
        let name = image.rsplit_once(':').unwrap().0;
        self.run(home, &["import", "--no-unpack", "--base-name", name, "layout.tar"]).expect();
        let flags = Self::flags(home);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let said = self.run(home, &[&["push"], &flags[..], &[&image]].concat());
        (said, self.remove(home, &image))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let image = home.image(repository);
        let flags = Self::flags(home);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let said = self.run(home, &[&["pull", "--snapshotter", "native"], &flags[..], &[&image]].concat());
        let content = if said.ok { self.remove(home, &image) } else { Vec::new() };
        (said, content)
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["authorization failed", "401 Unauthorized", "403 Forbidden"]
    }
}
