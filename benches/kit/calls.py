"""How many system calls a server makes: counted by perf in the kernel, or by strace where perf cannot.

Both slow the server down, so nothing else is measured meanwhile. strace stops it at each call, for some tens of
microseconds; queries pile up and share calls that they would not share otherwise. perf does not change the count.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from . import install
from .process import SERVER_CPU, Failed, ahead_of_others, tool

# Seconds in which a counter attaches, or ends.
PATIENCE = 10

EVENT = "raw_syscalls:sys_enter"


class Counter:
    """Counts the system calls of processes, their threads and children included, between `start` and `stop`."""

    # Printed beside the figures.
    name = ""

    def __init__(self, pids, directory):
        self.pids = pids
        self.directory = Path(directory)

    def start(self):
        raise NotImplementedError

    def stop(self):
        """Ends the count, and returns it."""
        raise NotImplementedError

    def spawn(self, command, **options):
        # On the server's CPU, where strace takes over without waking up another one.
        return subprocess.Popen(
            ["taskset", "-c", str(SERVER_CPU), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=ahead_of_others,
            **options,
        )

    def end(self):
        """Interrupts the program; what it says."""
        self.child.send_signal(signal.SIGINT)
        try:
            return self.child.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()
            raise Failed(f"{self.name} does not end") from None


class Perf(Counter):
    name = "perf"

    @staticmethod
    def works():
        """Whether perf is there, fits the kernel, and may count."""
        if tool("perf") is None:
            return False
        command = [tool("perf"), "stat", "-e", EVENT, "--", "true"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def start(self):
        control, to_perf = os.pipe()
        from_perf, acknowledgement = os.pipe()
        self.to_perf, self.from_perf = os.fdopen(to_perf, "w"), os.fdopen(from_perf)
        pids = ",".join(str(pid) for pid in self.pids)
        # Counts nothing until told to (-D -1).
        command = [tool("perf"), "stat", "-x", ",", "-e", EVENT, "-D", "-1", "-p", pids]
        command += ["--control", f"fd:{control},{acknowledgement}"]
        self.child = self.spawn(command, pass_fds=(control, acknowledgement))
        os.close(control)
        os.close(acknowledgement)
        self.tell("enable")

    def tell(self, word):
        """Gives perf a command, and waits until it has obeyed."""
        try:
            print(word, file=self.to_perf, flush=True)
            answer = self.from_perf.readline()
        except OSError:
            answer = ""
        if "ack" not in answer:
            raise Failed(f"perf does not count: {self.end().strip()[-300:]}")

    def stop(self):
        self.tell("disable")
        summary = self.end()
        self.to_perf.close()
        self.from_perf.close()
        found = re.search(rf"^(\d+),.*{EVENT}", summary, re.MULTILINE)
        if not found:
            raise Failed(f"perf counted nothing: {summary.strip()[-300:]}")
        return int(found.group(1))


class Strace(Counter):
    name = "strace"

    @staticmethod
    def works():
        if tool("strace") is None:
            try:
                install.apt(["strace"])
            except Failed:
                return False
        return True

    def start(self):
        self.file = self.directory / "strace.txt"
        command = [tool("strace"), "-f", "-c", "-o", str(self.file)]
        for pid in self.pids:
            command += ["-p", str(pid)]
        self.child = self.spawn(command)
        end = time.monotonic() + PATIENCE
        while not all(traced(pid) for pid in self.pids):
            if self.child.poll() is not None or time.monotonic() > end:
                raise Failed(f"strace does not attach: {self.end().strip()[-300:]}")
            time.sleep(0.01)

    def stop(self):
        # strace lets go of the server, then writes its table, whose last line is the sum:
        # `% time, seconds, usecs/call, calls, errors, total`, with errors only if there were any.
        self.end()
        summary = self.file.read_text()
        found = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s.*\btotal$", summary, re.MULTILINE)
        if not found:
            raise Failed(f"strace counted nothing: {summary.strip()[-300:]}")
        return int(found.group(1))


def traced(pid):
    """Whether all threads of a process are traced; false if it has ended."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
            if re.search(r"^TracerPid:\s+0$", status, re.MULTILINE):
                return False
    except OSError:
        return False
    return True


def counter():
    """The counter to take here; None if none works."""
    return next((counter for counter in (Perf, Strace) if counter.works()), None)
