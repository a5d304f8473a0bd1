"""Programs that look names up, as a CI job has them. Run as a script in the client's namespace, it runs them.

Reads a plan from standard input as JSON: {"programs": {name: command}, "names": {name: [..]}, "pause", "address"}.
Writes a list of lookups: {"program", "name", "seconds", "error"}, `error` being null if the address was found.
"""

import concurrent.futures
import json
import re
import subprocess
import sys
import time
from pathlib import Path

STUBS = Path(__file__).resolve().parents[1] / "stub_resolvers"

# Longer than any of them takes by itself: dig gives up after 15 s, glibc with three servers after 26 s.
PATIENCE = 60

# What the AAAA records of every name say.
IPV6 = "2001:db8::1"

PYTHON = """import socket, sys
try:
    print(*{found[4][0] for found in socket.getaddrinfo(sys.argv[1], 443)}, sep="\\n")
except OSError as error:
    sys.exit(f"socket.gaierror: {error}")"""


def build(directory):
    """{name: command} of the programs; those of ours are compiled into the directory."""
    from kit.process import run

    musl, go = directory / "lookup-musl", directory / "lookup-go"
    run(["musl-gcc", "-Wall", "-static", "-o", musl, STUBS / "lookup.c"])
    run(["go", "build", "-o", go, STUBS / "lookup.go"])
    return {
        "getent": ["getent", "ahosts"],
        "musl": [str(musl)],
        "Go": ["env", "GODEBUG=netdns=go", str(go)],
        "Python": [sys.executable, "-I", "-S", "-c", PYTHON],
        "dig": ["dig"],
    }


def lookup(program, command, name, address):
    started = time.monotonic()
    try:
        done = subprocess.run([*command, name], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        found = re.search(rf"(^|\s){re.escape(address)}(\s|$)", done.stdout) is not None
        error = None if found else reason(program, done, name)
    except subprocess.TimeoutExpired:
        error = f"nothing after {PATIENCE} s"
    return {"program": program, "name": name, "seconds": round(time.monotonic() - started, 4), "error": error}


def reason(program, done, name):
    """What it says of a failure, without what differs from one to the next."""
    text = (done.stdout + done.stderr).strip()
    if program == "dig":
        status = re.search(r"status: (?!NOERROR)(\w+)", text)
        lines = [line for line in text.splitlines() if line.startswith(";;") and "no servers" in line]
        text = status.group(0) if status else (lines or [text])[0].strip("; ")
    if IPV6 in text:
        return "found, but without its IPv4 address"
    text = text.replace(name, "NAME")
    # Ports of clients.
    text = re.sub(r"(udp|tcp) [\d.]+:\d+->", r"\1 ", text)
    return text[:200] or f"(nothing; status {done.returncode})"


def main():
    plan = json.load(sys.stdin)
    # In turns, so that all programs meet the same seconds of the fault.
    turns = [
        (program, name) for turn in zip(*plan["names"].values()) for program, name in zip(plan["names"], turn)
    ]
    started = time.monotonic()
    running = []
    with concurrent.futures.ThreadPoolExecutor(len(turns)) as pool:
        for number, (program, name) in enumerate(turns):
            # At a fixed pace, whether earlier ones have ended or not, as jobs start them.
            time.sleep(max(0.0, started + number * plan["pause"] - time.monotonic()))
            running.append(pool.submit(lookup, program, plan["programs"][program], name, plan["address"]))
    json.dump([one.result() for one in running], sys.stdout)


if __name__ == "__main__":
    main()
