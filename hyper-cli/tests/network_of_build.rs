//! `--network private`: a network of the build, from which this machine is not reached.

use crate::rootless::ordinary_user;
use crate::support::{
    Built, Place, Who, base, busybox, find, is_root, missing, skip, succeed, told, wait_for,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PRIVATE: &str = "--network=private";
/// Programs beside which there is no such program.
const TOOLS: &[(&str, &[&str])] = &[("pasta", &[]), ("slirp4netns", &["pasta"])];

macro_rules! needs_network {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
        if !is_root() {
            skip!("this takes root, who may open /dev/net/tun everywhere");
        }
        if let Some(tool) = missing(&["pasta", "slirp4netns", "unshare", "setpriv", "ip"]) {
            skip!("there is no {tool}");
        }
        if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            skip!("there is no /dev/net/tun");
        }
    };
}

/// The command after a script, with mounts of its own.
fn after(script: &str, program: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(program.get_program()).args(program.get_args()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(program.get_current_dir().unwrap()).stdin(Stdio::null());
    command
}

/// A script that hides programs of this machine, wherever they are.
fn without(tools: &[&str]) -> String {
    let mut script = String::from("set -e\n");
    for tool in tools {
        for folder in ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/current-system/sw/bin"] {
            script +=
                &format!("if test -e {folder}/{tool}; then mount --bind /dev/null {folder}/{tool}; fi\n");
        }
    }
    script
}

/// Opens the device to every user.
const OPEN_DEVICE: &str = "set -e; mount -t tmpfs none /dev/net; mknod -m 666 /dev/net/tun c 10 200";

fn built(output: &Output) -> Built {
    assert!(output.status.success(), "{}", told(output));
    Built::of(output)
}

fn failed(command: &mut Command, why: &[&str]) {
    let output = command.output().unwrap();
    let text = told(&output);
    assert!(!output.status.success() && why.iter().all(|why| text.contains(why)), "{why:?}: {text}");
    assert!(!Built::of(&output).log().contains("ran"), "{text}");
}

/// Answers every connection with a word and closes it.
fn answers(listener: TcpListener) -> u16 {
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(b"answered\n"));
        }
    });
    port
}

/// A command that says whether an address answers at a port. Its input is a pipe that does not end: `nc` would say so to the
/// other side, and pasta of 2023 then loses the answer, for which `nc` waits without end.
fn asks(address: &str, port: u16) -> String {
    format!("timeout 5 nc -w 1 {address} {port} <>/tmp/pipe 2>/dev/null | sed \"s/^/{address} /\"")
}

/// A step that says which of these addresses answer at a port.
fn tries(addresses: &[(&str, u16)]) -> String {
    let commands: Vec<String> = addresses.iter().map(|(address, port)| asks(address, *port)).collect();
    format!("RUN mkfifo /tmp/pipe; {}; true\n", commands.join("; "))
}

fn own_network() -> String {
    std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string()
}

/// Services on what belongs to this machine alone, and a step that looks for them.
struct Host {
    step: String,
    /// What the step finds on the network of the host.
    all: String,
    _socket: UnixListener,
}

impl Host {
    fn new() -> Self {
        let first = answers(TcpListener::bind("127.0.0.1:0").unwrap());
        let mut all = String::from("127.0.0.1 answered\n");
        let mut second = 1;
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            second = answers(listener);
            all += "::1 answered\n";
        }
        let name = format!("hyper-test-{}-{first}", std::process::id());
        let socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        all += &format!("@{name}\n");
        let gateway = "$(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p')";
        let step = format!(
            "{}RUN grep -o '@{name}$' /proc/net/unix; for a in 10.0.2.2 {gateway}; do {}; done; true\n",
            tries(&[("127.0.0.1", first), ("::1", second)]),
            asks("$a", first)
        );
        Self { step, all, _socket: socket }
    }
}

#[test]
fn steps_share_a_network_from_which_this_machine_is_not_reached() {
    needs_network!();
    let place = Place::new();
    let host = Host::new();
    let on_host = place.built(&format!("FROM base\n{}", host.step), &[]);
    assert_eq!(on_host.log(), host.all);
    let sees = "RUN readlink /proc/self/ns/net; grep nameserver /etc/resolv.conf; grep -c : /proc/net/dev\n";
    let dockerfile = format!("FROM base\n{sees}RUN readlink /proc/self/ns/net\n{}", host.step);
    for ((_, hidden), nameserver) in TOOLS.iter().zip(["169.254.1.1", "10.0.2.3"]) {
        let command = place.build(&dockerfile, &[PRIVATE, "--no-cache"]);
        let built = built(&after(&without(hidden), &command).output().unwrap());
        let log = built.log();
        let (first, rest) = log.split_once('\n').unwrap();
        assert_eq!(
            rest,
            format!("nameserver {nameserver}\n2\n{first}\n"),
            "the steps share it, and see nothing"
        );
        assert!(first.starts_with("net:[") && first != own_network(), "{log}");
    }
}

/// A network namespace with two addresses and a default route, in which a test may do as it likes.
struct Scene(Child);

impl Scene {
    const SETUP: &str = "set -e; ip link set lo up; ip link add v0 type veth peer name v1; \
        ip addr add 192.0.2.9/24 dev v0; ip addr add 198.51.100.7/24 dev v1; \
        ip -6 addr add 2001:db8::9/64 dev v0 nodad; ip -6 addr add 2001:db8:1::7/64 dev v1 nodad; \
        ip link set v0 up; ip link set v1 up; ip route add default via 192.0.2.1; \
        ip -6 route add default via 2001:db8::1; echo ready; exec sleep 1000";

    fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        let mut child = command.args(["-n", "sh", "-c", Self::SETUP]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let scene = Self(child);
        (line == "ready\n").then_some(scene)
    }

    /// Runs something there.
    fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let there = || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(there).join().unwrap())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers each question about a name with this address.
fn resolves(socket: UdpSocket, address: [u8; 4]) {
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let mut answer = bytes[..length].to_vec();
            let is_a = answer[length - 4..] == [0, 1, 0, 1];
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = u8::from(is_a);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
                answer.extend(address);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn a_step_reaches_the_outside_and_the_resolver_of_this_machine() {
    needs_network!();
    let Some(scene) = Scene::new() else { skip!("this machine has no pairs of interfaces (veth)") };
    let place = Place::new();
    let resolv = place.write("resolv", "nameserver 127.0.0.1\n").display().to_string();
    let (own, interface, four, six) = scene.run(|| {
        resolves(UdpSocket::bind("127.0.0.1:53").unwrap(), [203, 0, 113, 5]);
        let bind = |address: &str| answers(TcpListener::bind((address, 0)).unwrap());
        (bind("127.0.0.1"), bind("192.0.2.9"), bind("198.51.100.7"), bind("2001:db8:1::7"))
    });
    let other = [("192.0.2.9", interface), ("198.51.100.7", four), ("2001:db8:1::7", six)];
    let step = tries(&[&[("127.0.0.1", own), ("192.0.2.1", own)], &other[..]].concat());
    let dockerfile =
        format!("FROM base\n{step}RUN nslookup -type=a name.example | grep -o '203.0.113.5'; true\n");
    for (tool, hidden) in TOOLS {
        let command = place.build(&dockerfile, &[PRIVATE, "--no-cache"]);
        let script = format!("{}mount --bind {resolv} /etc/resolv.conf", without(hidden));
        let output = scene.run(|| after(&script, &command).output().unwrap());
        let outside = match *tool {
            // A step has the address of the interface itself.
            "pasta" => "198.51.100.7 answered\n2001:db8:1::7 answered\n203.0.113.5\n",
            // It speaks no IPv6.
            _ => "192.0.2.9 answered\n198.51.100.7 answered\n203.0.113.5\n",
        };
        assert_eq!(built(&output).log(), outside, "{tool}");
    }
}

#[test]
fn the_key_of_a_step_has_its_network_and_the_image_is_the_same() {
    needs_network!();
    let place = Place::new();
    let dockerfile = "FROM base\nRUN echo text > /file\n";
    let epoch = "--source-date-epoch=1700000000";
    let ran = |built: &Built| {
        built.outcomes().iter().filter(|(name, outcome)| name.contains("RUN") && *outcome == "done").count()
    };
    let mut digests = BTreeSet::new();
    for (flags, runs) in [(&[epoch][..], 1), (&[epoch, PRIVATE], 1), (&[epoch, PRIVATE], 0), (&[epoch], 0)] {
        let built = place.built(dockerfile, flags);
        assert_eq!(ran(&built), runs, "{flags:?}: {:?}", built.outcomes());
        digests.insert(built.digest);
    }
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_step_may_choose_another_network() {
    needs_network!();
    let place = Place::new();
    let offline = place.built("FROM base\nRUN --network=none ip addr | grep -c LOWER_UP\n", &[PRIVATE]);
    assert_eq!(offline.log(), "1\n");
    let host = "FROM base\nRUN --network=host readlink /proc/self/ns/net\n";
    let output = place.build(host, &[PRIVATE]).output().unwrap();
    assert!(!output.status.success() && told(&output).contains("network.host"), "{}", told(&output));
    assert_eq!(place.built(host, &[PRIVATE, "--allow=network.host"]).log().trim(), own_network());
}

#[test]
fn a_target_of_bake_has_a_private_network() {
    needs_network!();
    let place = Place::new();
    std::fs::create_dir_all(place.join("context")).unwrap();
    let step = "FROM base\\nRUN readlink /proc/self/ns/net; grep -c : /proc/net/dev\\n";
    let target = format!(
        "target \"default\" {{\n  context = \"context\"\n  contexts = {{ base = \"oci-layout://{base}\" }}\n  \
         dockerfile-inline = \"{step}\"\n  network = \"private\"\n}}\n",
        base = base().display()
    );
    place.write("docker-bake.hcl", &target);
    let read = format!("--allow=fs.read={}", base().display());
    let output = place.hyper(&["bake", "--progress=json", &read]).output().unwrap();
    let log = built(&output).log();
    assert!(log.starts_with("net:[") && !log.contains(&own_network()) && log.ends_with("]\n2\n"), "{log}");
}

#[test]
fn what_a_private_network_cannot_have_is_refused_before_anything_runs() {
    needs_network!();
    let place = Place::new();
    let dockerfile = "FROM base\nRUN --network=none echo ran\nRUN echo ran\n";
    let build = |flags: &[&str]| place.build(dockerfile, &[&[PRIVATE], flags].concat());
    failed(&mut build(&["--add-host=me:host-gateway"]), &["`me:host-gateway` is this machine", "`host`"]);
    failed(&mut build(&["--isolation=none"]), &["the network `private`", "full isolation"]);
    for runtime in ["runc", "crun"].into_iter().filter(|runtime| find(runtime).is_some()) {
        let why = ["the network `private`", runtime, "native executor"];
        failed(&mut build(&[&format!("--executor={runtime}")]), &why);
    }
    failed(
        &mut after(&without(&["pasta", "slirp4netns"]), &build(&[])),
        &["the network `private`", "package `passt`", "package `slirp4netns`"],
    );
    let device = "set -e; mount -t tmpfs none /dev/net";
    failed(&mut after(device, &build(&[])), &["the network `private` needs `/dev/net/tun`", "`host`"]);
    // Without the option all of this is as before.
    assert!(place.built("FROM base\nRUN echo other\n", &["--add-host=me:host-gateway"]).log() == "other\n");
}

#[test]
fn what_a_program_for_networks_says_before_it_ends_is_told() {
    needs_network!();
    let place = Place::new();
    let pasta = find("pasta").unwrap().display().to_string();
    let failing = place.write_program("failing", "#!/bin/sh\necho cannot do it >&2\nexit 1\n");
    let killed = place.write_program("killed", "#!/bin/sh\necho cannot do it\nkill -9 $$\n");
    for program in [failing, killed] {
        let script = format!("set -e; mount --bind {} {pasta}", program.display());
        let command = place.build("FROM base\nRUN echo ran\n", &[PRIVATE]);
        let why = ["the network `private` cannot be made: pasta has ended", "cannot do it"];
        failed(&mut after(&script, &command), &why);
    }
}

#[test]
fn an_ordinary_user_has_a_private_network_where_the_device_is_open() {
    needs_network!();
    let host = Host::new();
    for who in ordinary_user().into_iter().chain([Who::Id(45_692)]) {
        let place = Place::of(who.clone());
        let dockerfile = format!("FROM base\nRUN grep -c : /proc/net/dev\n{}", host.step);
        let closed = "set -e; mount -t tmpfs none /dev/net; mknod -m 600 /dev/net/tun c 10 200";
        failed(
            &mut after(closed, &place.build(&dockerfile, &[PRIVATE])),
            &["needs `/dev/net/tun`, and this user cannot open it"],
        );
        for (tool, hidden) in TOOLS {
            let command = place.build(&dockerfile, &[PRIVATE, "--no-cache"]);
            let script = format!("{OPEN_DEVICE}\n{}", without(hidden));
            let output = after(&script, &command).output().unwrap();
            assert_eq!(built(&output).log(), "2\n", "{who:?} {tool}");
        }
    }
}

/// A process and everything below it.
fn below(top: u32) -> Vec<u32> {
    let (mut found, mut todo) = (Vec::new(), vec![top]);
    while let Some(pid) = todo.pop() {
        found.push(pid);
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            todo.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// The program for networks among these processes. pasta goes on as that of passt for this kind of processor.
fn tool_of(all: &[u32]) -> u32 {
    let is_one = |pid: u32| ["pasta", "passt", "slirp4netns"].iter().any(|tool| name(pid).starts_with(tool));
    let found = all.iter().copied().find(|pid| is_one(*pid));
    found.unwrap_or_else(|| panic!("{:?}", all.iter().map(|pid| name(*pid)).collect::<Vec<_>>()))
}

/// What the kernel says of a process under a name; nothing when there is none any more.
fn status(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
}

fn parent(pid: u32) -> u32 {
    status(pid, "PPid:").trim().parse().unwrap()
}

/// What a process has open that another one could have, too.
fn shared_files(pid: u32) -> BTreeSet<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    files
        .filter(|file| ["socket:", "pipe:"].iter().any(|kind| file.to_str().unwrap().starts_with(kind)))
        .collect()
}

/// A build whose first step has begun: it says `begun`.
fn begun(place: &Place, script: &str, step: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    let build = place.build(&format!("FROM base\nRUN {step}\n"), &[PRIVATE, "--no-cache"]);
    let mut child = after(script, &build).process_group(0).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("begun\\n")));
    (child, lines)
}

/// The processes of this machine that are in a network namespace.
fn processes_in(network: &Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|own| own == network))
        .count()
}

#[test]
fn nothing_of_a_private_network_outlives_its_build() {
    needs_network!();
    let place = Place::new();
    for (tool, hidden) in TOOLS {
        for end in ["end", "interrupt", "kill", "kill the client"] {
            let step = if end == "end" { "echo begun; sleep 1" } else { "echo begun; sleep 60" };
            let (mut child, lines) = begun(&place, &without(hidden), step);
            let all = below(child.id());
            let program = tool_of(&all);
            assert!(name(program).starts_with(&tool[..3]), "{tool} {}", name(program));
            let others = all.iter().filter(|pid| **pid != program).flat_map(|pid| shared_files(*pid));
            let shared: Vec<_> = others.filter(|file| shared_files(program).contains(file)).collect();
            assert_eq!(shared, Vec::<PathBuf>::new(), "{tool} has what belongs to the builder");
            // That of the step, and of pid 1 of the network.
            let networks: BTreeSet<_> =
                all.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()).collect();
            let network = networks.iter().find(|name| name.as_os_str() != own_network().as_str()).unwrap();
            assert!(processes_in(network) >= 2, "{networks:?}");
            let id = child.id();
            match end {
                "interrupt" => drop(succeed(Command::new("kill").args(["-INT", "--", &format!("-{id}")]))),
                "kill" => drop(succeed(Command::new("kill").args(["-KILL", "--", &format!("-{id}")]))),
                "kill the client" => child.kill().unwrap(),
                _ => {}
            }
            drop(lines);
            assert_eq!(child.wait().unwrap().success(), end == "end", "{tool} {end}");
            // What has ended and was not waited for has no namespaces.
            let ended = |pid: &u32| !Path::new(&format!("/proc/{pid}/ns/pid")).exists();
            wait_for(&format!("{tool}, {end}: the processes"), || all.iter().all(ended));
            wait_for(&format!("{tool}, {end}: the namespace"), || processes_in(network) == 0);
            assert!(!Path::new("/tmp/hyper-network").exists());
        }
    }
}

/// Sends to addresses of the loopback interface by every other one, in each way that a program without rights has, and then
/// to its own listener.
const BY_INTERFACE: &str = r#"
import socket, struct, sys
udp4, udp6, tcp4, tcp6 = map(int, sys.argv[1:])
for name in [name for _, name in socket.if_nameindex() if name != "lo"]:
    index = socket.if_nametoindex(name)
    for family, address, udp, tcp in ((socket.AF_INET, "127.0.0.1", udp4, tcp4), (socket.AF_INET, "127.9.9.9", udp4, tcp4),
                                      (socket.AF_INET6, "::1", udp6, tcp6)):
        for kind, port in ((socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp)):
            with socket.socket(family, kind) as s:
                s.settimeout(0.3)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
                try:
                    s.connect((address, port))
                    s.send(b"bound")
                except OSError:
                    pass
        four = family == socket.AF_INET
        info = struct.pack("I4s4s", index, bytes(4), bytes(4)) if four else struct.pack("16sI", bytes(16), index)
        level = (socket.IPPROTO_IP, 8) if four else (socket.IPPROTO_IPV6, 50)
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                s.sendmsg([b"info"], [(*level, info)], 0, (address, udp))
            except OSError:
                pass
    print("tried", len(name) > 0)
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.socket(family, socket.SOCK_STREAM) as listener, socket.socket(family, socket.SOCK_STREAM) as s:
        listener.bind((address, 0))
        listener.listen()
        s.settimeout(5)
        s.connect(listener.getsockname())
        print("own", address)
"#;

#[test]
fn a_socket_that_names_an_interface_does_not_reach_the_loopback_of_this_machine() {
    needs_network!();
    if let Some(tool) = missing(&["python3", "nsenter"]) {
        skip!("there is no {tool}");
    }
    if UdpSocket::bind("[::1]:0").is_err() {
        skip!("this machine has no IPv6");
    }
    let place = Place::new();
    for (tool, hidden) in TOOLS {
        let udp = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let tcp = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let ports = [udp[0].local_addr(), udp[1].local_addr(), tcp[0].local_addr(), tcp[1].local_addr()]
            .map(|address| address.unwrap().port().to_string());
        let (mut child, lines) = begun(&place, &without(hidden), "echo begun; sleep 60");
        let of_step = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|name| name.as_os_str() != own_network().as_str())
        };
        let step = below(child.id()).into_iter().find(of_step).unwrap();
        let mut python = Command::new("nsenter");
        python.arg(format!("--net=/proc/{step}/ns/net")).args(["python3", "-c", BY_INTERFACE]).args(ports);
        let said = succeed(&mut python);
        assert_eq!(said, "tried True\nown 127.0.0.1\nown ::1", "{tool}");
        for socket in &udp {
            socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            let mut bytes = [0; 16];
            assert!(socket.recv(&mut bytes).is_err(), "{tool}: {}", String::from_utf8_lossy(&bytes));
        }
        for listener in &tcp {
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "{tool}");
        }
        child.kill().unwrap();
        drop(lines);
        child.wait().unwrap();
    }
}

#[test]
fn a_step_after_the_end_of_the_program_is_told_so() {
    needs_network!();
    let place = Place::new();
    // The process that keeps the network may hear late of the end of the program.
    for ((tool, hidden), late) in TOOLS.iter().flat_map(|tool| [(tool, false), (tool, true)]) {
        let step = "count() { grep -c : /proc/net/dev; }; b=$(count); echo begun; n=0; \
                    while test $(count) = $b -a $n -lt 300; do sleep 0.1; n=$((n+1)); done; \
                    test $(count) = $b || echo alone\nRUN echo ran";
        let (mut child, lines) = begun(&place, &without(hidden), step);
        let program = tool_of(&below(child.id()));
        // The one that started the program may still be there for a moment.
        while !status(parent(program), "NSpid:").ends_with("\t1") {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if late {
            succeed(Command::new("kill").args(["-STOP", &parent(program).to_string()]));
        }
        succeed(Command::new("kill").args(["-KILL", &program.to_string()]));
        let text: Vec<String> = lines.collect();
        assert!(!child.wait().unwrap().success(), "{text:?}");
        let text = text.join("\n");
        assert!(text.contains("alone\\n"), "the interface goes with {tool}: {text}");
        assert!(text.contains("the network `private` of the build is gone"), "{tool}: {text}");
    }
}
