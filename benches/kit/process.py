"""Processes pinned to a CPU, and what the kernel says they used."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

# The server under test has a CPU of its own; all else shares the other.
SERVER_CPU = 1
LOAD_CPU = 0


class Priority:
    """How processes of ours stand against others."""

    # With SCHED_RR a wake-up never waits for somebody else's time slice (3 ms). For machines that cannot be made
    # quiet; not the default, because it also changes how a server's own threads take turns.
    realtime = False


def ahead_of_others():
    """Runs in a child before it becomes the program: what else the machine does should matter little.

    Needs root; without, the others' share is reported all the same. Niceness counts only within a session where the
    kernel groups processes by it (sched(7), autogroup), so the session's own is set too.
    """
    steps = [lambda: Path("/proc/self/autogroup").write_text("-20"), lambda: os.nice(-20)]
    if Priority.realtime:
        steps.append(lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)))
    for step in steps:
        try:
            step()
        except OSError:
            pass


class Failed(Exception):
    """Something that cannot be measured, and why."""


def tool(name):
    """The path of an installed program. Debian keeps servers in sbin, which is not in everybody's PATH."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    return shutil.which(name, path=path)


def run(command, text="", environment=None):
    """What a program prints, given `text`; fails with the last it said."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=text, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"{words[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)}: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout


def free_port():
    """A port that nobody has now, neither for UDP nor for TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port = udp.getsockname()[1]
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """A server that runs until it is stopped, on one CPU (or on several, given as "0,1")."""

    def __init__(self, name, command, log, cpu, environment=None):
        self.name = name
        self.log = Path(log)
        self.command = [str(word) for word in command]
        pinned = ["taskset", "-c", str(cpu), *self.command]
        with self.log.open("wb") as out:
            self.child = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=ahead_of_others,
            )

    def wait_until(self, ready, seconds=15):
        """Waits until `ready()` is true; fails with the server's own words if it ends or takes too long."""
        end = time.monotonic() + seconds
        while not ready():
            if self.child.poll() is not None:
                raise Failed(f"{self.name} ended with status {self.child.returncode}: {self.last_words()}")
            if time.monotonic() > end:
                raise Failed(f"{self.name} answers nothing after {seconds} s: {self.last_words()}")
            time.sleep(0.02)

    def last_words(self):
        return self.log.read_text(errors="replace").strip()[-1500:] or "(it said nothing)"

    def pids(self):
        """The process and its descendants (dnsmasq forks for each TCP connection, NSD for each server)."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
        found = [self.child.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu_seconds(self):
        """CPU time of the whole family so far: threads that ended and children that were waited for included."""
        total = 0.0
        for pid in self.pids():
            try:
                # What clock_getcpuclockid(3) computes: the process's CPU clock, in nanoseconds. /proc/PID/stat has
                # the same in ticks of 10 ms, too coarse for short runs.
                total += time.clock_gettime((~pid << 3) | 2)
            except OSError:
                pass
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        reaped = int(fields[13]) + int(fields[14])
        return total + reaped / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, field):
        """VmHWM (peak) or VmRSS (now) of the family, in MB of 1,000,000 bytes."""
        total = 0
        for pid in self.pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total / 1e6

    def stop(self):
        if self.child.poll() is None:
            # Nothing to save; and a drain would take time.
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Quiet:
    """How much of the machine others used: figures taken beside a compiler are worth less."""

    def __init__(self):
        self.before = self._busy_ticks()
        self.started = time.monotonic()

    @staticmethod
    def _busy_ticks():
        # user, nice, system, irq, softirq of all CPUs; without idle, iowait and steal.
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return fields[0] + fields[1] + fields[2] + fields[5] + fields[6]

    def others_percent(self, own_seconds):
        """CPU time that neither the server nor the load used, in percent of one CPU."""
        busy = (self._busy_ticks() - self.before) / os.sysconf("SC_CLK_TCK")
        return 100 * max(0.0, busy - own_seconds) / (time.monotonic() - self.started)
