"""A node whose CPUs are taken: endless loops in a cgroup with much weight, servers in cgroups with little.

Clients and the upstream server are ahead of both, so that the time they take is not that of the server.
"""

import os
from contextlib import ExitStack, contextmanager

from .cgroups import Hierarchy
from .process import LOAD_CPU, SERVER_CPU, Failed, Priority, Process

# What pods that request four CPUs get, and one that requests 100m.
HOG_SHARES = 4_096
SERVER_SHARES = 102

# All of them together, against what else the machine does: as if the loops' group stood at the top.
NODE_SHARES = HOG_SHARES

HOGS_PER_CPU = 2

# Ahead of the priority 1 that nodens takes with `scheduling: realtime`.
CLIENT_PRIORITY = 10

# A loop that ends with this script, however the script ends; it looks every tenth of a second or so.
HOG = "while kill -0 $1 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done"

# Share of the time that SCHED_RR may use in all the groups, and in that of a server, where the kernel limits it.
REALTIME_SHARE = 0.4
SERVER_REALTIME_SHARE = 0.3


class BusyNode:
    """The groups, from `__enter__` to `__exit__`. All servers in them must have stopped by then."""

    def __init__(self, bench):
        self.bench = bench

    def __enter__(self):
        with ExitStack() as stack:
            hierarchy = Hierarchy.find()
            # A group other than the top one may have no share of SCHED_RR.
            for pid in [os.getpid(), *self.bench.nsd.process.pids()]:
                before = hierarchy.of_process(pid)
                hierarchy.top().add(pid)
                stack.callback(before.add, pid)
            self.node = hierarchy.top().child("nodens-bench", NODE_SHARES)
            stack.callback(self.node.remove)
            self.allow_realtime(stack, self.node, REALTIME_SHARE)
            self.hogs = self.node.child("hogs", HOG_SHARES)
            stack.callback(self.hogs.remove)
            # Here servers have their ordinary scheduling, whatever `--realtime` says.
            stack.callback(setattr, Priority, "realtime", Priority.realtime)
            Priority.realtime = False
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def take_in(self, peer, server):
        """Puts a server into a group of its own."""
        group = self.node.child(peer.name, SERVER_SHARES)
        self.stack.callback(group.remove)
        if peer.realtime:
            self.allow_realtime(self.stack, group, SERVER_REALTIME_SHARE)
        for pid in server.pids():
            group.add(pid)

    @staticmethod
    def allow_realtime(stack, group, share):
        # Taken back before the group goes: the kernel keeps counting the share of a removed group for a while.
        stack.callback(group.allow_realtime, 0)
        group.allow_realtime(share)

    @contextmanager
    def taken(self):
        """While this lasts, the loops have the CPUs, and clients and upstream are ahead of them."""
        with ExitStack() as stack:
            for number in range(HOGS_PER_CPU):
                for cpu in (LOAD_CPU, SERVER_CPU):
                    log = self.bench.directory / f"hog-{cpu}-{number}.log"
                    hog = stack.enter_context(Process("hog", ["sh", "-c", HOG, "hog", os.getpid()], log, cpu))
                    self.hogs.add(hog.child.pid)
                    self.bench.own.append(hog)
                    stack.callback(self.bench.own.remove, hog)
            # What this process starts inherits it: load generators.
            for pid in [os.getpid(), *self.bench.nsd.process.pids()]:
                before = os.sched_getscheduler(pid), os.sched_getparam(pid)
                try:
                    os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(CLIENT_PRIORITY))
                except OSError as error:
                    raise Failed(f"clients cannot run under SCHED_RR: {error.strerror}") from None
                stack.callback(os.sched_setscheduler, pid, *before)
            yield
