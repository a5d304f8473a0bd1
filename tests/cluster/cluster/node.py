"""The machine that is the node: namespaces, cgroups, and the programs that run in it.

Owns everything that exists only while the cluster does. All processes are in one PID namespace whose first process is
`pause`; when that is killed the kernel kills the others, and with them go mounts, network namespaces, interfaces and
rules. What the kernel leaves are the cgroups and the state folder; `stop` removes them.

Limits: root is needed. cgroup v1 is what it was tried with.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

# The first node's, where the control plane is.
NODE_IP = "10.1.0.10"
VPC_DNS = "10.1.0.251"


class Failed(Exception):
    """Something that had to work did not; the message says what was run and what it said."""


def until(what, condition, seconds, interval=0.1):
    """Waits until `condition` returns something true, which it returns; raises Failed with the last error if never."""
    deadline = time.monotonic() + seconds
    while True:
        error = ""
        try:
            found = condition()
            if found:
                return found
        except Failed as failed:
            error = f": {failed}"
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}{error}")
        time.sleep(interval)


def wait(seconds):
    """A condition for `until` that becomes true after that time: for what is to be watched that long."""
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() > ends


def state_folder():
    return Path(os.environ.get("NODENS_CLUSTER_STATE", Path(tempfile.gettempdir()) / "nodens-cluster"))


class Node:
    name, ip, ipv6 = "node", NODE_IP, "fd00:1::10"
    # The first of the networks that the controller manager cuts out for nodes.
    pods = ("10.244.0.0/24", "fd00:244::/64")

    def __init__(self, cache):
        self.cache = Path(cache)
        self.state = state_folder()
        # Certificates and the like, the same for all nodes.
        self.shared = self.state / "etc"

    # Life

    def exists(self):
        return (self.state / "node.json").is_file()

    def start(self):
        """Makes namespaces and cgroups, and mounts what the node sees differently."""
        if self.state.exists():
            raise Failed(f"{self.state} is there already: tests/cluster/down removes it")
        for folder in ("log", "pid", "etc", "run", "overlay/var/up", "overlay/var/work", "overlay/etc/up", "overlay/etc/work"):
            (self.state / folder).mkdir(parents=True)
        cgroup = f"nodens-cluster-{os.getpid()}-{self.name}"
        hierarchies = cgroup_hierarchies()
        folders = [make_cgroup(hierarchy["mount"], cgroup) for hierarchy in hierarchies]
        description = {"cgroups": [str(folder) for folder in folders]}
        (self.state / "node.json").write_text(json.dumps(description))
        with open(self.state / "hierarchies", "w") as listing:
            for hierarchy in hierarchies:
                listing.write(f"{hierarchy['mount']} {hierarchy['type']} {hierarchy['options']}\n")
        (self.state / "resolv.conf").write_text(f"nameserver {VPC_DNS}\n")
        ready = self.state / "ready"
        log = open(self.state / "log" / "namespaces.log", "w")
        # The shell joins the cgroups before it makes the cgroup namespace, so that they are its roots.
        joined = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
        process = subprocess.Popen(
            ["sh", "-ec", f"{joined}; exec unshare --net --mount --pid --uts --ipc --cgroup --fork --mount-proc "
             f"{HERE}/namespaces {self.state} {self.cache}/bin/pause {self.name}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

        def is_ready():
            if process.poll() is not None:
                raise Failed((self.state / "log" / "namespaces.log").read_text())
            return ready.exists()

        until("the node's namespaces", is_ready, 20)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        description["init"] = int(children[0])
        # A PID may be somebody else's later; with its time of start it is not.
        description["init_start"] = start_time(description["init"])
        (self.state / "node.json").write_text(json.dumps(description))

    def stop(self):
        """Kills everything in the node and removes what it leaves. Does nothing where there is no node."""
        if not self.state.exists():
            return
        second = SecondNode(self)
        if second.state != self.state:
            second.stop()
        description = json.loads((self.state / "node.json").read_text()) if self.exists() else {}
        # What leads into the node ends with what it led to, unless it was stopped with it (SIGSTOP): then its zombie keeps the namespace.
        for outside in (self.state / "pid").glob("*.outside"):
            pid, started = outside.read_text().split()
            if str(start_time(pid)) == started:
                os.kill(int(pid), signal.SIGKILL)
        init = description.get("init")
        if init and start_time(init) == description["init_start"]:
            os.kill(init, signal.SIGKILL)
            until("the node's processes are gone", lambda: start_time(init) != description["init_start"], 30)
        for folder in description.get("cgroups", []):
            remove_cgroup(Path(folder))
        until("nothing holds the state folder", lambda: removed(self.state), 20)

    def init(self):
        return json.loads((self.state / "node.json").read_text())["init"]

    # Programs

    def environment(self):
        path = f"{self.cache}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, "HOME": str(self.state), "KUBECONFIG": str(self.shared / "admin.kubeconfig"),
                       "CONTAINERD_NAMESPACE": "k8s.io"}
        if "TERM" in os.environ:
            environment["TERM"] = os.environ["TERM"]
        return environment

    def command(self, argv):
        """What runs `argv` in the node, in all of its namespaces and cgroups."""
        return ["nsenter", "--all", "--target", str(self.init()), "sh", "-c",
                'for procs in /sys/fs/cgroup/*/cgroup.procs; do echo 0 > $procs; done 2> /dev/null; exec "$@"',
                "sh", *map(str, argv)]

    def run(self, argv, *, check=True, stdin=None, seconds=120):
        """Runs a program in the node to its end. Returns what subprocess.run does; raises Failed with its output."""
        try:
            done = subprocess.run(self.command(argv), input=stdin, capture_output=True, text=True, timeout=seconds,
                                  env=self.environment(), cwd="/")
        except subprocess.TimeoutExpired as expired:
            raise Failed(f"{' '.join(map(str, argv))}: not done after {seconds} s; {expired.stdout} {expired.stderr}")
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n{done.stdout}{done.stderr}".strip())
        return done

    def popen(self, argv, **options):
        return subprocess.Popen(self.command(argv), env=self.environment(), cwd="/", **options)

    def daemon(self, name, argv):
        """Starts a program that stays, with a log of its own; it is started again by calling this again."""
        (self.state / "etc" / f"{name}.argv").write_text(json.dumps([str(word) for word in argv]))
        self.start_again(name)

    def start_again(self, name):
        argv = json.loads((self.state / "etc" / f"{name}.argv").read_text())
        log = open(self.state / "log" / f"{name}.log", "a")
        pid = self.state / "pid" / name
        pid.unlink(missing_ok=True)
        process = self.popen(["sh", "-c", f'echo $$ > {pid}.new; mv {pid}.new {pid}; exec "$@"', "sh", *argv],
                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (self.state / "pid" / f"{name}.outside").write_text(f"{process.pid} {start_time(process.pid)}")
        until(f"{name} has been started", pid.exists, 20, 0.02)

    def stop_daemon(self, name, how="TERM"):
        pid = (self.state / "pid" / name).read_text().strip()
        self.run(["kill", f"-{how}", pid])
        until(f"{name} has ended", lambda: self.run(["test", "-d", f"/proc/{pid}"], check=False).returncode != 0, 30)

    def log(self, name):
        return (self.state / "log" / f"{name}.log").read_text()


class SecondNode(Node):
    """Another node of the first one's cluster, on the same network."""

    name, ip, ipv6 = "second", "10.1.0.11", "fd00:1::11"
    pods = ("10.244.1.0/24", "fd00:244:0:1::/64")

    def __init__(self, first):
        super().__init__(first.cache)
        self.first = first
        self.state = state_folder() / self.name

    def start(self):
        super().start()
        vpc = f"/proc/{self.first.init()}/root/run/netns/vpc"
        for words in ("link add second type veth peer name eth0 netns", "link set second master nodes up"):
            argv = ["nsenter", f"--net={vpc}", "ip", *words.split(), *([str(self.init())] if words.endswith("netns") else [])]
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"{' '.join(argv)}: {done.stderr}")
        for words in (f"address add {self.ip}/24 dev eth0", f"address add {self.ipv6}/64 dev eth0 nodad", "link set eth0 up",
                      "route add default via 10.1.0.1", "-6 route add default via fd00:1::1"):
            self.run(["ip", *words.split()])
        for node, other in ((self, self.first), (self.first, self)):
            node.run(["ip", "route", "replace", other.pods[0], "via", other.ip])
            node.run(["ip", "-6", "route", "replace", other.pods[1], "via", other.ipv6])


def cgroup_hierarchies():
    """Every mounted cgroup hierarchy: where, of which type, with which options of its own."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        mount = fields.split()[4]
        if kind in ("cgroup", "cgroup2") and mount.startswith("/sys/fs/cgroup"):
            options = ",".join(option for option in options.split(",") if option not in ("rw", "ro"))
            found.append({"mount": mount, "type": kind, "options": options or "rw"})
    if not found:
        raise Failed("no cgroup hierarchy is mounted below /sys/fs/cgroup")
    return found


def make_cgroup(hierarchy, name):
    folder = Path(hierarchy) / name
    folder.mkdir()
    # cpuset, v1: no process may join before it has CPUs and memory.
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / file).exists() and not (folder / file).read_text().strip():
            (folder / file).write_text((folder.parent / file).read_text())
    return folder


def remove_cgroup(folder):
    if not folder.exists():
        return
    below = sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    for path in [*below, folder]:
        # A process that is being killed is a member for a moment longer.
        until(f"cgroup {path} is empty", lambda: cgroup_gone(path), 20, 0.05)


def cgroup_gone(path):
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Failed(str(error))
    return True


def start_time(pid):
    """When the process began, in clock ticks since boot; None if there is none or if it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def removed(folder):
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise Failed(str(error))
    return True
