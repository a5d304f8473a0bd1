"""Checks: a second node joins the cluster. The last one takes it away again."""

import os
import re
import time

from . import images
from .checks import check, claim
from .kubernetes import KUBE_DNS, kubectl, runs_pods, until_ready
from .modes import NAMES, SERVICE_ADDRESS, VALUES, values_of
from .node import SecondNode, until, wait
from .release import CHART, LINK_LOCAL, Client, dns_block, lost, told
from .resolution import NODE_ONLY, SERVICE


def joined(cluster):
    """The second node, which joins if it has not yet."""
    second = SecondNode(cluster.node)
    if not second.exists():
        second.start()
        runs_pods(second)
        for tag in images.NODENS_TAGS:
            images.load(second, images.nodens(os.environ["NODENS_TEST_BINARY"], tag))
        until_ready(second)
    return second


def client_on(second, notes):
    return Client(second, "client-on-second", dns_block(notes))


def nodes_of(pods):
    return sorted(pod["spec"]["nodeName"] for pod in pods)


def upgrade(cluster, values):
    """Until no pod of before is left on either node."""
    release = cluster.release
    before = {pod["metadata"]["name"] for pod in release.pods()}
    release.helm("upgrade", "nodens", CHART, *values, "--wait", "--timeout", "120s")
    release.rollout()
    until("the old pods are gone", lambda: not before & {pod["metadata"]["name"] for pod in release.pods()}, 90)


@check("a second node joins: linkLocal has a pod on each, and a pod there resolves Services and names of the VPC")
def second_node(cluster):
    second = joined(cluster)
    seconds = cluster.release.fresh()
    cluster.release.rollout()
    claim(nodes_of(cluster.release.pods()) == ["node", "second"], str(nodes_of(cluster.release.pods())))
    pod = client_on(second, cluster.release.notes)
    for name in (SERVICE, NODE_ONLY):
        for transport in ("+notcp", "+tcp"):
            pod.answer(LINK_LOCAL, name, transport)
    pod.exec("lookup-glibc", NODE_ONLY.rstrip("."))
    return f"ready after {seconds:.1f} s"


@check("two nodes, linkLocal: an upgrade of the image under load on both loses no query")
def two_nodes_upgraded(cluster):
    second = joined(cluster)
    cluster.release.fresh()
    with cluster.client().load(LINK_LOCAL) as first, client_on(second, cluster.release.notes).load(LINK_LOCAL) as other:
        upgrade(cluster, [*cluster.release.values, *cluster.release.set(image__tag=images.NODENS_TAGS[1])])
    claim(lost(first) + lost(other) == 0, f"{told(first)}; second: {told(other)}")
    return f"{told(first)}; second: {told(other)}"


@check("two nodes: the one with both pods of kube-dns is drained; a pod on the other loses no query for names of the VPC, nor for a Service "
       "that was asked for before")
def drained(cluster):
    second = joined(cluster)
    cluster.release.fresh()
    pod = client_on(second, cluster.release.notes)
    try:
        with pod.load(LINK_LOCAL, udp=100, tcp=20, names=[SERVICE, "*.load.example.com"]) as result:
            said = kubectl(cluster.node, "drain", "node", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s", seconds=70)
            # The client's pod on the first node went with it.
            cluster.pod = None
            kubectl(cluster.node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s", seconds=100)
            until("5 s more", wait(5), 10)
        there = nodes_of(cluster.release.pods())
    finally:
        kubectl(cluster.node, "uncordon", "node")
    claim("drained" in said and there == ["node", "second"], f"{said}; pods of nodens on {there}")
    claim(lost(result) == 0, told(result))
    return told(result)


@check("service: on a node without a pod of nodens, queries to the Service are dropped, and a client waits for its whole time-out")
def service_without_pod(cluster):
    second = joined(cluster)
    kubectl(cluster.node, "label", "node", "node", "nodens=yes", "--overwrite")
    cluster.release.fresh(mode="service", nodeSelector__nodens="yes", **VALUES["service"])
    claim(nodes_of(cluster.release.pods()) == ["node"], str(nodes_of(cluster.release.pods())))
    pod = client_on(second, cluster.release.notes)
    seen = []
    for transport in ("+notcp", "+tcp"):
        said = pod.dig(SERVICE_ADDRESS, SERVICE, "+time=3", transport)
        claim("timed out" in said, said)
        seen.append(f"{transport[1:]}: {said.strip().splitlines()[0]}")
    began = time.monotonic()
    said = pod.exec("lookup-glibc", SERVICE.rstrip("."), check=False, seconds=90)
    seen.append(f"getaddrinfo with NOTES' block: {said.splitlines()[0]} after {time.monotonic() - began:.0f} s")
    # kube-dns as the second nameserver.
    block = dns_block(cluster.release.notes)
    both = re.sub(r"nameservers: .*", f"nameservers: [{SERVICE_ADDRESS}, {KUBE_DNS}]", block)
    claim(both != block, block)
    two = Client(second, "client-with-two", both)
    began = time.monotonic()
    said = two.exec("lookup-glibc", SERVICE.rstrip("."), check=False, seconds=90)
    seen.append(f"with kube-dns as a second nameserver: {said.splitlines()[0]} after {time.monotonic() - began:.0f} s")
    kubectl(cluster.node, "-n", "jobs", "delete", "pod", "client-with-two", "--wait=false")
    return "; ".join(seen)


@check("two nodes: nodeLocal is changed to linkLocal by `helm upgrade`, and back: nothing is lost at kube-dns's address on either")
def two_nodes_change_mode(cluster):
    second = joined(cluster)
    release, seen = cluster.release, []
    release.fresh(mode="nodeLocal", **VALUES["nodeLocal"])
    release.rollout()
    pods = [cluster.client(), client_on(second, release.notes)]
    for mode in ("linkLocal", "nodeLocal"):
        with pods[0].load(KUBE_DNS, udp=100, tcp=20, names=NAMES) as first, pods[1].load(KUBE_DNS, udp=100, tcp=20, names=NAMES) as other:
            values = values_of(release, mode)
            upgrade(cluster, values)
            until("5 s more", wait(5), 10)
        release.values, release.kind = values, (mode, VALUES[mode])
        seen.append(f"to {mode}: {told(first)}; second: {told(other)}")
        claim(lost(first, "NXDOMAIN") + lost(other, "NXDOMAIN") == 0, "; ".join(seen))
    return "; ".join(seen)


@check("the second node is drained and leaves: a pod on the first loses nothing")
def second_node_leaves(cluster):
    second = joined(cluster)
    cluster.release.fresh()
    with cluster.client().load(LINK_LOCAL, udp=100, tcp=20, names=[SERVICE, "*.load.example.com"]) as result:
        kubectl(cluster.node, "drain", second.name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s", seconds=70)
        kubectl(cluster.node, "delete", "node", second.name)
        second.stop()
        kubectl(cluster.node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s", seconds=100)
        until("one pod of nodens", lambda: nodes_of(cluster.release.pods()) == ["node"], 90)
    kubectl(cluster.node, "delete", "pods", "--all-namespaces", "--field-selector", f"spec.nodeName={second.name}", "--grace-period=0", "--force")
    claim(lost(result) == 0, told(result))
    return told(result)
