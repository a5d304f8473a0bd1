"""Check: what programs make of nodens's replies, each with the resolver that its language brings."""

import time

from . import images
from .checks import check, claim
from .kubernetes import kubectl
from .node import until
from .release import Client, dns_block

# How each is started, and how it says that a name does not exist. "Try again" and the like would be another error of theirs.
PROGRAMS = {
    "getaddrinfo of glibc": (["lookup-glibc"], "Name or service not known"),
    "getaddrinfo of musl": (["lookup-musl"], "Name does not resolve"),
    "Go's own resolver, static": (["lookup-go"], "no such host"),
    "Python": (["python3", "/lookup.py"], "[Errno -2] Name or service not known"),
    "Java": (["/java/bin/java", "-XX:TieredStopAtLevel=1", "-cp", "/java", "Lookup"], "Name or service not known"),
}
MISSING = ("no-such-service", "no-such-service.default", "no.example.com")


@check("linkLocal: programs in Go, Python, Java and C find Services by short names, headless ones, and names of the VPC; they are told "
       "at once that a name does not exist")
def programs(cluster):
    cluster.link_local()
    images.load(cluster.node, images.runtimes(cluster.node.state))
    kubectl(cluster.node, "apply", "-f", "-", stdin="""
apiVersion: v1
kind: Service
metadata: {name: together, namespace: jobs}
spec: {clusterIP: None, selector: {app: programs}, ports: [{name: web, port: 80}]}
""")
    pod = Client(cluster.node, "programs", dns_block(cluster.release.notes), image="nodens.test/runtimes:1")
    own = kubectl(cluster.node, "-n", "jobs", "get", "pod", "programs", "-o", "jsonpath={.status.podIP}")
    names = {"kubernetes.default": "10.96.0.1", "together": own, "together.jobs": own, "registry.example.com": "10.1.20.5"}
    until("the headless Service is answered", lambda: own in pod.exec("lookup-glibc", "together"), 20, 0.3)
    slowest = {}
    for program, (argv, no_such_name) in PROGRAMS.items():
        for name, address in names.items():
            said = pod.exec(*argv, name)
            claim(address in said.split(), f"{program}: {name}: {said}")
        for name in MISSING:
            began = time.monotonic()
            said = pod.exec(*argv, name, check=False)
            seconds = time.monotonic() - began
            claim(no_such_name in said, f"{program}: {name}: {said}")
            # A query without a reply would cost the 5 s that NOTES sets as `timeout`.
            claim(seconds < 3, f"{program}: {name}: {seconds:.1f} s")
            slowest[program] = max(seconds, slowest.get(program, 0))
    kubectl(cluster.node, "-n", "jobs", "delete", "pod", "programs", "--wait=false")
    return (f"{len(names)} names found; {len(MISSING)} do not exist, told after at most "
            + ", ".join(f"{seconds:.2f} s ({program})" for program, seconds in slowest.items()) + ", kubectl exec and start included")
