"""The servers that are compared: where each comes from, and its configuration.

All get one thread for the work (dnsdist has a second one for responses, by design), room in the cache for twice the
100,000 names of `wide`, and what their own documentation says makes them fast. None validates DNSSEC or logs queries.
"""

import grp
import os
import pwd
import re
import subprocess
from pathlib import Path

from . import dns, install, loads
from .process import SERVER_CPU, Failed, Process, free_port, tool

COREDNS = "github.com/coredns/coredns@v1.14.1"
HICKORY = "0.26.3"

# Answers each cache has room for: twice what `wide` asks for.
CACHE_ENTRIES = 200_000
# The same in bytes, where a cache is sized so.
CACHE_MIB = 64


class Peer:
    """One kind of server. `start` gives a running one."""

    name = ""
    # File of the program, for what Debian packages.
    package = None
    # Debian's package of it, if that is called otherwise.
    debian_package = None
    # What it says its version to.
    version_option = "--version"
    # Whether it is the floor of loads, which plays only in those.
    floor = False
    # Whether its answers are a DNS server's.
    answers = True
    # What it listens on, and the network of its clients. Only nodens, the echo and dnsdist can be put elsewhere.
    address = "127.0.0.1"
    clients = "127.0.0.0/8"
    # Whether it runs under SCHED_RR on its own account.
    realtime = False

    def __init__(self, tools, tree=None):
        # Directory of what is not a Debian package.
        self.tools = tools
        # The tree of another Debian suite that it runs in; None for the machine's own programs.
        self.tree = tree
        if tree:
            self.name = f"{self.name}@{tree.name}"

    def program(self):
        return self.tree.program(self.package) if self.tree else tool(self.package)

    def install(self):
        """Gets the program if it is missing; raises Failed with the reason if it cannot be had."""
        if self.program() is None:
            package = self.debian_package or self.package
            if self.tree:
                self.tree.install(package)
            else:
                install.apt([package])

    def version(self):
        return version_in(output(*self.inside([self.program(), self.version_option])))

    def inside(self, command):
        """The command that runs `command` where the program is: here, or in a tree."""
        return self.tree.inside(command) if self.tree else command

    def plays(self, load):
        """Whether this load tells anything about it."""
        return load.floor == self.name or not self.floor

    def start(self, directory, upstream, cpu=SERVER_CPU):
        """A server in front of the port `upstream`, when it answers correctly."""
        port = free_port()
        process = self.launch(directory, port, upstream, cpu)
        process.port, process.address = port, self.address
        try:
            process.wait_until(lambda: self.ready(port))
        except BaseException:
            process.stop()
            raise
        return process

    def ready(self, port):
        # As a name of its own, so that no load's first query is a hit because of this.
        return dns.ask(port, f"ready.{loads.ZONE}", "A", 0.1, self.address) == ("NOERROR", [(1, bytes([192, 0, 2, 1]))])

    def launch(self, directory, port, upstream, cpu):
        raise NotImplementedError

    def spawn(self, directory, command, config, cpu, environment=None):
        """Writes the configuration, puts its path in place of None, and starts the program."""
        file = directory / f"{self.name}.conf"
        inside = file
        if self.tree:
            # One server of a name runs at a time.
            inside = Path("/tmp", file.name)
            file = self.tree.path / "tmp" / file.name
        file.write_text(config)
        command = self.inside([inside if word is None else word for word in command])
        return Process(self.name, command, directory / f"{self.name}.log", cpu, environment)


def output(*command):
    """What a program prints, wherever it prints it."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def version_in(text):
    found = re.search(r"\d+\.\d+[\w.]*", text)
    return found.group() if found else "unknown"


class Nodens(Peer):
    name = "nodens"
    # Sections of the configuration to replace or add; `scaling` uses it.
    extra = ""
    workers = 1
    max_size = f"{CACHE_MIB}MiB"

    def __init__(self, tools, binary):
        super().__init__(tools)
        self.binary = Path(binary)

    def program(self):
        return self.binary

    def install(self):
        pass

    def routes(self):
        return f'upstreams:\n  authority:\n    servers: ["127.0.0.1:{self.upstream}"]\n'

    def launch(self, directory, port, upstream, cpu):
        self.upstream = upstream
        config = (
            f'listen: ["{self.address}:{port}"]\nadmin: "127.0.0.1:{free_port()}"\nworkers: {self.workers}\n'
            f"cache: {{max_size: {self.max_size}}}\n{self.routes()}{self.extra}"
        )
        return self.spawn(directory, [self.binary, "serve", "--config", None], config, cpu)


class NodensRealtime(Nodens):
    """nodens with its workers under SCHED_RR, on a busy node: elsewhere nothing competes with it."""

    name = "nodens@realtime"
    extra = "scheduling: realtime\n"
    realtime = True

    def plays(self, load):
        return load.busy

    def start(self, directory, upstream, cpu=SERVER_CPU):
        process = super().start(directory, upstream, cpu)
        threads = [int(thread) for thread in os.listdir(f"/proc/{process.child.pid}/task")]
        if not any(os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR for thread in threads):
            process.stop()
            raise Failed(f"no thread runs under SCHED_RR: {process.last_words()}")
        return process


class Echo(Peer):
    """The floor of hits: replies without looking. Not a DNS server."""

    name = "echo"
    floor = True
    answers = False

    def version(self):
        return "unknown"

    def __init__(self, tools, binary):
        super().__init__(tools)
        self.binary = Path(binary)

    def program(self):
        return self.binary

    def install(self):
        pass

    def ready(self, port):
        return dns.ask(port, f"ready.{loads.ZONE}", "A", 0.1, self.address) is not None

    def launch(self, directory, port, upstream, cpu):
        return Process("echo", [self.binary, f"{self.address}:{port}"], directory / "echo.log", cpu)


class Relay(Echo):
    """The floor of misses: passes queries on and answers back without looking."""

    name = "relay"
    answers = True
    ready = Peer.ready

    def launch(self, directory, port, upstream, cpu):
        command = [self.binary, f"{self.address}:{port}", f"127.0.0.1:{upstream}"]
        return Process("relay", command, directory / "relay.log", cpu)


FLOORS = [Echo, Relay]


class Dnsdist(Peer):
    name = "dnsdist"
    package = "dnsdist"

    def launch(self, directory, port, upstream, cpu):
        # "Performance Tuning" of its manual: packet cache, recvmmsg batches, enough outstanding queries. One listener
        # is one thread.
        config = f"""
setLocal('{self.address}:{port}')
setACL('{self.clients}')
setMaxUDPOutstanding(65535)
setUDPSocketBufferSizes(4194304, 4194304)
setUDPMultipleMessagesVectorSize({self.vector})
setMaxTCPClientThreads(1)
setMaxTCPQueriesPerConnection(0)
newServer({{address='127.0.0.1:{upstream}', checkName='{loads.ZONE}.', checkType='SOA', sockets={self.sockets}}})
getPool(''):setCache(newPacketCache({CACHE_ENTRIES}, {{maxTTL=86400}}))
"""
        command = [self.program(), "--supervised", "--disable-syslog", "-C", None]
        return self.spawn(directory, command, config, cpu)

    vector = 64
    sockets = 1


# Lines of Unbound's `server:` for a child process that leaves no files behind.
UNBOUND_IN_FOREGROUND = """  directory: "/"
  pidfile: ""
  chroot: ""
  username: ""
  use-syslog: no
  do-daemonize: no
"""


class Unbound(Peer):
    name = "unbound"
    package = "unbound"
    version_option = "-V"

    def launch(self, directory, port, upstream, cpu):
        # "Performance Tuning" of its manual: cache sizes with the RRset cache twice the message cache, large socket
        # buffers, outgoing-range and num-queries-per-thread for a libevent build; one thread, so one slab.
        config = f"""server:
  interface: 127.0.0.1@{port}
  port: {port}
{UNBOUND_IN_FOREGROUND}  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  module-config: "iterator"
  num-threads: 1
  msg-cache-slabs: 1
  rrset-cache-slabs: 1
  infra-cache-slabs: 1
  key-cache-slabs: 1
  msg-cache-size: {CACHE_MIB}m
  rrset-cache-size: {2 * CACHE_MIB}m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  so-rcvbuf: 4m
  so-sndbuf: 4m
  incoming-num-tcp: 6000
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
"""
        return self.spawn(directory, [self.program(), "-d", "-p", "-c", None], config, cpu)


class Dnsmasq(Peer):
    name = "dnsmasq"
    package = "dnsmasq"
    # The program without the service that `dnsmasq` would set up.
    debian_package = "dnsmasq-base"

    def launch(self, directory, port, upstream, cpu):
        config = f"""no-resolv
no-hosts
keep-in-foreground
log-facility=-
user=root
pid-file=
listen-address=127.0.0.1
bind-interfaces
port={port}
cache-size={CACHE_ENTRIES}
dns-forward-max=10000
server=127.0.0.1#{upstream}
"""
        return self.spawn(directory, [self.program(), "-C", None], config, cpu)


class Coredns(Peer):
    name = "coredns"
    version_option = "-version"

    def program(self):
        built = self.tools / "bin" / "coredns"
        return built if built.exists() else tool("coredns")

    def install(self):
        if self.program():
            return
        if tool("go") is None:
            raise Failed(f"needs Go, for `go install {COREDNS}`")
        print(f"building {COREDNS} (go install; some minutes)", flush=True)
        environment = {**os.environ, "GOBIN": str(self.tools / "bin")}
        done = subprocess.run(["go", "install", COREDNS], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"go install {COREDNS}: {done.stderr.strip()[-500:]}")

    def launch(self, directory, port, upstream, cpu):
        config = f""".:{port} {{
    bind 127.0.0.1
    forward . 127.0.0.1:{upstream}
    cache 3600 {{
        success {CACHE_ENTRIES}
        denial {CACHE_ENTRIES}
    }}
}}
"""
        command = [self.program(), "-quiet", "-conf", None]
        return self.spawn(directory, command, config, cpu, {"GOMAXPROCS": "1"})


class Hickory(Peer):
    name = "hickory-dns"

    def program(self):
        built = self.tools / "bin" / "hickory-dns"
        return built if built.exists() else tool("hickory-dns")

    def install(self):
        if self.program():
            return
        if tool("cargo") is None:
            raise Failed(f"needs Rust, for `cargo install hickory-dns --version {HICKORY}`")
        print(f"building hickory-dns {HICKORY} (cargo install; some minutes)", flush=True)
        command = [
            *["cargo", "install", "--quiet", "--locked", "--root", self.tools, "--version", HICKORY],
            *["--no-default-features", "--features", "resolver", "hickory-dns"],
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"cargo install hickory-dns: {done.stderr.strip()[-500:]}")

    def launch(self, directory, port, upstream, cpu):
        # Or it wants to become nobody, in a group that Debian does not have.
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        config = f"""listen_addrs_ipv4 = ["127.0.0.1"]
listen_port = {port}
user = "{user}"
group = "{group}"
[[zones]]
zone = "."
zone_type = "External"
[zones.stores]
type = "forward"
[zones.stores.options]
cache_size = {CACHE_ENTRIES}
[[zones.stores.name_servers]]
ip = "127.0.0.1"
[[zones.stores.name_servers.connections]]
port = {upstream}
protocol = {{type = "udp"}}
[[zones.stores.name_servers.connections]]
port = {upstream}
protocol = {{type = "tcp"}}
"""
        command = [self.program(), "--quiet", "--workers", "1", "--config", None]
        return self.spawn(directory, command, config, cpu)


PEERS = {peer.name: peer for peer in [Dnsdist, Unbound, Dnsmasq, Coredns, Hickory]}


def of_suite(peers, tree):
    """Those of the servers that Debian packages, as they are in the tree of another suite."""
    return [type(peer)(peer.tools, tree) for peer in peers if peer.package]


def nsd_configuration(directory, zones, interfaces, options=""):
    """Writes the zones (name: text) and nsd.conf for one server process at these addresses; the path of nsd.conf."""
    listen = "\n".join(f"  ip-address: {interface}" for interface in interfaces)
    # Rate limits off: thousands of queries from one address are the point.
    config = f"""server:
{listen}
  server-count: 1
  username: ""
  zonesdir: "{directory}"
  database: ""
  pidfile: "{directory}/nsd.pid"
  xfrdfile: "{directory}/xfrd.state"
  xfrdir: "{directory}"
  zonelistfile: "{directory}/zone.list"
  receive-buffer-size: 4194304
  send-buffer-size: 4194304
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
{options}remote-control:
  control-enable: no
"""
    for number, (name, text) in enumerate(zones.items()):
        (directory / f"{number}.zone").write_text(text)
        config += f'zone:\n  name: {name}\n  zonefile: "{number}.zone"\n'
    file = directory / "nsd.conf"
    file.write_text(config)
    return file


class Nsd:
    """The upstream: answers every name at once, from a wildcard."""

    def __init__(self, directory, zones, cpu, addresses=("127.0.0.1",)):
        self.port = free_port()
        file = nsd_configuration(directory, zones, [f"{address}@{self.port}" for address in addresses])
        self.process = Process("nsd", [tool("nsd"), "-d", "-c", file], directory / "nsd.log", cpu)
        try:
            first = next(iter(zones))
            self.process.wait_until(lambda: dns.ask(self.port, f"ready.{first}", "A", 0.1) is not None)
        except BaseException:
            self.process.stop()
            raise

    def version(self):
        return version_in(output(tool("nsd"), "-v"))

    def stop(self):
        self.process.stop()
