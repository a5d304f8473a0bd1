"""Check: the node is rebooted, which is everything on it killed, and all that the kernel had forgotten."""

import time

from .checks import check, claim
from .kubernetes import kubectl
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
    node = cluster.node
    cluster.link_local()
    vpc = (node.state / "pid" / "vpc-dns").read_text().strip()
    node.run(["bash", "-c", FORGET, "bash", vpc, node.state], check=False)
    claim("no servers could be reached" in dig(node, NODE_ONLY), "nodens has survived the reboot")
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
        until(f"{name} is answered", lambda: "ANSWER: 1" in dig(node, name), 120, 0.3)
        seen.append(f"{name} {time.monotonic() - began:.0f} s after the start of the kubelet")
    until("one ready pod", cluster.release.ready, 120)
    # The client's pod has another address and process now.
    cluster.pod = None
    cluster.link_local().answer(LINK_LOCAL, SERVICE)
    return "; ".join(seen)


def dig(node, name):
    return node.run(["dig", "+time=1", "+tries=1", f"@{LINK_LOCAL}", name], check=False).stdout
