"""Tables of what the programs saw, and the promises of nodens."""

import json
import sys
from collections import Counter
from statistics import median

from impairments import ROWS

ROW = {row.name: row for row in ROWS}

# A lookup that takes this long is felt.
LONG_SECONDS = 1.0


class Cell:
    """The lookups of one program, or of all, through one forwarder in one row."""

    def __init__(self, lookups):
        self.all = len(lookups)
        self.failed = [one for one in lookups if one["error"]]
        self.found = self.all - len(self.failed)
        self.seconds = sorted(one["seconds"] for one in lookups)
        self.late = sum(one["seconds"] > LONG_SECONDS or bool(one["error"]) for one in lookups)

    def text(self):
        if not self.all:
            return "–"
        return f"{self.share()}; {median(self.seconds):.2f}, {self.seconds[-1]:.2f} s"

    def short(self):
        """As the README has it: names found, and the longest lookup."""
        return f"{self.share()}; {self.seconds[-1]:.1f} s" if self.all else "–"

    def share(self):
        # No rounding up to 100.
        return f"{1000 * self.found // self.all / 10:g} %"


def cell(results, row, forwarder, program=None):
    return Cell(
        [
            one
            for one in results["lookups"]
            if (one["row"], one["forwarder"]) == (row, forwarder) and program in (None, one["program"])
        ]
    )


def there(results, key):
    """The values of a key, in the order in which they were measured."""
    return list(dict.fromkeys(one[key] for one in results["lookups"]))


def progress(row, results, took):
    print(f"{row.title} ({took:.0f} s)", file=sys.stderr)
    for forwarder in there(results, "forwarder"):
        by_program = [f"{program} {cell(results, row.name, forwarder, program).text()}" for program in there(results, "program")]
        print(f"  {forwarder:8} {'  '.join(by_program)}", file=sys.stderr, flush=True)


def titles(results):
    return {name: f"{name} {results['versions'].get(name, '')}".strip() for name in there(results, "forwarder")}


def table(results, program=None, text=Cell.text):
    """Rows by forwarders."""
    names = titles(results)
    yield f"| | {' | '.join(names.values())} |"
    yield "|---" * (len(names) + 1) + "|"
    for row in there(results, "row"):
        cells = [text(cell(results, row, name, program)) for name in names]
        yield f"| {ROW[row].title} | {' | '.join(cells)} |"


def errors(results):
    """What programs say when they fail."""
    counts = Counter(
        (one["row"], one["forwarder"], one["program"], one["error"]) for one in results["lookups"] if one["error"]
    )
    yield "| | Forwarder | Program | Times | It says |"
    yield "|---|---|---|---|---|"
    for (row, forwarder, program, error), count in counts.items():
        text = error.replace("|", "\\|").replace("\n", " / ")
        yield f"| {ROW[row].title} | {forwarder} | {program} | {count} | `{text}` |"


def is_more(count, other):
    """Whether one of two counts is the larger by more than chance explains: three standard deviations of their difference."""
    return count - other > 1 + 3 * (count + other) ** 0.5


def broken(results):
    """The promises that nodens broke, one a line."""
    peers = [name for name in there(results, "forwarder") if name not in ("nodens", "direct")]
    for name in there(results, "row") if "nodens" in there(results, "forwarder") else []:
        row, own = ROW[name], cell(results, name, "nodens")
        for program in there(results, "program"):
            one = cell(results, name, "nodens", program)
            if row.promised and one.found < one.all:
                yield f"{row.title}: {program} found {one.found} of {one.all} names: {one.failed[0]['error']}"
            if row.within is not None and one.seconds[-1] > row.within:
                yield f"{row.title}: {program} waited {one.seconds[-1]:.1f} s, {row.within} s are promised"
        if not row.compared:
            continue
        for what, count in [("failed", lambda one: len(one.failed)), (f"failed or took over {LONG_SECONDS} s", lambda one: one.late)]:
            counts = {peer: count(cell(results, name, peer)) for peer in peers}
            best = min(counts, key=counts.get, default=None)
            if best is not None and is_more(count(own), counts[best]):
                yield f"{row.title}: {count(own)} of {own.all} lookups {what}; with {best}, {counts[best]}"


def dump(results):
    """JSON with a lookup a line."""
    lookups = ",\n".join("  " + json.dumps(one) for one in results["lookups"])
    rest = json.dumps({key: value for key, value in results.items() if key != "lookups"}, indent=1)
    return f'{rest[:-2]},\n "lookups": [\n{lookups}\n ]\n}}\n'


def show(results):
    """Prints all of it; the exit status."""
    machine = results["machine"]
    print(f"{results['started']}; {machine['cpus']} × {machine['cpu']}, Linux {machine['kernel']}, {machine['system']}; ", end="")
    print(", ".join(f"{name} {version}" for name, version in results["versions"].items()))
    print("\n### In short: names found; longest lookup\n")
    print("\n".join(table(results, text=Cell.short)))
    for program in [None, *there(results, "program")]:
        print(f"\n### {program or 'All programs'}: names found; median, longest lookup\n")
        print("\n".join(table(results, program)))
    if any(one["error"] for one in results["lookups"]):
        print("\n### What they say when they fail\n")
        print("\n".join(errors(results)))
    for note in results["notes"]:
        print(f"\nBackground, {ROW[note['row']].title}, {note['forwarder']}: {note['background']}")
    for name, why in results["missing"].items():
        print(f"\nNOT MEASURED: {name}: {why}")
    complaints = list(broken(results))
    for complaint in complaints:
        print(f"\nBROKEN: {complaint}")
    if not complaints:
        print("\nnodens kept every promise.")
    return 1 if complaints else 0
