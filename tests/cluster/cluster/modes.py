"""Checks: the mode is changed by `helm upgrade`, while one client asks the address of before and one asks kube-dns's."""

import json
from contextlib import contextmanager

from .checks import check, claim
from .kubernetes import KUBE_DNS, KUBE_DNS_IPV6, kubectl
from .node import until, wait
from .release import CHART, LINK_LOCAL, NAMESPACE, Client, lost, told
from .resolution import NODE_ONLY, SERVICE, leftovers

SERVICE_ADDRESS = "10.96.0.53"
VALUES = {"linkLocal": {}, "nodeLocal": {"clusterDNS": KUBE_DNS}, "service": {"service__clusterIP": SERVICE_ADDRESS}}
ADDRESS = {"linkLocal": LINK_LOCAL, "nodeLocal": KUBE_DNS, "service": SERVICE_ADDRESS}

# The second is a new name each time, of which kube-dns says that it does not exist: no cache helps.
NAMES = [SERVICE, "*.default.svc.cluster.local"]


def values_of(release, mode, **more):
    return release.set(mode=mode, serviceCIDR="10.96.0.0/16", jobNamespaces="{jobs}", **release.interface(), **VALUES[mode], **more)


def change(cluster, before, after):
    """Changes the mode under load. Returns what was lost at kube-dns's address, what is to be told, and what is left of `before`."""
    if cluster.release.kind != (before, VALUES[before]):
        cluster.release.fresh(mode=before, **VALUES[before])
    release, pod = cluster.release, cluster.client()
    old = release.pod()["metadata"]["name"]
    with pod.load(KUBE_DNS, udp=100, tcp=20, names=NAMES) as kube_dns, pod.load(ADDRESS[before], udp=100, tcp=20, names=[SERVICE]) as asked:
        values = values_of(release, after)
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
    return lost(kube_dns, "NXDOMAIN"), seen, leftovers(cluster)


@check("linkLocal is changed to nodeLocal by `helm upgrade`: nothing is lost at kube-dns's address")
def link_local_to_node_local(cluster):
    missed, seen, _ = change(cluster, "linkLocal", "nodeLocal")
    claim(missed == 0, seen)
    return seen


@check("… and back: nothing is lost at kube-dns's address, which nodens leaves to kube-dns")
def node_local_to_link_local(cluster):
    missed, seen, left = change(cluster, "nodeLocal", "linkLocal")
    claim(missed == 0 and KUBE_DNS not in left, f"{seen}; on the node: {left}")
    return seen


@check("nodeLocal is changed to linkLocal by an upgrade that does not become ready, so that the old pod goes on: nothing is lost at kube-dns's "
       "address in a minute, nor when a second upgrade heals it; the Service nodens-upstream goes with a third")
def node_local_is_left_slowly(cluster):
    release = cluster.release
    release.fresh(mode="nodeLocal", **VALUES["nodeLocal"])
    with cluster.client().load(KUBE_DNS, udp=50, tcp=10, names=NAMES) as result:
        stuck = values_of(release, "linkLocal", image__tag="9.9.9", checkConfig="false")
        said = release.helm("upgrade", "nodens", CHART, *stuck, "--wait", "--timeout", "15s", check=False)
        claim(said.returncode != 0, "Helm called it deployed")
        # Longer than nodens keeps a socket: what kube-proxy once translated for one works as long as that.
        until("45 s more", wait(45), 60, 1)
        release.values, release.kind = values_of(release, "linkLocal"), ("linkLocal", {})
        release.helm("upgrade", "nodens", CHART, *release.values, "--wait", "--timeout", "90s")
        release.rollout()
        between = services(cluster)
        release.helm("upgrade", "nodens", CHART, *release.values, "--wait", "--timeout", "90s")
        until("5 s more", wait(5), 10)
    claim(lost(result, "NXDOMAIN") == 0, told(result))
    claim("nodens-upstream" in between and "nodens-upstream" not in services(cluster), f"before the third: {between}; then: {services(cluster)}")
    return told(result)


def services(cluster):
    return kubectl(cluster.node, "-n", NAMESPACE, "get", "services", "-o", "jsonpath={.items[*].metadata.name}").split()


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


@check("service is changed to nodeLocal by `helm upgrade`: nothing is lost at kube-dns's address")
def service_to_node_local(cluster):
    missed, seen, _ = change(cluster, "service", "nodeLocal")
    claim(missed == 0, seen)
    return seen


@check("… and back: nothing is lost at kube-dns's address, which nodens leaves to kube-dns; nothing of nodeLocal is left on the node")
def node_local_to_service(cluster):
    missed, seen, left = change(cluster, "nodeLocal", "service")
    claim(missed == 0 and not left, f"{seen}; on the node: {left}")
    return seen


@contextmanager
def kube_dns_of_both_families(node):
    def put(policy, families, addresses):
        patch = json.dumps({"spec": {"ipFamilyPolicy": policy, "ipFamilies": families, "clusterIPs": addresses}})
        kubectl(node, "-n", "kube-system", "patch", "service", "kube-dns", "--type=merge", "-p", patch)

    put("RequireDualStack", ["IPv4", "IPv6"], [KUBE_DNS, KUBE_DNS_IPV6])
    try:
        yield
    finally:
        put("SingleStack", ["IPv4"], [KUBE_DNS])


@check("nodeLocal, kube-dns having an address of each family: a pod asks the one of IPv6 while nodens is installed, upgraded and uninstalled; "
       "nothing is lost, and nothing is left on the node")
def node_local_ipv6(cluster):
    release, node = cluster.release, cluster.node
    release.uninstall()
    with kube_dns_of_both_families(node):
        pod = Client(node, "client-ipv6", "spec:\n  dnsPolicy: ClusterFirst\n")
        until("kube-dns answers over IPv6", lambda: pod.answer(KUBE_DNS_IPV6, SERVICE), 30, 0.3)
        with pod.load(KUBE_DNS_IPV6, udp=100, tcp=20, names=NAMES) as result:
            seconds = release.fresh(mode="nodeLocal", clusterDNS=f"{{{KUBE_DNS},{KUBE_DNS_IPV6}}}")
            for name in (SERVICE, NODE_ONLY):
                for transport in ("+notcp", "+tcp"):
                    pod.answer(KUBE_DNS_IPV6, name, transport)
            rules = node.run(["nft", "list", "table", "inet", "nodens"]).stdout
            claim(f"ip6 daddr {KUBE_DNS_IPV6} udp dport 53 notrack" in rules, f"the address was not taken: {rules}")
            release.upgrade(image__tag=cluster.next_tag())
            release.uninstall()
            until("5 s more", wait(5), 10)
        left = leftovers(cluster)
    kubectl(node, "-n", "jobs", "delete", "pod", "client-ipv6", "--wait=false")
    claim(lost(result, "NXDOMAIN") == 0 and not left, f"{told(result)}; left on the node: {left or 'nothing'}")
    return f"ready after {seconds:.1f} s; {told(result)}"
