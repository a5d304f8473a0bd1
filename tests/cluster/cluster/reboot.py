"""Check: the node is rebooted, which is everything on it killed, and all that the kernel had forgotten."""

import time

from .checks import check, claim
from .kubernetes import KUBE_DNS, kubectl
from .node import until
from .release import LINK_LOCAL
from .resolution import NODE_ONLY, SERVICE

FORGET = r"""
vpc=$1
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    case $pid in 1|$$|$vpc) ;; *) kill -9 $pid 2> /dev/null ;; esac
done
for mount in $(awk '{print $5}' /proc/self/mountinfo | grep -E '^/run/(containerd|netns/cni)|/kubelet/pods/' | sort -r); do
    umount -l $mount
done
for hierarchy in /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/*/k8s.io; do
    # What was killed is a member until somebody has reaped it.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        [ -d "$hierarchy" ] || break
        find "$hierarchy" -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.1
    done
done
rm -rf /run/containerd /run/netns/cni-* "$2"/run/cni
nft flush ruleset
ip link delete pods
ip link delete nodens 2> /dev/null
for address in $(ip -o -4 address show dev lo | awk '!/ 127/ {print $4}'); do ip address delete $address dev lo; done
exit 0
"""


@check("the node is rebooted: nodens answers for the VPC as soon as the kubelet has started it, for Services once kube-dns runs")
def node_rebooted(cluster):
    cluster.link_local()
    return rebooted(cluster, LINK_LOCAL)


@check("nodeLocal, the node is rebooted: the same at kube-dns's address, which nodens answers although kube-dns is not there yet")
def node_rebooted_in_node_local(cluster):
    cluster.release.fresh(mode="nodeLocal", clusterDNS=KUBE_DNS)
    cluster.client()
    seen = rebooted(cluster, KUBE_DNS)
    rules = cluster.node.run(["nft", "list", "table", "inet", "nodens"]).stdout
    claim(f"ip daddr {KUBE_DNS} udp dport 53 notrack" in rules, f"the address was not taken: {rules}")
    # Kept, because the pod has not been replaced since.
    log = cluster.release.log()
    waited = [line for line in log.splitlines() if "the node's addresses are" in line and "waited=" in line]
    return f"{seen}; the address was left to others for {waited[-1].rpartition('waited=')[2].split()[0] if waited else 'no time'}"


def rebooted(cluster, address):
    node = cluster.node
    vpc = (node.state / "pid" / "vpc-dns").read_text().strip()
    node.run(["bash", "-c", FORGET, "bash", vpc, node.state], check=False)
    claim("no servers could be reached" in dig(node, address, NODE_ONLY), "nodens has survived the reboot")
    node.start_again("etcd")
    node.start_again("kube-apiserver")
    until("the API server is ready", lambda: kubectl(node, "get", "--raw", "/readyz") == "ok", 90, 0.3)
    node.start_again("containerd")
    until("containerd answers", lambda: node.run(["ctr", "version"]), 30, 0.3)
    began = time.monotonic()
    for daemon in ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler"):
        node.start_again(daemon)
    seen = []
    for name in (NODE_ONLY, SERVICE):
        until(f"{name} is answered", lambda: "ANSWER: 1" in dig(node, address, name), 120, 0.3)
        seen.append(f"{name} {time.monotonic() - began:.0f} s after the start of the kubelet")
    until("one ready pod", cluster.release.ready, 120)
    # The client's pod has another address and process now.
    cluster.pod = None
    cluster.client().answer(address, SERVICE)
    return "; ".join(seen)


def dig(node, address, name):
    return node.run(["dig", "+time=1", "+tries=1", f"@{address}", name], check=False).stdout
