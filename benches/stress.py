#!/usr/bin/env python3
"""Kill builds at random points, or run many at once, and check that everything is whole afterwards.

    stress.py kills HYPERBUILD BASE [--rounds N] [--seed S] [--isolation none]
    stress.py together HYPERBUILD BASE [--builds N] [--minutes M] [--seed S]

BASE is an OCI image layout with a shell. `kills` ends a build, an export or a clean-up with SIGKILL after a random
time, and then looks for mounts and processes that are left; the next build must give the image that it gives on a
fresh state folder. `together` runs N builds at once on one state folder, with `prune` and `rm` beside them: each image
that was reported is written as an archive and all of its blobs are checked. At the end nothing unused may be left.

The exit status is 1 when something was wrong. It needs to be root, to see the mounts of others.
"""
import argparse, hashlib, json, os, random, re, shutil, signal, subprocess, sys, tarfile, tempfile, threading, time

# What a state folder without content has.
KEPT = re.compile(r"store/(hyper\.db.*|collector\.lock)|snapshots/[^/]+/(lock|looked|numbers|settled|synced)|uses/.*|history/.*|stat-cache"
                  r"|sandbox\.json")
faults = []


def fault(text):
    faults.append(text)
    print("WRONG:", text, flush=True)


class Hyper:
    def __init__(self, program, base, isolation):
        self.program, self.base = os.path.abspath(program), os.path.abspath(base)
        self.extra = [f"--isolation={isolation}"] if isolation else []
        self.place = tempfile.mkdtemp(prefix="hyper-stress-")

    def command(self, state, *arguments):
        return [self.program, "--root", os.path.join(self.place, state), *arguments]

    def build(self, state, context, *more):
        return self.command(state, "build", "--progress=plain", "--source-date-epoch=1700000000", *self.extra,
                            f"--build-context=base=oci-layout://{self.base}", *more, context)

    def context(self, name, dockerfile, files=()):
        folder = os.path.join(self.place, name)
        os.makedirs(folder, exist_ok=True)
        for file, text in dict(files, Dockerfile=dockerfile).items():
            with open(os.path.join(folder, file), "w") as out:
                out.write(text)
        return folder


def run(command, timeout=300):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout + done.stderr


def archive_digest(path):
    """The digest of the image of an archive, all of whose blobs are there and right."""
    with tarfile.open(path) as tar:
        read = lambda name: tar.extractfile(name).read()
        todo = [entry["digest"] for entry in json.loads(read("index.json"))["manifests"]]
        first = todo[0]
        while todo:
            digest = todo.pop()
            algorithm, value = digest.split(":")
            body = read(f"blobs/{algorithm}/{value}")
            if hashlib.new(algorithm, body).hexdigest() != value:
                raise ValueError(f"{digest} has other bytes")
            manifest = json.loads(body) if body[:1] == b"{" else {}
            todo += [part["digest"] for part in manifest.get("layers", []) + manifest.get("manifests", [])]
            todo += [manifest["config"]["digest"]] if "layers" in manifest else []
    return first


def left_processes(marker):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if marker.encode() in file.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def left_mounts(place):
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if place in line]


def until_gone(what, look, seconds=20):
    deadline = time.monotonic() + seconds
    while left := look():
        if time.monotonic() > deadline:
            fault(f"{what} left: {left}")
            return
        time.sleep(0.05)


def integrity(state):
    import sqlite3
    with sqlite3.connect(os.path.join(state, "store/hyper.db")) as database:
        if (answer := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            fault(f"the database: {answer}")


def leftovers(hyper, state):
    """Removes everything, and says what of content is left."""
    code, text = run(hyper.command(state, "prune", "-a", "-f"))
    if code != 0:
        fault(f"prune: {text}")
    root = os.path.join(hyper.place, state)
    # For a minute, a temporary file may be that of somebody who is about to begin.
    time.sleep(61)
    run(hyper.command(state, "prune", "-a", "-f"))
    files = [os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names]
    if left := [file for file in files if not KEPT.fullmatch(file)]:
        fault(f"{len(left)} files left: {left[:5]}")


DOCKERFILE = """FROM base AS one
COPY many /many
RUN --mount=type=cache,target=/cache echo {n} > /a && echo {n} >> /cache/log && sleep 0.0{n}
FROM base AS two
RUN mkdir /d && for i in $(seq 200); do echo $i > /d/$i; done && chown -R 3:4 /d
FROM base
COPY --from=one /a /many /
COPY --from=two /d /d
RUN cat /a && echo end {n} {marker} > /end
"""


def bake_file(hyper, context, marker):
    """Two targets, of which the second builds on the first."""
    base = {"context": context, "contexts": {"base": f"oci-layout://{hyper.base}"}, "output": ["type=cacheonly"]}
    last = dict(base, contexts={"base": "target:first"}, **{"dockerfile-inline": f"FROM base\nRUN echo {marker} > /baked\n"})
    return json.dumps({"group": {"default": {"targets": ["first", "last"]}}, "target": {"first": base, "last": last}})


def kills(arguments):
    hyper = Hyper(arguments.hyperbuild, arguments.base, arguments.isolation)
    source = random.Random(arguments.seed)
    # In the text of every step, so that what is left of one is known.
    marker = f"stress{os.getpid()}"
    variants, expected, length = [], [], 0.0
    for n in range(3):
        files = {"many": "".join(f"line {i} of {n}\n" for i in range(20_000))}
        variants.append(hyper.context(f"context{n}", DOCKERFILE.format(n=n, marker=marker), files))
        archive = os.path.join(hyper.place, f"fresh{n}.tar")
        began = time.monotonic()
        code, text = run(hyper.build(f"fresh{n}", variants[n], "-o", f"type=oci,dest={archive}"))
        length = max(length, time.monotonic() - began)
        if code != 0:
            sys.exit(f"the first build failed: {text}")
        expected.append(archive_digest(archive))
    archive = os.path.join(hyper.place, "out.tar")
    cached, bake = os.path.join(hyper.place, "exported"), os.path.join(hyper.place, "bake")
    os.makedirs(bake)
    for n in range(arguments.rounds):
        which = source.randrange(3)
        shared = f"type=local,{{}}={cached},cache-mounts=true"
        with open(os.path.join(bake, "docker-bake.json"), "w") as out:
            out.write(bake_file(hyper, variants[which], marker))
        made = hyper.build("state", variants[which], "-t", f"app:{which}", "-o", f"type=oci,dest={archive}")
        baked = hyper.command("state", "bake", "--allow=fs=*", "-f", os.path.join(bake, "docker-bake.json"), *hyper.extra)
        kept = ["--cache-to", shared.format("dest") + ",mode=max", "--cache-from", shared.format("src")]
        command = source.choice([made, made, made + ["--no-cache"], hyper.command("state", "prune", "-f"),
                                 hyper.build("state", variants[which], "-t", f"app:{which}", "--no-cache"),
                                 baked, made + kept, made + kept + ["--no-cache"]])
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(source.uniform(0, length * 1.2))
        if source.random() < 0.3:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()
        until_gone(f"round {n}: processes", lambda: left_processes(marker) + left_processes(hyper.place))
        until_gone(f"round {n}: mounts", lambda: left_mounts(hyper.place))
        # Some rounds only kill, so that what one has left is found by the next.
        if n % 3 and n + 1 != arguments.rounds:
            continue
        code, text = run(made)
        if code != 0:
            fault(f"round {n}: the next build failed: {text}")
        elif (digest := archive_digest(archive)) != expected[which]:
            fault(f"round {n}: the next build has {digest}, not {expected[which]}")
        integrity(os.path.join(hyper.place, "state"))
    # A name that was never given keeps the others.
    for n in range(3):
        run(hyper.command("state", "rm", f"app:{n}"))
    leftovers(hyper, "state")
    return hyper.place


def together(arguments):
    hyper = Hyper(arguments.hyperbuild, arguments.base, arguments.isolation)
    end = time.monotonic() + arguments.minutes * 60
    counts = {"built": 0, "checked": 0, "removed": 0, "pruned": 0}

    def work(number):
        source = random.Random(arguments.seed * 1000 + number)
        turn = 0
        while time.monotonic() < end:
            turn += 1
            # Half of the work is that of others, too.
            n = source.randrange(4) if source.random() < 0.5 else source.randrange(10_000)
            text = DOCKERFILE.format(n=n % 10, marker=f"together {n}")
            context = hyper.context(f"context{number}", text, {"many": f"{n}\n" * 5000})
            archive = os.path.join(hyper.place, f"out{number}.tar")
            name = f"app{number}:{turn}"
            iid = os.path.join(hyper.place, f"iid{number}")
            code, said = run(hyper.build("state", context, "-t", name, "--iidfile", iid))
            if code != 0:
                fault(f"build: {said[-2000:]}")
                continue
            counts["built"] += 1
            with open(iid) as file:
                digest = file.read().strip()
            # From the image that was reported: a copy that takes nothing but its layers.
            again = hyper.context(f"again{number}", f"FROM {name}\n")
            code, said = run(hyper.build("state", again, "-o", f"type=oci,dest={archive}"))
            if code != 0:
                fault(f"the image {name} ({digest}): {said[-2000:]}")
            else:
                try:
                    archive_digest(archive)
                    counts["checked"] += 1
                except (ValueError, KeyError) as e:
                    fault(f"the image {name} ({digest}): {e}")
            if source.random() < 0.9:
                code, said = run(hyper.command("state", "rm", name))
                if code != 0:
                    fault(f"rm: {said}")
                counts["removed"] += 1

    def prune():
        source = random.Random(arguments.seed)
        while time.monotonic() < end:
            code, said = run(hyper.command("state", "prune", "-f", *source.choice([[], ["-a"], ["--max-used-space=5MB"]])))
            if code != 0:
                fault(f"prune: {said}")
            counts["pruned"] += 1
            time.sleep(source.uniform(0, 2))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(arguments.builds)]
    threads.append(threading.Thread(target=prune))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(counts)
    code, said = run(hyper.command("state", "images", "--format=json"))
    names = [f"{image['name']}" for image in json.loads(said)] if said.strip().startswith("[") else []
    if not names:
        names = [line.split()[0] for line in said.splitlines()[1:] if line.split()]
    for at in range(0, len(names), 50):
        run(hyper.command("state", "rm", *names[at:at + 50]))
    integrity(os.path.join(hyper.place, "state"))
    leftovers(hyper, "state")
    return hyper.place


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["kills", "together"])
    parser.add_argument("hyperbuild")
    parser.add_argument("base")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--builds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--isolation")
    arguments = parser.parse_args()
    place = kills(arguments) if arguments.mode == "kills" else together(arguments)
    print(f"{len(faults)} faults")
    if faults:
        print(f"kept: {place}")
        sys.exit(1)
    shutil.rmtree(place)


main()
