"""nodens as a Helm release, and the pods that ask it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

from .kubernetes import kubectl
from .node import HERE, Failed, until

CHART = HERE.parent.parent / "charts" / "nodens"
NAMESPACE = "kube-system"
LINK_LOCAL = "169.254.20.53"
LINK_LOCAL_IPV6 = "fd53::53"
PODS = "app.kubernetes.io/component=nameserver"

# Half of the queries go to kube-dns and half to the VPC's nameserver; of these, most are not in the cache.
NAMES = ["kubernetes.default.svc.cluster.local", "*.load.example.com", "registry.example.com", "*.load.example.com"]


def helm_program():
    found = os.environ.get("NODENS_HELM") or shutil.which("helm")
    if not found:
        raise Failed("no helm: put it into PATH, or its path into NODENS_HELM")
    return found


class Release:
    def __init__(self, node):
        self.node = node
        self.values = []
        # The mode and the values of the last installation; None if this program has made none.
        self.kind = None
        self.notes = ""

    # Helm

    def helm(self, *arguments, check=True, seconds=180):
        done = self.node.run([helm_program(), "-n", NAMESPACE, *arguments], check=check, seconds=seconds)
        return done.stdout if check else done

    def set(self, **values):
        """Arguments for Helm: a key's `__` is a dot."""
        return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]

    def interface(self):
        """Kernels without dummy interfaces carry the address on lo."""
        made = self.node.run(["sh", "-c", "ip link add nodens-try type dummy && ip link delete nodens-try"], check=False)
        return {} if made.returncode == 0 else {"interface__kind": "loopback"}

    def install(self, mode="linkLocal", **values):
        """Installs and waits; returns the seconds it took."""
        self.values = self.set(mode=mode, serviceCIDR="10.96.0.0/16", jobNamespaces="{jobs}", **self.interface(), **values)
        self.kind = (mode, values)
        began = time.monotonic()
        self.notes = self.helm("install", "nodens", CHART, *self.values, "--wait", "--timeout", "90s")
        return time.monotonic() - began

    def upgrade(self, **values):
        """Upgrades and waits until the old pod is gone; returns the seconds it took."""
        began, before = time.monotonic(), self.pod()["metadata"]["name"]
        self.helm("upgrade", "nodens", CHART, *self.values, *self.set(**values), "--wait", "--timeout", "90s")
        self.rollout()
        until("the old pod is gone", lambda: before not in [pod["metadata"]["name"] for pod in self.pods()], 60)
        return time.monotonic() - began

    def rollout(self):
        kubectl(self.node, "-n", NAMESPACE, "rollout", "status", "daemonset/nodens", "--timeout=90s", seconds=100)

    def rollback(self):
        self.helm("rollback", "nodens", "--wait", "--timeout", "90s")
        self.rollout()

    def installed(self):
        return self.helm("status", "nodens", check=False).returncode == 0

    def uninstall(self):
        if self.installed():
            self.helm("uninstall", "nodens", "--wait", "--timeout", "90s")
            until("no pod of nodens is left", lambda: not self.pods(), 60)
        self.kind = None

    def fresh(self, **values):
        """A new release on a node without anything of nodens, whatever an earlier check left."""
        self.uninstall()
        self.node.run(["nft", "delete", "table", "inet", "nodens"], check=False)
        for address in (f"{LINK_LOCAL}/32", f"{LINK_LOCAL_IPV6}/128"):
            self.node.run(["ip", "address", "delete", address, "dev", "lo"], check=False)
            self.node.run(["ip", "link", "delete", "nodens"], check=False)
        return self.install(**values)

    # Its pods

    def pods(self):
        return json.loads(kubectl(self.node, "-n", NAMESPACE, "get", "pods", "-l", PODS, "-o", "json"))["items"]

    def pod(self):
        """The one pod that runs and is not on its way out."""
        pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
        if len(pods) != 1:
            raise Failed(f"{len(pods)} pods of nodens")
        return pods[0]

    def container(self):
        return self.pod()["status"]["containerStatuses"][0]

    def ready(self):
        return self.container()["ready"]

    def pid(self):
        """Of nodens, as the node sees it."""
        return process(self.node, self.container())

    def new_pod(self):
        """Replaces the pod, so that the kubelet has no crashes in mind."""
        kubectl(self.node, "-n", NAMESPACE, "rollout", "restart", "daemonset/nodens")
        self.rollout()
        until("one ready pod", self.ready, 60)

    def log(self, *arguments):
        return kubectl(self.node, "-n", NAMESPACE, "logs", "-l", PODS, "--tail=-1", *arguments)

    def metric(self, name):
        for line in self.node.run(["curl", "-sS", "--max-time", "5", "http://10.1.0.10:9153/metrics"]).stdout.splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise Failed(f"no metric {name}")


def process(node, container):
    identifier = container.get("containerID", "").removeprefix("containerd://")
    for line in node.run(["ctr", "tasks", "ls"]).stdout.splitlines():
        if identifier and line.startswith(identifier):
            return line.split()[1]
    raise Failed(f"no process of container {identifier or container.get('state')}")


class Client:
    """A pod on this node that asks, in the namespace `jobs`."""

    def __init__(self, node, name, spec, image="nodens.test/clients:1"):
        self.node, self.name = node, name
        kubectl(node, "create", "namespace", "jobs", check=False)
        kubectl(node, "-n", "jobs", "delete", "pod", name, "--ignore-not-found", "--grace-period=1")
        manifest = (f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: jobs, labels: {{app: {name}}}}}\n"
                    f"{spec.rstrip()}\n  nodeName: {node.name}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: client\n    image: {image}\n"
                    "    imagePullPolicy: Never\n    command: [sleep, infinity]\n")
        # A new namespace gets its ServiceAccount a moment later, and a pod is refused until then.
        until(f"pod {name} is accepted", lambda: kubectl(node, "apply", "-f", "-", stdin=manifest), 20, 0.5)
        kubectl(node, "-n", "jobs", "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", seconds=70)

    def exec(self, *argv, check=True, seconds=60):
        done = kubectl(self.node, "-n", "jobs", "exec", self.name, "--", *argv, check=False, seconds=seconds)
        if check and done.returncode != 0:
            raise Failed(f"in pod {self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def network(self):
        """Runs what follows on the node's files in the pod's network namespace."""
        status = json.loads(kubectl(self.node, "-n", "jobs", "get", "pod", self.name, "-o", "json"))["status"]
        return ["nsenter", f"--net=/proc/{process(self.node, status['containerStatuses'][0])}/ns/net"]

    def dig(self, server, name, *options):
        done = self.node.run([*self.network(), "dig", "+time=5", "+tries=1", *options, f"@{server}", *name.split()], check=False)
        return done.stdout

    def answer(self, server, name, *options):
        """The records of a reply that has some; raises Failed with what dig said otherwise."""
        said = self.dig(server, name, "+noall", "+comments", "+answer", *options)
        records = [line.split()[3:] for line in said.splitlines() if line and not line.startswith(";")]
        if "status: NOERROR" not in said or not records:
            raise Failed(f"{name} at {server}: {said.strip()}")
        return [" ".join(record) for record in records]

    @contextmanager
    def load(self, server, udp=300, tcp=50, names=NAMES):
        """Asks while the block runs. What it yields has the counts afterwards."""
        result = {}
        generator = self.node.popen([*self.network(), sys.executable, HERE / "load.py", server, str(udp), str(tcp), *names],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if generator.stdout.readline() != "asking\n":
                raise Failed(f"load: {generator.communicate('')[1]}")
            yield result
            said, errors = generator.communicate("", timeout=60)
            if generator.returncode != 0:
                raise Failed(f"load: {errors}")
            result.update(json.loads(said))
        finally:
            if generator.poll() is None:
                generator.stdin.close()
                generator.wait(30)


def dns_block(notes):
    """The block for any pod, from what `helm install` printed, to the letter."""
    found = re.search(r"^Any pod:\n\n(spec:\n(?:  .*\n)+)", notes, re.MULTILINE)
    if not found:
        raise Failed(f"no block for a pod in NOTES:\n{notes}")
    return found.group(1)


def lost(result, *right):
    """Queries without the right answer, both transports; `right` are outcomes beside "answered" that are right."""
    return sum(count for each in result.values() for what, count in each["counts"].items() if what not in ("answered", *right))


def told(result):
    """What became of the queries, for the table."""
    parts = []
    for transport, each in result.items():
        if not each["asked"]:
            continue
        others = ", ".join(f"{count} {what}" for what, count in sorted(each["counts"].items()) if what != "answered")
        within = f" within {each['lost_between'][1] - each['lost_between'][0]:.1f} s" if each["lost_between"] else ""
        parts.append(f"{transport.upper()}: {each['asked']} asked, {others or '0 lost'}{within}, "
                     f"gap {each['longest_gap_seconds']} s, slowest {each['slowest_seconds']} s")
    return "; ".join(parts)
