"""Images made by hand, for a node without a registry: archives in Docker's format, which `ctr images import` takes."""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

from .node import HERE, Failed

# The first is the chart's default; the second is the same program, to upgrade to.
NODENS_TAGS = ("0.1.0", "0.1.0-again")


class Image:
    """One layer: files by their path in the image, as a source (Path), content (bytes), or target of a link (str)."""

    def __init__(self, reference, entrypoint=(), command=()):
        self.reference = reference
        self.entrypoint = list(entrypoint)
        self.command = list(command)
        self.files = {}

    def program(self, source, at):
        """Adds a program and, if it is dynamic, the libraries that it loads."""
        self.files[at] = Path(source)
        said = subprocess.run(["ldd", source], capture_output=True, text=True)
        for library in re.findall(r"(/\S+) \(0x", said.stdout):
            self.files[library.lstrip("/")] = Path(library).resolve()

    def write(self, archive):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for folder in ("tmp", "etc", "proc", "sys", "dev", "run", "var/tmp"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder.endswith("tmp") else 0o755
                tar.addfile(entry)
            for path, content in self.files.items():
                entry = tarfile.TarInfo(path)
                entry.mode = 0o755
                if isinstance(content, str):
                    entry.type, entry.linkname = tarfile.SYMTYPE, content
                    tar.addfile(entry)
                else:
                    data = content if isinstance(content, bytes) else content.read_bytes()
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        layer = layer.getvalue()
        config = json.dumps({
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[subprocess.check_output(["uname", "-m"], text=True).strip()],
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }).encode()
        name = hashlib.sha256(config).hexdigest() + ".json"
        manifest = json.dumps([{"Config": name, "RepoTags": [self.reference], "Layers": ["layer.tar"]}]).encode()
        with tarfile.open(archive, "w") as tar:
            for path, data in ((name, config), ("layer.tar", layer), ("manifest.json", manifest)):
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def load(node, image):
    archive = node.state / "image.tar"
    image.write(archive)
    node.run(["ctr", "images", "import", archive])
    archive.unlink()


def pause(cache):
    image = Image("nodens.test/pause:1", ["/pause"])
    image.program(f"{cache}/bin/pause", "pause")
    return image


def coredns(cache):
    image = Image("nodens.test/coredns:1", ["/coredns"])
    image.program(f"{cache}/bin/coredns", "coredns")
    return image


def busybox():
    image = Image("nodens.test/busybox:1", [], ["/bin/sh"])
    image.program("/bin/busybox", "bin/busybox")
    for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if applet != "busybox":
            image.files[f"bin/{applet}"] = "busybox"
    return image


def clients(folder):
    """The resolvers of glibc (`getent`, `lookup-glibc`), musl and Go, and busybox's shell and `nslookup`."""
    image = busybox()
    image.reference = "nodens.test/clients:1"
    image.program("/usr/bin/getent", "bin/getent-glibc")
    image.files["etc/nsswitch.conf"] = b"hosts: files dns\n"
    sources = HERE.parent / "stub_resolvers"
    for name, compiler in (("lookup-glibc", ["cc", "-o"]), ("lookup-musl", ["musl-gcc", "-static", "-o"]),
                           ("lookup-go", ["go", "build", "-o"])):
        program = Path(folder) / name
        source = sources / ("lookup.go" if name == "lookup-go" else "lookup.c")
        done = subprocess.run([*compiler, program, source], capture_output=True, text=True, env={**os.environ, "CGO_ENABLED": "0"})
        if done.returncode != 0:
            raise Failed(f"{name}: {done.stderr}")
        image.program(program, f"bin/{name}")
    return image


def runtimes(folder):
    """`clients` with Python and Java: the machine's own /usr/bin/python3 with its library, and what jlink makes of its JDK."""
    image = clients(folder)
    image.reference = "nodens.test/runtimes:1"
    python = Path("/usr/bin/python3").resolve()
    image.program(python, "bin/python3")
    library = Path("/usr/lib") / python.name
    for file in library.rglob("*.py"):
        if not {"test", "dist-packages", "lib2to3", "idlelib"} & set(file.relative_to(library).parts):
            image.files[str(file).lstrip("/")] = file
    java = Path(folder) / "java"
    if not java.exists():
        for argv in (["jlink", "--add-modules", "java.base", "--strip-debug", "--output", java],
                     ["javac", "-d", java, HERE.parent / "stub_resolvers" / "Lookup.java"]):
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"{argv[0]}: {done.stdout}{done.stderr}")
    for file in java.rglob("*"):
        if file.is_file():
            image.files[f"java/{file.relative_to(java)}"] = file
    # What its libraries load, and ldd of bin/java does not name.
    image.program(java / "bin/java", "java/bin/java")
    image.program(java / "lib/server/libjvm.so", "java/lib/server/libjvm.so")
    image.files["lookup.py"] = HERE.parent / "stub_resolvers" / "lookup.py"
    return image


def nodens(binary, tag):
    if not Path(binary).is_file():
        raise Failed(f"NODENS_TEST_BINARY: {binary} is not there")
    image = Image(f"docker.io/library/nodens:{tag}", ["/nodens"], ["serve", "--config", "/etc/nodens/nodens.yaml"])
    image.program(binary, "nodens")
    return image
