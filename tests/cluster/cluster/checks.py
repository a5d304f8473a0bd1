"""The checks' frame: each is a function with a claim; the table says of each whether it held, and what was seen."""

import time
import traceback

from .node import Failed

CHECKS = []


class Broken(Failed):
    """The claim does not hold; the message is what was seen."""


def check(claim, expected_failure=None):
    """Registers a check. `expected_failure` says why it cannot hold yet; a check that then holds is reported too."""
    def register(function):
        CHECKS.append((function.__name__, claim, expected_failure, function))
        return function
    return register


def claim(true, seen):
    if not true:
        raise Broken(seen)


def run(cluster, only=()):
    """Runs checks in order, prints the table, and returns whether everything went as it is expected to."""
    rows, good = [], True
    for name, text, expected_failure, function in CHECKS:
        if only and name not in only:
            continue
        print(f"--- {name}: {text}", flush=True)
        began = time.monotonic()
        try:
            seen, held = function(cluster), True
        except Failed as failed:
            seen, held = str(failed), False
        except Exception:
            # A fault of the check itself is no reason to lose the table.
            seen, held = traceback.format_exc(), False
        if expected_failure is None:
            result = "holds" if held else "FAILED"
        else:
            result = "HOLDS, against expectation" if held else f"fails as expected: {expected_failure}"
        good = good and held == (expected_failure is None)
        print(f"    {result} after {time.monotonic() - began:.0f} s: {seen}", flush=True)
        rows.append((text, result, seen))
    print("\n| Claim | Result | Seen |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(" ".join(str(cell).split())[:600].replace("|", "/") for cell in row) + " |")
    return good
