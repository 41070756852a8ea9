#!/usr/bin/env python3
"""Time hyperbuild beside buildah on the same work, in one run, as ratios.

    side_by_side.py HYPERBUILD [--rows steps,cached,files,gzip,zstd,parallel] [--rounds N]

Every row is run in turn by each program, the best of N rounds counts, and each cold run starts with an empty state
folder. Needs busybox (a static one) for the base image. buildah is left out, and said to be, when it is not installed.
The figures of one machine say little: compare the ratios.
"""
import argparse, contextlib, json, os, resource, secrets, shutil, subprocess, sys, tempfile, time
import hashlib, io, tarfile


def layout(folder, busybox):
    """A busybox base image as an OCI image layout."""
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w") as tar:
        for name in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        data = open(busybox, "rb").read()
        info = tarfile.TarInfo("bin/busybox")
        info.size, info.mode = len(data), 0o755
        tar.addfile(info, io.BytesIO(data))
        for applet in ("sh", "echo", "sleep", "cat", "true"):
            info = tarfile.TarInfo("bin/" + applet)
            info.type, info.linkname, info.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            tar.addfile(info)
    os.makedirs(os.path.join(folder, "blobs/sha256"))

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(folder, "blobs/sha256", digest), "wb") as f:
            f.write(data)
        return {"mediaType": "application/vnd.oci.image." + media_type, "digest": "sha256:" + digest, "size": len(data)}

    tar = buf.getvalue()
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]}, "history": [{"created_by": "side_by_side"}],
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": [blob(tar, "layer.v1.tar")]}
    descriptor = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    json.dump({"schemaVersion": 2, "manifests": [descriptor]}, open(os.path.join(folder, "index.json"), "w"))
    open(os.path.join(folder, "oci-layout"), "w").write('{"imageLayoutVersion":"1.0.0"}')


def contexts(work):
    """name -> (Dockerfile, context folder)."""
    def make(name, text):
        path = os.path.join(work, name)
        os.makedirs(path)
        open(os.path.join(path, "Dockerfile"), "w").write(text)
        return path

    rows = {"steps": make("steps", "FROM base\n" + "".join(f"RUN echo {i}\n" for i in range(20)))}
    files = rows["files"] = make("files", "FROM scratch\nCOPY tree /tree\n")
    for i in range(20000):
        folder = os.path.join(files, "tree", str(i // 200))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, str(i)), "wb") as f:
            f.write(hashlib.sha256(str(i).encode()).digest() * 61)
    big = rows["gzip"] = make("gzip", "FROM scratch\nCOPY big /big\n")
    block = os.urandom(1 << 20)
    with open(os.path.join(big, "big"), "wb") as f:
        for i in range(512):
            f.write(block[: 512 << 10] + bytes(f"{i:08}" * (64 << 10), "ascii"))
    rows["zstd"] = big
    stages = "".join(f"FROM base AS s{i}\nRUN sleep 2 && echo {i} > /{i}\n" for i in range(4))
    rows["parallel"] = make("parallel", stages + "FROM scratch\n" + "".join(f"COPY --from=s{i} /{i} /\n" for i in range(4)))
    return rows


def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout


def timed(command, environment=None):
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - began, max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


@contextlib.contextmanager
def workspace():
    """A folder for all rows. buildah makes the name of an image of it, so not every name will do."""
    folder = os.path.join(tempfile.gettempdir(), "side-by-side-" + secrets.token_hex(8))
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hyperbuild")
    parser.add_argument("--rows", default="steps,cached,files,files-cached,gzip,zstd,parallel")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    buildah = shutil.which("buildah")
    busybox = shutil.which("busybox") or sys.exit("a static busybox is needed for the base image")
    with workspace() as work:
        base = os.path.join(work, "base")
        layout(base, busybox)
        rows = contexts(work)
        print(f"{'row':14} {'hyperbuild':>11} {'buildah':>11} {'ratio':>7}")
        for row in args.rows.split(","):
            name = {"cached": "steps", "files-cached": "files"}.get(row, row)
            context, cached = rows[name], row.endswith("cached")
            ours, theirs = [], []
            for _ in range(args.rounds):
                root = tempfile.mkdtemp(dir=work)
                out = os.path.join(root, "out.tar")
                kind = f"type=oci,dest={out}" + (",compression=zstd" if row == "zstd" else "")
                command = [args.hyperbuild, "--root", root, "build", "--progress", "quiet", "-o", kind,
                           "--build-context", f"base=oci-layout://{base}:latest", context]
                if cached:
                    timed(command)
                ours.append(timed(command)[0])
                shutil.rmtree(root)
                if buildah and row != "zstd":
                    root = tempfile.mkdtemp(dir=work)
                    storage = ["--root", root + "/r", "--runroot", root + "/rr", "--storage-driver", "overlay"]
                    output([buildah, *storage, "pull", f"oci:{base}:latest"])
                    pulled = output([buildah, *storage, "images", "-q"]).split()[0]
                    output([buildah, *storage, "tag", pulled, "localhost/base"])
                    command = [buildah, *storage, "build", "--isolation", "chroot", "--layers", "--jobs", "4", "-q",
                               "-t", "x", context]
                    if cached:
                        timed(command)
                    push = [buildah, *storage, "push", "-q", "localhost/x", f"oci-archive:{root}/out.tar"]
                    theirs.append(timed(command)[0] + timed(push)[0])
                    subprocess.run([buildah, *storage, "rmi", "-a", "-f"], capture_output=True)
                    # buildah leaves the folder of its overlays mounted on itself.
                    subprocess.run(["umount", root + "/r/overlay"], capture_output=True)
                    shutil.rmtree(root, ignore_errors=True)
            best = min(ours)
            peer = f"{min(theirs):9.2f} s" if theirs else "-"
            ratio = f"{min(theirs) / best:6.1f}×" if theirs else ""
            print(f"{row:14} {best:9.3f} s {peer:>11} {ratio:>7}", flush=True)


if __name__ == "__main__":
    main()
