"""Tables of results: medians over the rounds, and ratios of medians."""

import json
from statistics import median

# A compiler beside the measurement takes this much; a quiet machine takes a few percent.
NOISY_PERCENT = 15

# The load generator of the figures that have no other's name; results of earlier versions name none.
OURS = "load"

# Names of the servers that are the floor of loads.
FLOORS = ["echo", "relay"]

# Queries in percent that may leave over a millisecond after their time before a table says so.
LATE_PERCENT = 1


def line(result, rounds):
    """One measurement, as progress."""
    at = "full speed" if result["rate"] is None else f"{result['rate']}/s"
    if result.get("generator", OURS) != OURS:
        at = result["generator"]
    latency = result.get("latency_us")
    shown = f"p50 {latency['p50']:.0f} p99 {latency['p99']:.0f} us" if latency else f"{result['qps']:.0f} qps"
    wrong = f"  WRONG: {result['wrong']}" if result.get("wrong") else ""
    return (
        f"  round {result['round'] + 1}/{rounds}  {result['load']:6} {at:>10}  {result['peer']:15} {shown:>24}"
        f"  {result['cpu_us']:7.2f} us/query  lost {result['lost_percent']:.2f} %"
        f"  others {result['others_percent']:.0f} %{wrong}"
    )


def dump(report):
    """JSON with one result a line, so that it can be read and compared by line."""
    results = ",\n".join("  " + json.dumps(result) for result in report["results"])
    rest = json.dumps({key: value for key, value in report.items() if key != "results"}, indent=1)
    return rest[:-2] + f',\n "results": [\n{results}\n ]\n}}\n'


class Cell:
    """The results of one server under one load, all rounds."""

    def __init__(self, results):
        self.results = results

    def values(self, *keys):
        for result in self.results:
            for key in keys:
                result = result[key]
            yield result

    def median(self, *keys):
        return median(self.values(*keys))

    def least(self, *keys):
        """The best round. Other programs can only add to it, so it is nearest to what a quiet machine would show."""
        return min(self.values(*keys))

    def calls(self):
        """System calls for each query, of the rounds in which they could be counted."""
        return [result["calls_per_query"] for result in self.results if "calls_per_query" in result]

    def first(self, key):
        """What is wrong, or missing, in the first round that says so under this key."""
        return next((result[key] for result in self.results if result.get(key)), None)

    def wrong(self):
        return self.first("wrong")


def cells(report, load, rate, generator=OURS):
    """The servers under a load, nodens first, then as they were named."""
    found = {}
    for result in report["results"]:
        if (result["load"], result["rate"], result.get("generator", OURS)) == (load, rate, generator):
            found.setdefault(result["peer"], []).append(result)
    order = [name for name in report["versions"] if name in found]
    return {name: Cell(found[name]) for name in order}


def pairs(report):
    """The (load, rate) pairs there are, in the order they were measured."""
    return list(dict.fromkeys((result["load"], result["rate"]) for result in report["results"]))


def ratio(value, base):
    return f"{value / base:.2f}" if base else "–"


def flood_table(report, load):
    """Full speed: what a query costs."""
    by_peer = cells(report, load, None)
    own = by_peer["nodens"].median("cpu_us") if "nodens" in by_peer else None
    floors = [cell.median("cpu_us") for name, cell in by_peer.items() if name in FLOORS]
    floor = floors[0] if floors else None
    by_dnsperf = cells(report, load, None, "dnsperf")
    head = ["server", "qps", "CPU µs/query", "least", "× floor", "nodens ÷ it", "CPU busy %", "lost %", "peak MB"]
    rows = [head + (["dnsperf: qps", "CPU µs/query", "CPU busy %"] if by_dnsperf else [])]
    for name, cell in by_peer.items():
        cost = cell.median("cpu_us")
        rows.append(
            [
                title(report, name) + (" (WRONG)" if cell.wrong() else ""),
                f"{cell.median('qps'):,.0f}",
                f"{cost:.2f}",
                f"{cell.least('cpu_us'):.2f}",
                ratio(cost, floor),
                "" if name == "nodens" or not own else ratio(own, cost),
                f"{cell.median('busy_percent'):.0f}",
                f"{cell.median('lost_percent'):.2f}",
                f"{cell.median('peak_mb'):.1f}",
                *(dnsperf_columns(by_dnsperf.get(name)) if by_dnsperf else []),
            ]
        )
    return rows


def dnsperf_columns(cell):
    if cell is None:
        return ["–", "–", "–"]
    busy = f"{cell.median('busy_percent'):.0f}"
    return [f"{cell.median('qps'):,.0f}" + (" (WRONG)" if cell.wrong() else ""), f"{cell.median('cpu_us'):.2f}", busy]


def paced_table(report, load, rate):
    """A fixed rate: how long a query takes."""
    by_peer = cells(report, load, rate)
    own = by_peer["nodens"].median("cpu_us") if "nodens" in by_peer else None
    counted = any(cell.calls() for cell in by_peer.values())
    calls = ["calls/query"] if counted else []
    head = ["server", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "CPU µs/query", "nodens ÷ it", *calls]
    rows = [[*head, "answered/s", "lost %"]]
    for name, cell in by_peer.items():
        cost = cell.median("cpu_us")
        rows.append(
            [
                title(report, name) + (" (WRONG)" if cell.wrong() else ""),
                *(f"{cell.median('latency_us', key):,.0f}" for key in ["p50", "p99", "p99.9", "max"]),
                f"{cost:.2f}",
                "" if name == "nodens" or not own else ratio(own, cost),
                *([f"{median(cell.calls()):.2f}" if cell.calls() else "–"] if counted else []),
                f"{cell.median('qps'):,.0f}",
                f"{cell.median('lost_percent'):.2f}",
            ]
        )
    return rows


def kind(name):
    """What a server is, whichever variant: "dnsdist" of "dnsdist@trixie"."""
    return name.partition("@")[0]


def title(report, name):
    """A server with its version, and its variant if it has one."""
    if name in FLOORS:
        return f"{name} (floor)"
    variant = name.partition("@")[2]
    return f"{kind(name)} {report['versions'][name]}" + (f" ({variant})" if variant else "")


def heading(load, rate, generator=OURS):
    by = "" if generator == OURS else f", by {generator}"
    return (f"`{load}`, at full speed" if rate is None else f"`{load}`, {rate:,} queries a second") + by


def idle(report):
    by_peer = {}
    for result in report["results"]:
        by_peer.setdefault(result["peer"], []).append(result["idle_mb"])
    rows = [["server", "idle MB"]]
    for name in report["versions"]:
        if name in by_peer:
            rows.append([title(report, name), f"{median(by_peer[name]):.1f}"])
    return rows


def notes(report):
    """What a reader must know before believing the tables."""
    for name, reason in report["missing"].items():
        yield f"NOT MEASURED: {name}: {reason}"
    for load, rate, generator in [(*pair, by) for pair in pairs(report) for by in (OURS, "dnsperf")]:
        for name, cell in cells(report, load, rate, generator).items():
            where = f"{name} under {heading(load, rate, generator)}"
            if cell.wrong():
                yield f"WRONG ANSWERS: {where}: {cell.wrong()}"
            if not cell.calls() and cell.first("calls_missing"):
                yield f"CALLS NOT COUNTED: {where}: {cell.first('calls_missing')}"
            late = max((result.get("late_percent", 0) for result in cell.results), default=0)
            if late > LATE_PERCENT:
                yield f"LATE: {late:.1f} % of the queries to {where} left over 1 ms after their time"
    if any(result.get("calls_by") == "strace" for result in report["results"]):
        yield "CALLS COUNTED BY STRACE: it slows servers down, so at high rates calls/query is lower than without it"
    noisy = [result for result in report["results"] if result["others_percent"] > NOISY_PERCENT]
    if noisy:
        yield (
            f"NOISY: during {len(noisy)} of {len(report['results'])} measurements other programs took more than "
            f"{NOISY_PERCENT} % of a CPU"
        )


def text_table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells_of = [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        yield "  ".join(cells_of).rstrip()


def markdown_table(rows):
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + "---|" + "---:|" * (len(rows[0]) - 1)
    for row in rows[1:]:
        bold = row[0].startswith("nodens")
        yield "| " + " | ".join(f"**{cell}**" if bold and cell else cell for cell in row) + " |"


def table(report, load, rate):
    return flood_table(report, load) if rate is None else paced_table(report, load, rate)


def about(report):
    """The machine and the versions, in two lines."""
    machine = report["machine"]
    virtual = "virtual, " if machine["virtual"] else ""
    versions = ", ".join(title(report, name) for name in report["versions"] if name not in FLOORS)
    return (
        f"\n{machine['cpus']} × {machine['cpu']} ({virtual}{machine['memory_gb']} GB), Linux {machine['kernel']}, "
        f"{machine['system']}\n{versions}"
    )


def sections(report):
    """(heading, rows) of every table there is, in the order they were measured."""
    for load, rate in pairs(report):
        yield heading(load, rate), table(report, load, rate)
    if report["results"]:
        yield "Memory before the first query", idle(report)


def render(named_tables, markdown):
    """Tables under their headings, as one text."""
    draw = markdown_table if markdown else text_table
    mark = "### " if markdown else ""
    parts = [f"{mark}{name}\n\n" + "\n".join(draw(rows)) for name, rows in named_tables]
    return "\n\n".join(parts)
