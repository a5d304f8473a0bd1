"""The loads: files of NAME TYPE lines, the same for every server, and the zones they are answered from."""

import bisect
import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path

# Not below `test.`, which Unbound answers by itself.
ZONE = "bench.example"
SUFFIXES = ["ci.svc.cluster.local", "svc.cluster.local", "cluster.local"]

ZONE_TEXT = f"""$ORIGIN {ZONE}.
$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
ns A 127.0.0.1
* A 192.0.2.1
* AAAA 2001:db8::1
"""

# 300 s rather than kube-dns's 30 s for "no such name", so that nothing expires during a run.
CLUSTER_TEXT = """$ORIGIN cluster.local.
$TTL 300
@ SOA ns.dns hostmaster 1 7200 1800 86400 300
@ NS ns.dns
ns.dns A 127.0.0.1
"""

# A run consists of so many parts, with the other servers' parts in between.
PARTS = 5

# A file for each part, and one for the turn in which system calls are counted.
FILES = PARTS + 1

# A part of a second or so uses up to so many queries; `miss` must not come round to its first name.
MISS_LINES = 300_000


@dataclass
class Load:
    """What is asked, and what the answers must look like."""

    name: str
    # FILES of them; all the same, where a name may be asked again.
    files: list
    # Asked once before the run, so that the cache holds what it may hold; None for loads that are not to be cached.
    warm: Path | None
    # RCODE: its share of the answers.
    rcodes: dict
    tcp: bool = False
    once: bool = False
    # The server that does only what any server must do: the echo for hits over UDP, the relay for misses.
    floor: str | None = None
    # Whether the CPUs are taken meanwhile: see busy.py.
    busy: bool = False
    # Queries a second, for loads that have a rate of their own.
    rate: int | None = None
    # Turns that a run is split into.
    turns: int = PARTS


def write(path, lines):
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("w") as out:
            out.writelines(line + "\n" for line in lines)
        part.rename(path)
    return path


def hot_names(count=1_000):
    return [f"host{number}.hot.{ZONE}" for number in range(count)]


def zipf(names, count, seed):
    """`count` draws by Zipf's law with exponent 1: the n-th name is asked 1/n as often as the first."""
    draw = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))
    for _ in range(count):
        yield names[bisect.bisect_left(weights, draw.random() * weights[-1])]


def new_names(label, count, seed=0):
    """Names that nobody asked before. Their order says nothing, as with real ones."""
    draw = random.Random(f"{label} {seed}")
    for number in range(count):
        yield f"{draw.randrange(16**6):06x}{number:x}.{label}.{ZONE}"


def expanded(name):
    """What a stub resolver asks for an external name under `ndots:5`: the search list first, A and AAAA each."""
    for candidate in [f"{name}.{suffix}" for suffix in SUFFIXES] + [name]:
        yield f"{candidate} A"
        yield f"{candidate} AAAA"


def hot(directory):
    file = write(directory / "hot.txt", (f"{name} A" for name in hot_names()))
    return Load("hot", [file] * FILES, file, {"NOERROR": 1.0}, floor="echo")


def wide(directory):
    names = [f"w{number:x}.wide.{ZONE}" for number in range(100_000)]
    warm = write(directory / "wide-warm.txt", (f"{name} A" for name in names))
    file = write(directory / "wide.txt", (f"{name} A" for name in zipf(names, 1_000_000, 1)))
    return Load("wide", [file] * FILES, warm, {"NOERROR": 1.0}, floor="echo")


def miss(directory):
    warm = write(directory / "miss-warm.txt", (f"{name} A" for name in new_names("before", 3_000)))
    files = [
        write(directory / f"miss-{part}.txt", (f"{name} A" for name in new_names(f"miss{part}", MISS_LINES)))
        for part in range(FILES)
    ]
    return Load("miss", files, warm, {"NOERROR": 1.0}, once=True, floor="relay")


def search(directory):
    names = [f"service{number}.ext.{ZONE}" for number in range(1_000)]
    warm = write(directory / "search-warm.txt", (line for name in names for line in expanded(name)))
    draw = random.Random(2)
    chosen = (draw.choice(names) for _ in range(100_000))
    file = write(directory / "search.txt", (line for name in chosen for line in expanded(name)))
    return Load("search", [file] * FILES, warm, {"NXDOMAIN": 0.75, "NOERROR": 0.25}, floor="echo")


def tcp(directory):
    load = hot(directory)
    return Load("tcp", load.files, load.warm, load.rcodes, tcp=True)


def mixed(directory):
    names = hot_names()

    def lines(part):
        draw = random.Random(f"mixed {part}")
        for new in new_names(f"mixed{part}", 50_000):
            for _ in range(9):
                yield f"{draw.choice(names)} A"
            yield f"{new} A"

    files = [write(directory / f"mixed-{part}.txt", lines(part)) for part in range(FILES)]
    warm = write(directory / "hot.txt", (f"{name} A" for name in names))
    return Load("mixed", files, warm, {"NOERROR": 1.0}, once=True)


# What a node asks when it has other work.
BUSY_RATE = 500


def on_a_busy_node(load, name):
    # One long turn: the 999th of 1,000 latencies needs thousands of them.
    return replace(load, name=name, busy=True, rate=BUSY_RATE, turns=1)


def busy(directory):
    return on_a_busy_node(hot(directory), "busy")


def busy_miss(directory):
    return on_a_busy_node(miss(directory), "busy-miss")


LOADS = {load.__name__: load for load in [hot, wide, miss, search, tcp, mixed]}

# Those that have a rate of their own.
BUSY_LOADS = {"busy": busy, "busy-miss": busy_miss}
