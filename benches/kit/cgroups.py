"""CPU cgroups, of version 1 or 2: groups of processes that share CPUs by weight (cgroups(7))."""

import os
import time
from pathlib import Path

from .process import Failed

# A killed process leaves its group a moment later.
LEAVING_SECONDS = 5


class Hierarchy:
    """Where this machine keeps the CPU groups, and by which version of the interface."""

    def __init__(self, root, version):
        self.root = Path(root)
        self.version = version

    @classmethod
    def find(cls, mounts="/proc/self/mounts"):
        for line in Path(mounts).read_text().splitlines():
            _, root, kind, options = line.split()[:4]
            if kind == "cgroup" and "cpu" in options.split(","):
                return cls(root, 1)
            controllers = Path(root, "cgroup.controllers")
            if kind == "cgroup2" and controllers.exists() and "cpu" in controllers.read_text().split():
                return cls(root, 2)
        raise Failed("this machine has no CPU cgroups mounted")

    def top(self):
        return Group(self.root, self.version)

    def of_process(self, pid):
        """The group that a process is in."""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if (self.version == 2 and number == "0") or (self.version == 1 and "cpu" in controllers.split(",")):
                return Group(self.root / path.lstrip("/"), self.version)
        raise Failed(f"process {pid} is in no CPU cgroup")


class Group:
    """One group. What the kernel refuses raises Failed."""

    def __init__(self, path, version):
        self.path = path
        self.version = version

    def child(self, name, shares):
        """Makes a group below this one, with a weight as cpu.shares of version 1 counts: 1024 for each CPU requested."""
        if self.version == 2:
            self.write("cgroup.subtree_control", "+cpu")
        group = Group(self.path / name, self.version)
        try:
            # It may be there since a run that was killed.
            group.path.mkdir(exist_ok=True)
        except OSError as error:
            raise Failed(f"cannot make the cgroup {group.path}: {error.strerror}") from None
        if self.version == 1:
            group.write("cpu.shares", shares)
        else:
            group.write("cpu.weight", weight(shares))
        return group

    def allow_realtime(self, share):
        """Lets processes of the group run under SCHED_RR for this share of the time.

        Only kernels with CONFIG_RT_GROUP_SCHED need it: there a group may use none of the time unless told otherwise.
        """
        if (self.path / "cpu.rt_runtime_us").exists():
            period = int((self.path / "cpu.rt_period_us").read_text())
            self.write("cpu.rt_runtime_us", int(period * share))

    def add(self, pid):
        self.write("cgroup.procs", pid)

    def write(self, name, value):
        try:
            (self.path / name).write_text(str(value))
        except OSError as error:
            raise Failed(f"cannot write {value} to {self.path / name}: {error.strerror}") from None

    def remove(self):
        """Removes the group, as soon as its processes have ended."""
        end = time.monotonic() + LEAVING_SECONDS
        while True:
            try:
                os.rmdir(self.path)
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise Failed(f"cannot remove the cgroup {self.path}: {error.strerror}") from None
            time.sleep(0.02)


def weight(shares):
    """cpu.weight (1 to 10,000) for cpu.shares (2 to 262,144), as Kubernetes converts one into the other (KEP-2254)."""
    return 1 + (shares - 2) * 9_999 // 262_142
