"""A tree of another Debian suite, made by debootstrap, whose servers run on this machine by chroot."""

import os
import shutil
from pathlib import Path

from . import install, process
from .process import Failed, tool

# Suites whose servers are known to be measurable so.
SUITES = ["trixie"]

MIRROR = "http://deb.debian.org/debian"

# Where Debian keeps servers.
PROGRAM_DIRECTORIES = ["usr/sbin", "usr/bin"]


class Tree:
    """The tree of a suite below `directory`. It is made once, when the first package is asked for."""

    def __init__(self, name, directory):
        self.name = name
        self.path = Path(directory) / name
        # Why it cannot be made, if that was tried.
        self.failure = None

    def make(self):
        """Makes the tree unless there is one; raises Failed with the reason if it cannot be had."""
        if self.failure:
            raise Failed(self.failure)
        if self.path.exists():
            return
        try:
            self.bootstrap()
        except Failed as error:
            self.failure = f"no tree of Debian {self.name}: {error}"
            raise Failed(self.failure) from None

    def bootstrap(self):
        if os.geteuid() != 0:
            raise Failed("debootstrap and chroot need root")
        if tool("debootstrap") is None:
            install.apt(["debootstrap", "debian-archive-keyring"])
        print(f"making a tree of Debian {self.name} (debootstrap; a minute or two)", flush=True)
        part = self.path.with_suffix(".new")
        shutil.rmtree(part, ignore_errors=True)
        # It mounts /proc and /sys in the tree. In a mount namespace of its own these end with it, even if it is killed.
        run(["unshare", "--mount", "debootstrap", "--variant=minbase", self.name, part, MIRROR])
        part.rename(self.path)

    def program(self, name):
        """The path of a program, as seen inside the tree; None if it is not installed."""
        for directory in PROGRAM_DIRECTORIES:
            if (self.path / directory / name).exists():
                return Path("/", directory, name)
        return None

    def install(self, package):
        self.make()
        print(f"installing {package} into the tree of Debian {self.name} (apt)", flush=True)
        # Lists are those of the day when the tree was made, so they may name versions that are gone.
        run(self.inside(["apt-get", "update", "-qq"]))
        run(self.inside(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package]))

    def inside(self, command):
        """The command that runs `command` in the tree, as the same process."""
        return [tool("chroot") or "chroot", self.path, *command]


def run(command):
    """Runs a command of Debian's tools."""
    process.run(command, environment={**os.environ, **install.QUIETLY, "LC_ALL": "C"})
