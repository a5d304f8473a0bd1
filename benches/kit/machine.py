"""What the figures were taken on."""

import os
import platform
import re
from pathlib import Path

from .peers import output, version_in
from .process import tool


def describe():
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024
    system = re.search(r'^PRETTY_NAME="(.*)"$', Path("/etc/os-release").read_text(), re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "virtual": " hypervisor" in cpuinfo,
        "memory_gb": round(memory / 1e9),
        "kernel": platform.release(),
        "system": system.group(1) if system else "unknown",
    }


def command(arguments):
    """The command as others would type it: their paths are not these."""
    words = []
    for word in arguments:
        if words and words[-1] == "--nodens":
            word = "PATH"
        elif "/" in word and words and words[-1] in ("--json", "--plots"):
            word = Path(word).name
        words.append(word)
    return " ".join(words)


def tool_versions():
    versions = {"dnsperf": version_in(output(tool("dnsperf"), "-H"))}
    if tool("rustc"):
        versions["rustc"] = version_in(output(tool("rustc"), "--version"))
    return versions
