"""Checks: the documented ways of removal leave nothing on the node, and take nothing from those who ask kube-dns's own address."""

from .checks import check, claim
from .kubernetes import KUBE_DNS, kubectl
from .node import until
from .objects import IMAGE, LOADED, REPOSITORY
from .release import CHART, LINK_LOCAL, NAMESPACE, lost, told
from .resolution import SERVICE, leftovers


@check("linkLocal, `helm upgrade --reuse-values --set interface.onExit=remove` and `helm uninstall`, as the chart's README has it: nothing "
       "is left on the node, and nothing is lost at kube-dns's address")
def remove_on_exit(cluster):
    cluster.release.fresh()
    release = cluster.release
    old = release.pod()["metadata"]["name"]
    with cluster.client().load(KUBE_DNS, udp=100, tcp=20, names=[SERVICE]) as result:
        release.helm("upgrade", "nodens", CHART, "--reuse-values", "--set", "interface.onExit=remove")
        release.rollout()
        # Without a pod of its own the value would not be in force.
        claim(old not in [pod["metadata"]["name"] for pod in release.pods() if "deletionTimestamp" not in pod["metadata"]], "the pod was not replaced")
        release.uninstall()
        left = leftovers(cluster)
    claim(not left, f"left: {left}")
    claim(lost(result) == 0, told(result))
    return f"nothing is left; kube-dns's address: {told(result)}"


@check("linkLocal, `helm uninstall`, and deploy/kubernetes-remove.yaml by the commands in its head: the same")
def remove_by_daemonset(cluster):
    cluster.release.fresh()
    text = (REPOSITORY / "deploy/kubernetes-remove.yaml").read_text()
    changes = [(IMAGE, LOADED)]
    if cluster.release.interface():
        changes.append(("node.interface.kind=dummy", "node.interface.kind=loopback"))
    for old, new in changes:
        claim(old in text, f"the manifest has no {old}")
        text = text.replace(old, new)
    with cluster.client().load(KUBE_DNS, udp=100, tcp=20, names=[SERVICE]) as result:
        cluster.release.uninstall()
        before = leftovers(cluster)
        claim(LINK_LOCAL in before and "nodens" in before, f"left by the uninstallation: {before or 'nothing'}")
        kubectl(cluster.node, "apply", "-f", "-", stdin=text)
        kubectl(cluster.node, "-n", NAMESPACE, "rollout", "status", "daemonset/nodens-remove", "--timeout=60s", seconds=70)
        kubectl(cluster.node, "-n", NAMESPACE, "delete", "daemonset/nodens-remove")
        until("its pod is gone", lambda: not kubectl(cluster.node, "-n", NAMESPACE, "get", "pods", "-o", "name",
                                                     "-l", "app.kubernetes.io/component=remove"), 60)
        left = leftovers(cluster)
    claim(not left, f"left: {left}")
    claim(lost(result) == 0, told(result))
    return f"before: {before}; after: nothing; kube-dns's address: {told(result)}"
