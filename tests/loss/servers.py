"""The servers behind the router, and the forwarders on the node."""

import os
import sys
from pathlib import Path

from kit import install, peers
from kit.process import Failed, Process, run, tool

from network import NODE, SERVERS

ZONE = "loss.example"
ADDRESS = "192.0.2.1"
# The servers and the forwarder share what clients leave.
CPUS = f"0-{os.cpu_count() - 1}"

# 120 addresses make an answer of 2 KB.
BIG = [f"*.big.{ZONE}. A 192.0.2.{number}" for number in range(1, 121)]
# The whole name space, so that probes of forwarders (". NS") have an answer as they would elsewhere.
ROOT = "\n".join(
    ["$TTL 300", "@ SOA a.root. root.root. 1 3600 600 86400 60", "@ NS a.root.", f"a.root. A {SERVERS[0]}"]
    + [f"*.{ZONE}. A {ADDRESS}", f"*.{ZONE}. AAAA 2001:db8::1", *BIG, f"*.big.{ZONE}. AAAA 2001:db8::1", ""]
)


def authority(network, directory, row):
    """Starts the servers of a row: NSD, or one that takes its time. They are one process with three addresses."""
    if row.delay:
        script = Path(__file__).with_name("slow.py")
        command = [sys.executable, [script, row.delay, ADDRESS, *row.listening]]
    else:
        interfaces = [f"{address}@53" for address in row.listening]
        # Answers of 2 KB go out whole to whoever takes them.
        file = peers.nsd_configuration(directory, {".": ROOT}, interfaces, "  ipv4-edns-size: 4096\n")
        command = [tool("nsd"), ["-d", "-c", file]]
    process = Process("authority", network.command(*command, "servers"), directory / "authority.log", CPUS)
    try:
        process.wait_until(lambda: answers(network, row.listening[0]))
    except BaseException:
        process.stop()
        raise
    return process


def answers(network, server):
    """Whether the client gets the address of some name from this server."""
    arguments = ["+short", "+time=1", "+tries=1", f"@{server}", f"ready.{ZONE}", "A"]
    try:
        return ADDRESS in run(network.command("dig", arguments, "client")).split()
    except Failed:
        return False


class OnNode:
    """A forwarder of benches/kit on the node of a network, at port 53, before several servers."""

    address = NODE
    network = None

    def inside(self, command):
        return self.network.command(command[0], command[1:], "node") if self.network else command

    def begin(self, network, directory):
        """A running one that answers. Nothing is in its cache but the name it was asked to see whether it does."""
        running = type(self)(*self.made_with())
        running.network = network
        process = running.launch(directory, 53, SERVERS, CPUS)
        try:
            process.wait_until(lambda: answers(network, NODE))
        except BaseException:
            process.stop()
            raise
        return process

    def made_with(self):
        return (self.tools,)


class Nodens(OnNode, peers.Nodens):
    def made_with(self):
        return self.tools, self.binary

    def launch(self, directory, port, upstream, cpu):
        config = (
            f'listen: ["{NODE}:{port}"]\nsocket: {directory}/nodens.sock\nadmin: null\n'
            f"upstreams: {{vpc: {{servers: [{', '.join(upstream)}]}}}}\nroutes: {{'.': vpc}}\n"
        )
        return self.spawn(directory, [self.binary, "serve", "--config", None], config, cpu)


class Coredns(OnNode, peers.Coredns):
    def launch(self, directory, port, upstream, cpu):
        config = f".:{port} {{\n    bind {NODE}\n    forward . {' '.join(upstream)}\n    cache\n    errors\n}}\n"
        return self.spawn(directory, [self.program(), "-conf", None], config, cpu)


class Unbound(OnNode, peers.Unbound):
    def launch(self, directory, port, upstream, cpu):
        # What it needs to run here; the zone is not signed, so it does not validate. All that decides whom it asks, and how
        # long it waits, is as it comes.
        config = f"""server:
  interface: {NODE}
  access-control: 10.0.0.0/8 allow
{peers.UNBOUND_IN_FOREGROUND}  module-config: "iterator"
remote-control:
  control-enable: no
forward-zone:
  name: "."
"""
        config += "".join(f"  forward-addr: {server}\n" for server in upstream)
        return self.spawn(directory, [self.program(), "-d", "-p", "-c", None], config, cpu)


class Dnsmasq(OnNode, peers.Dnsmasq):
    def launch(self, directory, port, upstream, cpu):
        options = ["--no-resolv", "--no-hosts", "--keep-in-foreground", "--log-facility=-", "--user=root", "--pid-file="]
        options += [f"--listen-address={NODE}", "--bind-interfaces", *(f"--server={server}" for server in upstream)]
        return self.spawn(directory, [self.program(), "-C", None, *options], "", cpu)


class Direct:
    """No forwarder: the client's resolv.conf names the servers."""

    name = "direct"


def forwarders(names, tools, binary):
    """Those of these names that can be had, and {name: why not} of the others."""
    every = {"nodens": lambda: Nodens(tools, binary), "coredns": lambda: Coredns(tools), "unbound": lambda: Unbound(tools)}
    every |= {"dnsmasq": lambda: Dnsmasq(tools), "direct": Direct}
    found, missing = [], {}
    for name in names:
        one = every[name]()
        try:
            if name != "direct":
                one.install()
        except Failed as error:
            missing[name] = str(error)
        else:
            found.append(one)
    return found, missing


def versions(found):
    named = {one.name: one.version() for one in found if one.name != "direct"}
    shown = {"nsd": peers.output(tool("nsd"), "-v"), "dig": peers.output("dig", "-v")}
    shown |= {"glibc": peers.output("ldd", "--version"), "go": peers.output("go", "version")}
    return named | {name: peers.version_in(text) for name, text in shown.items()}


def install_tools():
    wanted = {"nsd": "nsd", "dig": "dnsutils", "musl-gcc": "musl-tools", "ip": "iproute2", "nft": "nftables", "dnsperf": "dnsperf"}
    missing = [package for program, package in wanted.items() if tool(program) is None]
    if missing:
        install.apt(missing)
    if tool("go") is None:
        raise Failed("needs Go, for a client and for CoreDNS")
