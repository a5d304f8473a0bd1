"""What nodens is meant to reach, and where it stands: every aim with its limit and what was measured."""

from dataclasses import dataclass

from . import loads, tables


@dataclass
class Aim:
    """One line: what is compared, the limit, and the ratio or size of the medians and of the best rounds."""

    what: str
    limit: float
    medians: float
    least: float
    unit: str = "×"

    def holds(self):
        return self.medians <= self.limit

    def row(self):
        digits = {"MB": 1, "µs": 0}.get(self.unit, 2)
        verdict = "holds" if self.holds() else f"missed by {100 * (self.medians / self.limit - 1):.0f} %"
        sizes = (self.limit, self.medians, self.least)
        return [self.what, *(f"{size:.{digits}f} {self.unit}" for size in sizes), verdict]


# Load, server it is compared with, and the most that nodens's CPU time per query may be of that server's.
COSTS = [
    ("hot", "echo", 1.10),
    ("hot", "dnsdist", 0.82),
    ("wide", "echo", 1.20),
    ("wide", "dnsdist", 0.82),
    ("miss", "dnsdist", 0.75),
    ("miss", "unbound", 0.35),
]

# Loads under which nodens is meant to be below every other server.
BELOW_ALL = ["search", "mixed", "tcp"]

# The same at a fixed rate.
PACED_COSTS = [
    ("hot", "echo", 1.15),
    ("miss", "dnsdist", 0.90),
]

# Load: p99 in microseconds under `scheduling: realtime` while jobs take all CPUs.
BUSY_P99_US = {"busy": 150, "busy-miss": 300}
BUSY_MAX_US = 2_000

P50_OF_THE_BEST = 1.00
IDLE_MB = 7.0
WIDE_MB = 32.0
FULL_CACHE = 1.15
MILLION_ENTRIES = 1.4
TEN_THOUSAND_ROUTES = 1.1


def ratios(own, other, *keys):
    """The ratio of the medians and that of the best rounds."""
    return own.median(*keys) / other.median(*keys), own.least(*keys) / other.least(*keys)


def of_compare(report):
    """The aims that `compare` measures, as far as it did."""
    for load, peer, limit in COSTS:
        cells = tables.cells(report, load, None)
        for name in of_kind(cells, peer) if "nodens" in cells else []:
            yield Aim(f"{load}: CPU per query ÷ {name}'s", limit, *ratios(cells["nodens"], cells[name], "cpu_us"))
    for load in BELOW_ALL:
        yield from below_all(load, tables.cells(report, load, None))
    for load, rate in tables.pairs(report):
        if rate is not None and load not in loads.BUSY_LOADS:
            cells = tables.cells(report, load, rate)
            yield from latency(load, rate, cells)
            yield from paced_costs(load, rate, cells)
        elif load in BUSY_P99_US:
            yield from busy(load, tables.cells(report, load, rate))
    own = [result for result in report["results"] if result["peer"] == "nodens"]
    if own:
        cell = tables.Cell(own)
        yield Aim("resident when idle, one worker", IDLE_MB, cell.median("idle_mb"), cell.least("idle_mb"), "MB")
    wide = tables.cells(report, "wide", None).get("nodens")
    if wide:
        size = wide.median("peak_mb"), wide.least("peak_mb")
        yield Aim("peak with 100,000 A answers cached", WIDE_MB, *size, "MB")


def others(cells):
    return {name: cell for name, cell in cells.items() if tables.kind(name) not in ["nodens", *tables.FLOORS]}


def of_kind(cells, kind):
    return [name for name in cells if tables.kind(name) == kind]


def below_all(load, cells):
    peers = others(cells)
    if "nodens" in cells and peers:
        best = min(peers, key=lambda name: peers[name].median("cpu_us"))
        measured = ratios(cells["nodens"], peers[best], "cpu_us")
        yield Aim(f"{load}: CPU per query ÷ the best other's ({best})", 1.0, *measured)


def latency(load, rate, cells):
    peers = others(cells)
    if "nodens" not in cells or not peers:
        return
    best = min(peers, key=lambda name: peers[name].median("latency_us", "p50"))
    measured = ratios(cells["nodens"], peers[best], "latency_us", "p50")
    yield Aim(f"{load} at {rate:,}/s: p50 ÷ the best other's ({best})", P50_OF_THE_BEST, *measured)
    for name in of_kind(peers, "dnsdist"):
        measured = ratios(cells["nodens"], peers[name], "latency_us", "p99")
        yield Aim(f"{load} at {rate:,}/s: p99 ÷ {name}'s", 1.0, *measured)


def paced_costs(load, rate, cells):
    for of_load, peer, limit in PACED_COSTS:
        for name in of_kind(cells, peer) if load == of_load and "nodens" in cells else []:
            what = f"{load} at {rate:,}/s: CPU per query ÷ {name}'s"
            yield Aim(what, limit, *ratios(cells["nodens"], cells[name], "cpu_us"))


def busy(load, cells):
    for name in cells:
        if tables.kind(name) == "nodens" and name != "nodens":
            for what, limit, key in [("p99", BUSY_P99_US[load], "p99"), ("longest", BUSY_MAX_US, "max")]:
                measured = cells[name].median("latency_us", key), cells[name].least("latency_us", key)
                yield Aim(f"{load}: {what}, {name}", limit, *measured, "µs")


def of_scaling(report):
    """The aims that `scaling` measures, as far as it did."""
    for what, limit, plot, series, first, last in [
        ("hit, 1,000 → 1,000,000 entries", MILLION_ENTRIES, "entries", "nodens", 1_000, 1_000_000),
        ("hit, 1 → 10,000 routes", TEN_THOUSAND_ROUTES, "routes", "hit", 1, 10_000),
        ("miss, 1 → 10,000 routes", TEN_THOUSAND_ROUTES, "routes", "miss", 1, 10_000),
    ]:
        ends = [at(report, plot, series, x) for x in (last, first)]
        if all(ends):
            yield Aim(f"{what}: CPU per query", limit, *ratios(*map(tables.Cell, ends), "cpu_us"))
    for size in sorted({result["x"] for result in report["results"] if result["plot"] == "full"}):
        # What the cache adds to the idle process.
        results = at(report, "full", "resident memory", size)
        added = tables.Cell([{"mb": (result["peak_mb"] - result["idle_mb"]) / (size * 1.048576)} for result in results])
        yield Aim(f"memory that a full cache adds ÷ its max_size, {size} MiB", FULL_CACHE, added.median("mb"), added.least("mb"))


def at(report, plot, series, x):
    """The results of one point of a plot."""
    return [
        result
        for result in report["results"]
        if (result["plot"], result["series"], result["x"]) == (plot, series, x)
    ]


def rows(aims):
    """The table of aims; empty when nothing was measured that has one."""
    found = [aim.row() for aim in aims]
    return [["aim", "at most", "medians", "best rounds", ""], *found] if found else []
