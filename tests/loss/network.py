"""The network: a client, a node, a router and the servers, each in a network namespace of its own.

    client 10.53.0.2 -- 10.53.0.1 node 10.53.1.1 -- 10.53.1.2 router 10.53.3.254 -- 10.53.3.1, .2, .3 servers
                                       10.53.2.1 -- 10.53.2.2

The forwarder runs on the node. The node also routes, so that a client can ask the servers directly. Routers and nftables
rules are the kernel's own; loss is decided by chance for each packet and each direction.
"""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from kit.process import Failed, run, tool

PREFIX = "nodens-loss"
CLIENT, NODE = "10.53.0.2", "10.53.0.1"
SERVERS = ["10.53.3.1", "10.53.3.2", "10.53.3.3"]
ROLES = ["client", "node", "router", "servers"]

# Files that `ip netns exec` puts over those of /etc in its mount namespace.
ETC = Path("/etc/netns")

# Forwarding, and replies that arrive by another interface than the route back has (loose reverse path filter).
SYSCTLS = {"net/ipv4/ip_forward": 1, "net/ipv4/conf/all/rp_filter": 2, "net/ipv4/conf/default/rp_filter": 2}


class Network:
    """From `__enter__` to `__exit__`; nothing of it is left then."""

    def __init__(self, number):
        self.names = {role: f"{PREFIX}-{os.getpid()}-{number}-{role}" for role in ROLES}

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def make(self):
        for name in self.names.values():
            run(["ip", "netns", "add", name])
        for role in ["node", "router"]:
            script = "; ".join(f"echo {value} > /proc/sys/{key}" for key, value in SYSCTLS.items())
            run(self.command("sh", ["-c", script], role))
        self.link("client", "node", "node", "client")
        self.link("node", "uplink", "router", "node")
        self.link("node", "back", "router", "around")
        self.link("router", "servers", "servers", "uplink")
        self.batch("client", [f"addr add {CLIENT}/24 dev node", "route add default via 10.53.0.1"])
        self.batch(
            "node",
            ["addr add 10.53.0.1/24 dev client", "addr add 10.53.1.1/24 dev uplink", "addr add 10.53.2.1/24 dev back"]
            + ["route add default via 10.53.1.2"],
        )
        self.batch(
            "router",
            ["addr add 10.53.1.2/24 dev node", "addr add 10.53.2.2/24 dev around", "addr add 10.53.3.254/24 dev servers"]
            + ["route add 10.53.0.0/24 via 10.53.1.1"],
        )
        addresses = [f"addr add {server}/24 dev uplink" for server in SERVERS]
        self.batch("servers", [*addresses, "route add default via 10.53.3.254"])

    def link(self, one, ours, other, theirs):
        """A veth pair, each end named after what it leads to."""
        peer = f"type veth peer name {theirs} netns {self.names[other]}"
        self.batch(one, [f"link add {ours} {peer}", f"link set dev {ours} up", "link set lo up"])
        self.batch(other, [f"link set dev {theirs} up", "link set lo up"])

    def batch(self, role, lines):
        """Lines for `ip` in a namespace."""
        run(["ip", "-n", self.names[role], "-batch", "-"], "\n".join(lines))

    def rules(self, role, text):
        """nftables rules in a namespace."""
        run(self.command(tool("nft") or "nft", ["-f", "-"], role), text)

    def command(self, program, arguments, role):
        """The command that runs a program there, as the same process."""
        return ["ip", "netns", "exec", self.names[role], program, *arguments]

    def resolv_conf(self, nameservers):
        """What programs of the client find in /etc; all options have their defaults."""
        etc = ETC / self.names["client"]
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "resolv.conf").write_text("".join(f"nameserver {address}\n" for address in nameservers))
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")

    def remove(self):
        remove(self.names.values())


def remove(names):
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        shutil.rmtree(ETC / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        # Only if it is empty, that is, if nobody else has anything there.
        ETC.rmdir()


def remove_leftovers():
    """What runs left that were killed outright."""
    listed = run(["ip", "netns", "list"])
    for name in re.findall(rf"^({PREFIX}-\d+-\S+)", listed, re.MULTILINE):
        if not Path("/proc", name.removeprefix(f"{PREFIX}-").split("-")[0]).exists():
            remove([name])


def need_root_and_tools():
    if os.geteuid() != 0:
        raise Failed("needs root, for network namespaces")
    for program, package in [("ip", "iproute2"), ("nft", "nftables")]:
        if tool(program) is None:
            raise Failed(f"needs {package}")
