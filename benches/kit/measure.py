"""One measurement: a fresh server, its cache warmed, a load upon it, and what came of it."""

import json
import os
import random
import re
import resource
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from . import dns
from .process import LOAD_CPU, Failed, Quiet, ahead_of_others, tool

# In flight at full speed: hundreds, as when many pods start at once. Linux's default socket buffer (208 KiB, a quarter
# of it given back late) holds 208 small datagrams, and not every server can ask for more: more would measure losses.
OUTSTANDING = 200
SOCKETS = 10

# Answers whose RCODEs differ more than this from what the load wants (in percent of all answers) are no success.
TOLERANCE = 0.5

# Share of the queries that must be answered while system calls are counted, or the figure is another rate's.
ENOUGH = 0.98


class Bench:
    """What every measurement needs: the upstream, the load generator, a directory."""

    def __init__(self, nsd, generator, directory):
        self.nsd = nsd
        # The path of our generator.
        self.generator = generator
        self.directory = directory
        # Processes that are part of the measurement beside the server and the load generators.
        self.own = [nsd.process]
        # Queries in flight at full speed.
        self.outstanding = OUTSTANDING
        # What counts system calls; None if nothing can.
        self.counter = None

    def open(self, peer, load, stack):
        """A fresh server of this kind, its cache warmed; it stops with `stack`."""
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory))
        server = stack.enter_context(peer.start(Path(scratch), self.nsd.port))
        server.idle_mb = server.memory_mb("VmRSS")
        if peer.answers:
            self.warm(server, load)
        return server

    def close(self, peer, server, load, parts):
        """The parts of a server's run as one result; its answers are looked at once more."""
        result = merge(parts)
        if peer.answers:
            result["wrong"] = wrong_rcodes(load, result) or self.wrong_records(server, load)
        result["idle_mb"] = server.idle_mb
        result["peak_mb"] = server.memory_mb("VmHWM")
        return result

    def warm(self, server, load):
        """Asks every name that is to be in the cache; again what was lost, as clients would."""
        for _ in range(2):
            report = dnsperf(server.port, load.warm, ["-n", "1", "-q", "100"])
            if report["lost"] == 0:
                return
        if report["lost"] > report["sent"] / 100:
            raise Failed(f"{server.name} lost {report['lost']} of {report['sent']} while its cache was filled")

    def run(self, server, load, part, seconds, rate, generator):
        """Part of a run: at full speed, or at a rate."""
        file = load.files[part]
        if rate is not None:
            return self.account(server, lambda: self.pace(server.port, load, file, seconds, rate))
        flood = {"load": self.flood, "dnsperf": self.flood_by_dnsperf}[generator]
        return self.account(server, lambda: flood(server.port, load, file, seconds))

    def flood(self, port, load, file, seconds):
        options = ["--outstanding", self.outstanding, "--seconds", seconds, "--sockets", SOCKETS]
        options += ["--tcp"] if load.tcp else []
        options += ["--once"] if load.once else []
        return self.generate(port, file, options)

    def flood_by_dnsperf(self, port, load, file, seconds):
        # It takes whole seconds.
        options = ["-l", str(max(1, round(seconds))), "-q", str(self.outstanding)]
        options += ["-n", "1"] if load.once else []
        options += ["-m", "tcp"] if load.tcp else []
        return dnsperf(port, file, options)

    def account(self, server, put_under_load):
        """Puts a server under load and adds to the report what it used meanwhile."""
        quiet = Quiet()
        before, own_before = server.cpu_seconds(), self.own_seconds()
        result = put_under_load()
        used = server.cpu_seconds() - before
        ours = used + self.own_seconds() - own_before
        if result["answered"] == 0:
            raise Failed(f"{server.name} answered nothing: {server.last_words()}")
        result["cpu_seconds"] = used
        result["others_percent"] = quiet.others_percent(ours)
        return result

    def own_seconds(self):
        """CPU time that the measurement took so far, without the server's."""
        return children_seconds() + sum(process.cpu_seconds() for process in self.own)

    def count_calls(self, server, load, seconds, rate):
        """System calls of the server for each answer at a rate, or why there is no such figure."""
        counter = self.counter(server.pids(), self.directory)
        try:
            counter.start()
            result = self.pace(server.port, load, load.files[-1], seconds, rate)
            calls = counter.stop()
        except Failed as error:
            return {"calls_missing": str(error)}
        if result["answered"] < ENOUGH * result["sent"]:
            percent = 100 * result["answered"] / max(1, result["sent"])
            return {"calls_missing": f"only {percent:.0f} % were answered while {counter.name} counted"}
        return {"calls_per_query": calls / result["answered"], "calls_by": counter.name}

    def pace(self, port, load, file, seconds, rate):
        options = ["--rate", rate, "--seconds", seconds, "--sockets", SOCKETS]
        options += ["--tcp"] if load.tcp else []
        options += ["--once"] if load.once else []
        # Misses need NSD, which shares the generator's CPU, so there it must sleep. On a busy node it must, too: it is
        # ahead of all, and would have the CPU for itself.
        options += [] if load.once or load.busy else ["--spin"]
        return self.generate(port, file, options)

    def generate(self, port, file, options, address="127.0.0.1", pass_fds=()):
        """Runs our own generator; its report."""
        command = [self.generator, "--server", f"{address}:{port}", "--queries", file, *options]
        done = pinned(command, pass_fds)
        if done.returncode != 0:
            raise Failed(f"load: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout)

    def wrong_records(self, server, load):
        """Asks the server and its upstream for some names of the load; what differs, if anything does."""
        with load.files[0].open() as file:
            lines = [line.split() for _, line in zip(range(2_000), file)]
        for name, kind in random.Random(4).sample(lines, 20):
            wanted = dns.ask(self.nsd.port, name, kind)
            # A server still busy with what dnsperf left behind may take a while.
            got = dns.ask(server.port, name, kind, 5.0, server.address)
            if got != wanted:
                return f"{name} {kind}: {got}, where the upstream says {wanted}"
        return None


def merge(parts):
    """One result of several: sums, shares of the sums, and of latencies and of what others took the median."""
    result = {key: sum(part[key] for part in parts) for key in ["seconds", "sent", "answered", "lost", "cpu_seconds"]}
    result["rcodes"] = {}
    for part in parts:
        for rcode, count in part["rcodes"].items():
            result["rcodes"][rcode] = result["rcodes"].get(rcode, 0) + count
    result["qps"] = result["answered"] / result["seconds"]
    result["cpu_us"] = result["cpu_seconds"] * 1e6 / result["answered"]
    result["busy_percent"] = 100 * result["cpu_seconds"] / result["seconds"]
    result["lost_percent"] = 100 * result["lost"] / max(1, result["sent"])
    result["others_percent"] = median(part["others_percent"] for part in parts)
    # dnsperf does not say.
    result["late_percent"] = 100 * sum(part.get("late_sends", 0) for part in parts) / max(1, result["sent"])
    if "latency_us" in parts[0]:
        names = parts[0]["latency_us"]
        result["latency_us"] = {name: median(part["latency_us"][name] for part in parts) for name in names}
        result["latency_us"]["max"] = max(part["latency_us"]["max"] for part in parts)
    return result


def wrong_rcodes(load, result):
    """What is wrong with the RCODEs, if anything is."""
    for rcode in {*load.rcodes, *result["rcodes"]}:
        percent = 100 * result["rcodes"].get(rcode, 0) / result["answered"]
        wanted = 100 * load.rcodes.get(rcode, 0)
        if abs(percent - wanted) > TOLERANCE:
            return f"{percent:.2f} % {rcode}, should be {wanted:.0f} %"
    return None


def children_seconds():
    """CPU time of the load generators that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def pinned(command, pass_fds=()):
    command = ["taskset", "-c", str(LOAD_CPU), *[str(word) for word in command]]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # An error is one line then.
        env={**os.environ, "RUST_BACKTRACE": "0"},
        start_new_session=True,
        preexec_fn=ahead_of_others,
        pass_fds=pass_fds,
    )


def dnsperf(port, file, options):
    """Runs dnsperf over ten sockets; what it reports."""
    command = [tool("dnsperf"), "-s", "127.0.0.1", "-p", str(port), "-d", file, "-c", str(SOCKETS), "-t", "2", "-W"]
    done = pinned([*command, *options])
    text = done.stdout

    def number(label, pattern=r"([\d.]+)"):
        found = re.search(rf"{label}:\s+{pattern}", text)
        if not found:
            raise Failed(f"dnsperf reported no {label!r}: {(text + done.stderr).strip()[-500:]}")
        return float(found.group(1))

    rcodes = re.search(r"Response codes:\s+(.*)", text)
    shares = re.findall(r"(\w+) (\d+) \(", rcodes.group(1)) if rcodes else []
    return {
        "seconds": number(r"Run time \(s\)"),
        "sent": int(number("Queries sent")),
        "answered": int(number("Queries completed")),
        "lost": int(number("Queries lost")),
        "rcodes": {name: int(count) for name, count in shares},
    }
