"""The builders that the benches time: hyperbuild, buildah, and BuildKit with a daemon of its own."""
import json, os, re, shutil, signal, subprocess, time


class Failed(Exception):
    pass


def call(command, environment=None):
    """Runs a command. Returns its wall time in seconds, what its steps said of their own time, and its peak of memory
    in bytes: that of its largest process."""
    began = time.perf_counter()
    started = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace")
    output = started.stdout.read()
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - began
    if started.returncode:
        raise Failed(f"{' '.join(command[:3])} … failed:\n{output[-3000:]}")
    own = sum(int(own) for own in re.findall(r"^(?!.*\$).*\bown=(\d+)\s*$", output, re.M)) / 1000
    return took, own, used.ru_maxrss << 10


class Hyper:
    """hyperbuild, with a state folder of its own; as an ordinary user when one is named."""

    def __init__(self, program, work, bases, ca=None, name="hyperbuild", user=None):
        self.name, self.program, self.bases, self.ca = name, program, bases, ca
        self.folder = os.path.join(work, user or "root")
        self.states, self.prefix = 0, []
        if user:
            self.prefix = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env"]
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if user:
            shutil.chown(self.folder, user)
        self.reset()

    def reset(self):
        """An empty state folder, beside the old ones: ext4 looks past the inodes that were removed in the last minutes, and takes
        longer for each new file, so they are removed at the end."""
        self.states += 1
        self.root = os.path.join(self.folder, f"hyper-{self.states}")

    def build(self, context, out, attributes=""):
        # The user writes into a folder of its own.
        written = os.path.join(self.folder, "out.tar") if self.prefix else out
        command = [*self.prefix, self.program, "--root", self.root, "build", "--progress", "plain", "--output", f"type=oci,dest={written}{attributes}"]
        command += ["--secret", f"id=ca,src={self.ca}"] if self.ca else []
        for name, (folder, _) in self.bases.items():
            command += ["--build-context", f"{name}=oci-layout://{folder}:latest"]
        took = call([*command, context])
        if written != out:
            shutil.move(written, out)
        return took

    def close(self):
        subprocess.run(["rm", "-rf", self.folder], check=True)


class BuildKit:
    """The newest BuildKit that is installed, with a daemon of its own."""
    name = "buildkit"

    def __init__(self, work, bases, ca=None):
        self.root, self.bases, self.ca = os.path.join(work, "buildkit"), bases, ca
        os.makedirs(self.root, exist_ok=True)
        self.address = f"unix://{self.root}/socket"
        log = open(os.path.join(self.root, "log"), "w")
        self.daemon = subprocess.Popen(
            ["buildkitd", "--addr", self.address, "--root", self.root + "/state", "--oci-worker=true", "--containerd-worker=false",
             "--oci-worker-net=host", "--oci-worker-snapshotter=overlayfs"], stdout=log, stderr=log)
        for _ in range(100):
            if subprocess.run(["buildctl", "--addr", self.address, "debug", "workers"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed("buildkitd does not answer: see " + log.name)

    def reset(self):
        call(["buildctl", "--addr", self.address, "prune", "--all"])

    def build(self, context, out, attributes=""):
        command = ["buildctl", "--addr", self.address, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
                   "--local", f"context={context}", "--local", f"dockerfile={context}", "--output", f"type=oci,dest={out}{attributes}"]
        command += ["--secret", f"id=ca,src={self.ca}"] if self.ca else []
        for name, (folder, digest) in self.bases.items():
            command += ["--oci-layout", f"{name}={folder}", "--opt", f"context:{name}=oci-layout://{name}:latest@{digest}"]
        return call(command)

    def close(self):
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
        shutil.rmtree(self.root, ignore_errors=True)


class Podman:
    """Runs images of OCI archives, with a storage of its own."""

    def __init__(self, work):
        self.root = os.path.join(work, "podman")
        self.command = ["podman", "--root", self.root + "/r", "--runroot", self.root + "/rr", "--storage-driver", "overlay",
                        "--runtime", "runc"]

    def output_of(self, archive, command):
        """What a command writes in a container of the image in an archive."""
        pulled = subprocess.run([*self.command, "pull", "-q", f"oci-archive:{archive}"], capture_output=True, text=True)
        if pulled.returncode:
            raise Failed("podman pull: " + pulled.stderr)
        image = pulled.stdout.split()[-1]
        # Its defaults are above the hard limits of some machines.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=32768:32768"]
        ran = subprocess.run([*self.command, "run", "--rm", "--network", "host", *limits, image, *command], capture_output=True, text=True)
        subprocess.run([*self.command, "rmi", "-f", image], capture_output=True)
        if ran.returncode:
            raise Failed(f"podman run {' '.join(command)}: {ran.stderr}")
        return ran.stdout

    def close(self):
        subprocess.run([*self.command, "rmi", "-a", "-f"], capture_output=True)
        subprocess.run(["umount", self.root + "/r/overlay"], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


class Buildah:
    """buildah, with a storage of its own: it builds, then pushes into an archive. It has no zstd."""
    name = "buildah"

    def __init__(self, work, bases):
        self.root, self.bases = os.path.join(work, "buildah"), bases
        self.storage = ["buildah", "--root", self.root + "/r", "--runroot", self.root + "/rr", "--storage-driver", "overlay"]

    def reset(self):
        self.close()
        os.makedirs(self.root)
        for name, (folder, _) in self.bases.items():
            pull = [*self.storage, "pull", "-q", f"oci:{folder}:latest"]
            # It writes the ID of the image that it pulled.
            pulled = subprocess.run(pull, capture_output=True, text=True, check=True).stdout.split()[-1]
            call([*self.storage, "tag", pulled, f"localhost/{name}"])

    def build(self, context, out, attributes=""):
        if "zstd" in attributes:
            raise Failed("it writes no zstd")
        took = call([*self.storage, "build", "--isolation", "chroot", "--layers", "--jobs", "4", "-q", "-t", "x", context])
        pushed = call([*self.storage, "push", "-q", "localhost/x", f"oci-archive:{out}"])
        os.remove(out)
        return took[0] + pushed[0], took[1], max(took[2], pushed[2])

    def close(self):
        if os.path.exists(self.root):
            subprocess.run([*self.storage, "rmi", "-a", "-f"], capture_output=True)
        # buildah leaves the folder of its overlays mounted on itself.
        subprocess.run(["umount", self.root + "/r/overlay"], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


def digest_of(layout):
    return json.load(open(os.path.join(layout, "index.json")))["manifests"][0]["digest"]


def buildkit_is_missing():
    """Why BuildKit cannot be timed here; nothing when it can."""
    if os.geteuid() == 0 and all(shutil.which(name) for name in ("buildkitd", "buildctl", "runc")):
        return None
    return "BuildKit is not timed: it needs root, buildkitd, buildctl and runc"
