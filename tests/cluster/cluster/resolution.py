"""Checks: every mode is installed and resolves; what kinds of names and clients work."""

import re

from .checks import check, claim
from .kubernetes import KUBE_DNS, KUBE_DNS_IPV6, kube_proxy, kubectl
from .node import VPC_DNS, until, wait
from .release import LINK_LOCAL, LINK_LOCAL_IPV6, Client, dns_block, lost, told

SERVICE = "kubernetes.default.svc.cluster.local."
NODE_ONLY = "registry.example.com."
HEADLESS = """
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: jobs}
spec: {clusterIP: None, selector: {app: client}, ports: [{name: web, port: 80}]}
"""


@check("without nodens a pod finds Services, but no name of the VPC, whose nameserver it cannot reach")
def without(cluster):
    pod = Client(cluster.node, "without", "spec:\n  dnsPolicy: ClusterFirst\n")
    records = pod.answer(KUBE_DNS, SERVICE)
    external = pod.dig(KUBE_DNS, NODE_ONLY)
    claim("status: NOERROR" not in external, f"kube-dns resolves {NODE_ONLY}")
    unreachable = pod.dig(VPC_DNS, NODE_ONLY, "+time=1")
    claim("no servers could be reached" in unreachable, unreachable)
    said = pod.exec("lookup-glibc", NODE_ONLY.rstrip("."), check=False)
    return f"{SERVICE} {records}; getaddrinfo of {NODE_ONLY}: {said.splitlines()[0]}"


@check("linkLocal: `helm install --wait` ends with a ready pod, and NOTES has a block for pods")
def link_local_install(cluster):
    cluster.release.uninstall()
    seconds = cluster.release.install()
    claim(LINK_LOCAL in dns_block(cluster.release.notes), cluster.release.notes)
    return f"ready after {seconds:.1f} s"


@check("linkLocal: a pod with the block of NOTES, to the letter, resolves Services by their short names, and names of the VPC")
def link_local_pod(cluster):
    pod = cluster.link_local()
    resolv = pod.exec("cat", "/etc/resolv.conf")
    claim(LINK_LOCAL in resolv and "ndots:2" in resolv, resolv)
    for name in ("kubernetes.default", "kube-dns.kube-system", NODE_ONLY.rstrip(".")):
        for program in ("nslookup", "getent-glibc hosts", "lookup-glibc", "lookup-musl", "lookup-go"):
            # busybox's nslookup takes a name with dots as it is, and appends nothing.
            if program == "nslookup" and not name.startswith("registry"):
                name_asked = name + ".svc.cluster.local"
            else:
                name_asked = name
            pod.exec(*program.split(), name_asked)
    return "busybox nslookup, getent and getaddrinfo of glibc, musl, Go's resolver: 3 names each"


@check("linkLocal: `helm test` passes")
def link_local_test(cluster):
    said = cluster.release.helm("test", "nodens", "--logs")
    claim("Phase:          Succeeded" in said, said)
    return "Succeeded"


@check("linkLocal: both transports; a headless Service, its pods, SRV, reverse of a Service and of the VPC, 'no such name'")
def kinds_of_names(cluster):
    pod = cluster.link_local()
    kubectl(cluster.node, "apply", "-f", "-", stdin=HEADLESS)
    seen = []
    for transport in ("+notcp", "+tcp"):
        address = cluster.until_answer(pod, "headless.jobs.svc.cluster.local.", transport)[0]
        claim(address.startswith("A 10.244."), address)
        target = pod.answer(LINK_LOCAL, "_web._tcp.headless.jobs.svc.cluster.local. SRV", transport)[0].split()[-1]
        claim(pod.answer(LINK_LOCAL, target, transport) == [address], target)
        claim(pod.answer(LINK_LOCAL, "-x 10.96.0.1", transport) == [f"PTR {SERVICE}"], "reverse of 10.96.0.1")
        claim(pod.answer(LINK_LOCAL, "-x 10.1.20.5", transport) == [f"PTR {NODE_ONLY}"], "reverse of 10.1.20.5")
        for missing in ("no.jobs.svc.cluster.local.", "no.example.com."):
            claim("status: NXDOMAIN" in pod.dig(LINK_LOCAL, missing, transport), f"{missing} is no NXDOMAIN")
        seen.append(f"{transport[1:]}: {target} {address}")
    return "; ".join(seen)


@check("linkLocal: a Service of type ExternalName that points to a name of the VPC leads to its address")
def external_name(cluster):
    kubectl(cluster.node, "apply", "-f", "-", stdin="""
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: jobs}
spec: {type: ExternalName, externalName: external.example.com}
""")
    records = cluster.until_answer(cluster.link_local(), "outside.jobs.svc.cluster.local.")
    claim("A 10.1.20.9" in records, str(records))
    return str(records)


@check("linkLocal: no query leaves an entry in the connection tracking, over UDP or TCP")
def conntrack(cluster):
    pod = cluster.link_local()
    with pod.load(LINK_LOCAL) as result:
        until("3 s of it", wait(3), 10)
        entries = cluster.node.run(["conntrack", "-L", "-d", LINK_LOCAL]).stdout
    claim(not entries, entries)
    claim(lost(result) == 0, told(result))
    # Otherwise nothing would be tracked here at all.
    pod.answer(KUBE_DNS, SERVICE)
    claim(cluster.node.run(["conntrack", "-L", "-d", KUBE_DNS]).stdout, "a query to kube-dns left no entry either")
    return f"{told(result)}; a query to kube-dns leaves one"


@check("linkLocal with localAddressIPv6: pods resolve over IPv6 too")
def link_local_ipv6(cluster):
    cluster.release.fresh(localAddressIPv6=LINK_LOCAL_IPV6)
    pod = cluster.client()
    claim(LINK_LOCAL_IPV6 in pod.exec("cat", "/etc/resolv.conf"), "no IPv6 address in resolv.conf")
    seen = [pod.answer(LINK_LOCAL_IPV6, name, transport) for name in (SERVICE, NODE_ONLY) for transport in ("+notcp", "+tcp")]
    entries = cluster.node.run(["conntrack", "-f", "ipv6", "-L", "-d", LINK_LOCAL_IPV6]).stdout
    claim(not entries, entries)
    return str(seen)


@check("service: installs, passes `helm test`, resolves; an upgrade under load loses nothing")
def service_mode(cluster):
    seconds = cluster.release.fresh(mode="service", service__clusterIP="10.96.0.53")
    return f"ready after {seconds:.1f} s; " + mode_works(cluster, "10.96.0.53")


@check("service under kube-proxy in iptables mode: the same")
def service_iptables(cluster):
    cluster.node.stop_daemon("kube-proxy")
    kube_proxy(cluster.node, "iptables")
    try:
        seconds = cluster.release.fresh(mode="service", service__clusterIP="10.96.0.53")
        return f"ready after {seconds:.1f} s; " + mode_works(cluster, "10.96.0.53")
    finally:
        cluster.node.stop_daemon("kube-proxy")
        kube_proxy(cluster.node)


@check("nodeLocal: installs, passes `helm test`; pods resolve at kube-dns's own address; an upgrade under load loses nothing")
def node_local(cluster):
    seconds = cluster.release.fresh(mode="nodeLocal", clusterDNS=KUBE_DNS)
    return f"ready after {seconds:.1f} s; " + mode_works(cluster, KUBE_DNS)


@check("nodeLocal: during and after `helm uninstall` no query for a Service is lost, and nothing is left on the node")
def node_local_uninstall(cluster):
    return node_local_leaves(cluster)


@check("nodeLocal under kube-proxy in iptables mode: install, test, upgrade and `helm uninstall` under load lose nothing")
def node_local_iptables(cluster):
    cluster.node.stop_daemon("kube-proxy")
    kube_proxy(cluster.node, "iptables")
    try:
        seconds = cluster.release.fresh(mode="nodeLocal", clusterDNS=KUBE_DNS)
        return f"ready after {seconds:.1f} s; {mode_works(cluster, KUBE_DNS)}; uninstall: {node_local_leaves(cluster)}"
    finally:
        cluster.node.stop_daemon("kube-proxy")
        kube_proxy(cluster.node)


@check("nodeLocal: the same, while the VPC's nameserver is silent and queries wait for it")
def node_local_uninstall_with_silent_vpc(cluster):
    vpc = (cluster.node.state / "pid" / "vpc-dns").read_text().strip()
    cluster.release.fresh(mode="nodeLocal", clusterDNS=KUBE_DNS)
    # Somebody waits for the VPC's nameserver all the time.
    with cluster.client().load(KUBE_DNS, udp=10, tcp=2, names=["*.load.example.com"]):
        cluster.node.run(["kill", "-STOP", vpc])
        try:
            return node_local_leaves(cluster)
        finally:
            cluster.node.run(["kill", "-CONT", vpc])


def node_local_leaves(cluster):
    if cluster.release.kind is None or cluster.release.kind[0] != "nodeLocal":
        cluster.release.fresh(mode="nodeLocal", clusterDNS=KUBE_DNS)
    pod = cluster.client()
    with pod.load(KUBE_DNS, udp=200, tcp=40, names=[SERVICE]) as result:
        cluster.release.uninstall()
        pod.answer(KUBE_DNS, SERVICE)
    left = leftovers(cluster)
    claim(not left, f"left: {left}")
    claim(lost(result) == 0, told(result))
    return told(result)


def mode_works(cluster, address):
    cluster.release.helm("test", "nodens", "--logs")
    pod = cluster.client()
    for name in (SERVICE, NODE_ONLY):
        for transport in ("+notcp", "+tcp"):
            pod.answer(address, name, transport)
    pod.exec("lookup-glibc", NODE_ONLY.rstrip("."))
    with pod.load(address) as result:
        seconds = cluster.release.upgrade(image__tag=cluster.next_tag())
    claim(lost(result) == 0, f"upgrade: {told(result)}")
    return f"upgrade in {seconds:.1f} s: {told(result)}"


def leftovers(cluster):
    """Addresses, rules and interfaces of nodens on the node; empty if there are none."""
    addresses = cluster.node.run(["ip", "-brief", "address"]).stdout
    tables = cluster.node.run(["nft", "list", "tables"]).stdout
    left = re.findall(rf"\b(?:{re.escape(LINK_LOCAL)}|{LINK_LOCAL_IPV6}|{re.escape(KUBE_DNS)}|{KUBE_DNS_IPV6})/\S+", addresses)
    left += [line for line in tables.splitlines() if "nodens" in line]
    left += re.findall(r"^nodens\b", addresses, re.MULTILINE)
    return ", ".join(left)


