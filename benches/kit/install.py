"""Gets what a measurement needs: Debian's tools, and the programs of ours as the image ships them."""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from . import build
from .process import Failed, tool

# Program, and Debian's package of it.
TOOLS = {"dnsperf": "dnsperf", "nsd": "nsd", "taskset": "util-linux"}

# For apt. RUNLEVEL=1 keeps packages from starting their servers.
QUIETLY = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}


def alone():
    """Waits until no other measurement runs on this machine; two at once measure each other. Hold on to the result."""
    file = (Path(tempfile.gettempdir()) / "nodens-benches.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for another measurement on this machine to end", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def tools():
    if (os.cpu_count() or 1) < 2:
        raise Failed("needs two CPUs: one for the server, one for the load")
    missing = [package for program, package in TOOLS.items() if tool(program) is None]
    if missing:
        apt(missing)


def apt(packages):
    environment = {**os.environ, **QUIETLY}
    if tool("apt-get") is None:
        raise Failed(f"needs {' '.join(packages)}; there is no apt-get here, so install it by hand")
    print(f"installing {' '.join(packages)} (apt)", flush=True)
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    # Package lists may be missing or old, so once more after an update.
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if command is install and done.returncode == 0:
            return
    raise Failed(f"apt-get install {' '.join(packages)}: {done.stdout.strip()[-500:]}")


def programs(directory, nodens):
    """Puts nodens (this binary, or a fresh one), the floors and the load generator into a directory."""
    print("building nodens, the floors and the load generator", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    if nodens and not speaks(nodens):
        raise Failed(f"--nodens {nodens}: `{nodens} --version` does not say nodens")
    # Copies, so that somebody else's cargo cannot change what is measured half-way. The examples apart from nodens:
    # they bring the tests' dependencies, and with them features that the image's binary does not have.
    replace(nodens or build.build(["--bin", "nodens"]) / "nodens", directory / "nodens")
    programs = ["echo", "relay", "load"]
    examples = build.build([word for program in programs for word in ("--example", program)]) / "examples"
    for program in programs:
        replace(examples / program, directory / program)


def speaks(nodens):
    try:
        done = subprocess.run([nodens, "--version"], capture_output=True, text=True)
    except OSError:
        return False
    return done.stdout.startswith("nodens ")


def replace(source, target):
    part = target.with_suffix(".new")
    part.write_bytes(source.read_bytes())
    part.chmod(0o755)
    part.rename(target)
