"""Checks: the mode is changed by `helm upgrade`, while one client asks the address of before and one asks kube-dns's."""

from .checks import check, claim
from .kubernetes import KUBE_DNS
from .node import until, wait
from .release import CHART, LINK_LOCAL, lost, told
from .resolution import SERVICE, leftovers

SERVICE_ADDRESS = "10.96.0.53"
VALUES = {"linkLocal": {}, "nodeLocal": {"clusterDNS": KUBE_DNS}, "service": {"service__clusterIP": SERVICE_ADDRESS}}
ADDRESS = {"linkLocal": LINK_LOCAL, "nodeLocal": KUBE_DNS, "service": SERVICE_ADDRESS}


def change(cluster, before, after):
    """Changes the mode under load. Returns what was lost at kube-dns's address, what is to be told, and what is left of `before`."""
    if cluster.release.kind != (before, VALUES[before]):
        cluster.release.fresh(mode=before, **VALUES[before])
    release, pod = cluster.release, cluster.client()
    old = release.pod()["metadata"]["name"]
    with pod.load(KUBE_DNS, udp=100, tcp=20, names=[SERVICE]) as kube_dns, pod.load(ADDRESS[before], udp=100, tcp=20, names=[SERVICE]) as asked:
        values = release.set(mode=after, serviceCIDR="10.96.0.0/16", jobNamespaces="{jobs}", **release.interface(), **VALUES[after])
        release.helm("upgrade", "nodens", CHART, *values, "--wait", "--timeout", "90s")
        release.rollout()
        until("the old pod is gone", lambda: old not in [each["metadata"]["name"] for each in release.pods()], 60)
        until("5 s more", wait(5), 10)
    release.values, release.kind = values, (after, VALUES[after])
    # The new address works, whoever was asked before.
    pod.answer(ADDRESS[after], SERVICE)
    seen = f"kube-dns's address: {told(kube_dns)}"
    if before != "nodeLocal":
        seen = f"{ADDRESS[before]}: {told(asked)}; {seen}"
    return lost(kube_dns), seen, leftovers(cluster)


UPSTREAM_IS_NEW = ("a pod that listens at kube-dns's address before kube-proxy knows the new Service nodens-upstream calls it unreachable, "
                   "and answers SERVFAIL for a second or two")


@check("linkLocal is changed to nodeLocal by `helm upgrade`: nothing is lost at kube-dns's address", UPSTREAM_IS_NEW)
def link_local_to_node_local(cluster):
    missed, seen, _ = change(cluster, "linkLocal", "nodeLocal")
    claim(missed == 0, seen)
    return seen


@check("… and back: nothing is lost at kube-dns's address, which nodens leaves to kube-dns")
def node_local_to_link_local(cluster):
    missed, seen, left = change(cluster, "nodeLocal", "linkLocal")
    claim(missed == 0 and KUBE_DNS not in left, f"{seen}; on the node: {left}")
    return seen


@check("linkLocal is changed to service by `helm upgrade`: nothing is lost at kube-dns's address")
def link_local_to_service(cluster):
    missed, seen, left = change(cluster, "linkLocal", "service")
    claim(missed == 0, seen)
    return f"{seen}; left of linkLocal: {left}"


@check("… and back: nothing is lost at kube-dns's address")
def service_to_link_local(cluster):
    missed, seen, _ = change(cluster, "service", "linkLocal")
    claim(missed == 0, seen)
    return seen
