#!/usr/bin/env python3
"""Time hyperbuild beside BuildKit and buildah on the same work, in one run, as ratios.

    side_by_side.py HYPERBUILD [--rows steps,steps-cached,…] [--rounds N] [--debian LAYOUT] [--other HYPERBUILD] [--no-buildah]

Every row is run in turn by each program, and the best of N rounds counts. A row starts with an empty state folder; of
`-cached` rows, the second build is timed; of `-changed` rows, the one after one byte of one file of the context
changed. Peers that are not installed are left out, and said to be. Needs busybox (a static one) for the base image,
and an OCI layout of Debian for the row `unpack`.

`peak` is the largest amount of memory of one process of hyperbuild. The figures of one machine say little: compare
the ratios.
"""
import argparse, contextlib, hashlib, io, json, os, random, secrets, shutil, sys, tarfile, tempfile

from peers import Buildah, BuildKit, Failed, Hyper, buildkit_is_missing, digest_of

ROWS = ("steps,steps-cached,steps200,steps200-cached,files,files-cached,many,many-cached,many-changed,gzip,zstd,"
        "parallel,unpack,huge")


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


def contexts(work, wanted):
    """row -> the context folder of its Dockerfile. Only the contexts of the wanted rows are made."""
    rows = {}

    def make(name, text):
        if name not in wanted:
            return None
        path = rows[name] = os.path.join(work, name)
        os.makedirs(path)
        with open(os.path.join(path, "Dockerfile"), "w") as f:
            f.write(text)
        return path

    def tree(context, count):
        for i in range(count if context else 0):
            folder = os.path.join(context, "tree", str(i // 200))
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, str(i)), "wb") as f:
                f.write(hashlib.sha256(str(i).encode()).digest() * (61 if count < 100_000 else 4))

    for name, count in (("steps", 20), ("steps200", 200)):
        make(name, "FROM base\n" + "".join(f"RUN echo {i}\n" for i in range(count)))
    tree(make("files", "FROM scratch\nCOPY tree /tree\n"), 20_000)
    tree(make("many", "FROM scratch\nCOPY tree /tree\n"), 200_000)
    for name in ("gzip", "zstd"):
        if context := make(name, "FROM scratch\nCOPY big /big\n"):
            block = random.Random(1).randbytes(1 << 20)
            with open(os.path.join(context, "big"), "wb") as f:
                for i in range(512):
                    f.write(block[: 512 << 10] + bytes(f"{i:08}" * (64 << 10), "ascii"))
    stages = "".join(f"FROM base AS s{i}\nRUN sleep 2 && echo {i} > /{i}\n" for i in range(4))
    make("parallel", stages + "FROM scratch\n" + "".join(f"COPY --from=s{i} /{i} /\n" for i in range(4)))
    make("unpack", "FROM debian AS build\nRUN true\nFROM scratch\nCOPY --from=build /etc/hostname /\n")
    make("huge", "FROM base\nRUN head -c 4294967296 /dev/zero > /huge\n")
    return rows


@contextlib.contextmanager
def workspace():
    """A folder for all rows. buildah makes the name of an image of it, so not every name will do."""
    folder = os.path.join(tempfile.gettempdir(), "side-by-side-" + secrets.token_hex(8))
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def change(context):
    """Changes one byte of one file of the context, and back the next time."""
    with open(os.path.join(context, "tree", "7", "1500"), "r+b") as f:
        first = f.read(1)[0]
        f.seek(0)
        f.write(bytes([first ^ 1]))


def measure(builder, row, context, out):
    builder.reset()
    attributes = ",compression=zstd" if row.startswith("zstd") else ""
    if row.endswith(("-cached", "-changed")):
        builder.build(context, out, attributes)
    if row.endswith("-changed"):
        change(context)
    return builder.build(context, out, attributes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hyperbuild")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--debian", help="an OCI image layout, for the row `unpack`")
    parser.add_argument("--other", help="a second hyperbuild, timed beside the first")
    parser.add_argument("--no-buildah", action="store_true")
    args = parser.parse_args()
    busybox = shutil.which("busybox") or sys.exit("a static busybox is needed for the base image")
    rows = args.rows.split(",")
    if "unpack" in rows and not args.debian:
        rows.remove("unpack")
        print("the row `unpack` is left out: it needs --debian LAYOUT", file=sys.stderr)
    with workspace() as work:
        base = os.path.join(work, "base")
        layout(base, busybox)
        bases = {"base": (base, digest_of(base))}
        if args.debian:
            bases["debian"] = (os.path.abspath(args.debian), digest_of(args.debian))
        made = contexts(work, {row.split("-")[0] for row in rows})
        builders = [Hyper(args.hyperbuild, work, bases)]
        if args.other:
            builders.append(Hyper(args.other, os.path.join(work, "other"), bases, name="other"))
        if missing := buildkit_is_missing():
            print(missing)
        else:
            builders.append(BuildKit(work, bases))
        if shutil.which("buildah") and not args.no_buildah:
            builders.append(Buildah(work, bases))
        else:
            print("buildah is not timed")
        try:
            print(f"{'row':16} {'peak':>9}" + "".join(f" {builder.name:>19}" for builder in builders))
            for row in rows:
                times, peak = {builder.name: [] for builder in builders}, 0
                for at in range(args.rounds):
                    for builder in builders if at % 2 == 0 else builders[::-1]:
                        try:
                            took, _, used = measure(builder, row, made[row.split("-")[0]], os.path.join(work, "out.tar"))
                        except Failed as failure:
                            if builder is builders[0]:
                                raise
                            if at == 0:
                                print(f"{row:16} {builder.name}: {failure}")
                            continue
                        times[builder.name].append(took)
                        peak = max(peak, used) if builder is builders[0] else peak
                line, best = f"{row:16} {peak >> 20:5} MiB", min(times[builders[0].name])
                for builder in builders:
                    took = min(times[builder.name], default=None)
                    ratio = f"{took / best:7.1f}×" if took else ""
                    line += f" {took:9.3f} s {ratio}" if took else f" {'-':>19}"
                print(line, flush=True)
        finally:
            for builder in builders:
                builder.close()


if __name__ == "__main__":
    main()
