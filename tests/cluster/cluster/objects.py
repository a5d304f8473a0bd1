"""Checks: what else the repository offers for a cluster: plain manifests, the sidecar example, metrics, network policies."""

import json
import re

from .checks import check, claim
from .kubernetes import KUBE_DNS, kubectl
from .node import HERE, until
from .release import LINK_LOCAL, NAMESPACE
from .resolution import NODE_ONLY, SERVICE

REPOSITORY = HERE.parent.parent
IMAGE = "registry.example.com/nodens:0.1.0"
LOADED = "docker.io/library/nodens:0.1.0"


def job_completes(cluster, changes):
    """Applies the example after some changes; returns what its job said."""
    text = (REPOSITORY / "charts/nodens/examples/native-sidecar.yaml").read_text()
    for old, new in [(IMAGE, LOADED), ("docker.io/library/alpine:3.22", "nodens.test/clients:1"), ("10.0.0.2", "10.1.0.251"), *changes]:
        claim(old in text, f"the example has no {old}")
        text = text.replace(old, new)
    kubectl(cluster.node, "-n", "jobs", "delete", "pod", "job-with-nodens", "--ignore-not-found")
    kubectl(cluster.node, "-n", "jobs", "apply", "-f", "-", stdin=text)
    until("the job's pod is over", lambda: phase(cluster) in ("Succeeded", "Failed"), 60, 0.3)
    said = kubectl(cluster.node, "-n", "jobs", "logs", "job-with-nodens", "-c", "build")
    claim(phase(cluster) == "Succeeded", said)
    return said


def phase(cluster):
    return kubectl(cluster.node, "-n", "jobs", "get", "pod", "job-with-nodens", "-o", "jsonpath={.status.phase}")


@check("the example of a native sidecar: the job resolves a Service, and its pod ends as Succeeded although nodens is in it")
def native_sidecar(cluster):
    cluster.link_local()
    said = job_completes(cluster, [("NAMESPACE", "jobs")])
    claim("10.96.0.1" in said, said)
    return "Succeeded"


@check("deploy/kubernetes-linklocal.yaml, with the changes that its head names: pods resolve; `kubectl delete -f` removes it")
def plain_manifest(cluster):
    cluster.link_local()
    pod = cluster.client()
    cluster.release.uninstall()
    text = (REPOSITORY / "deploy/kubernetes-linklocal.yaml").read_text().replace(IMAGE, LOADED).replace("10.96.0.10", KUBE_DNS)
    if cluster.release.interface():
        text = re.sub(r"kind: dummy\n( +)name: nodens", r"kind: loopback\n\1name: lo", text)
    kubectl(cluster.node, "apply", "-f", "-", stdin=text)
    try:
        cluster.release.rollout()
        for name in (SERVICE, NODE_ONLY):
            until(f"{name} is answered", lambda: pod.answer(LINK_LOCAL, name), 20, 0.3)
    finally:
        kubectl(cluster.node, "delete", "-f", "-", stdin=text, seconds=90)
    until("no pod of nodens is left", lambda: not cluster.release.pods(), 60)
    return "both answered"


@check("metrics: the endpoints of the Service that the ServiceMonitor selects answer a pod's scrape")
def metrics(cluster):
    pod = cluster.link_local()
    slices = json.loads(kubectl(cluster.node, "-n", NAMESPACE, "get", "endpointslices", "-o", "json",
                                "-l", "kubernetes.io/service-name=nodens-metrics"))["items"]
    targets = [f"{address}:{port['port']}" for part in slices for endpoint in part["endpoints"] for address in endpoint["addresses"]
               for port in part["ports"]]
    claim(targets == ["10.1.0.10:9153"], str(targets))
    page = cluster.node.run([*pod.network(), "curl", "-sSf", "--max-time", "5", f"http://{targets[0]}/metrics"]).stdout
    families = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    claim(len(families) > 20, page)
    claim(all(name.startswith(("nodens_", "process_")) for name in families), str(sorted(families)))
    return f"{targets[0]}: {len(families)} families"


@check("networkPolicy.enabled: the API server accepts the policies (bridge enforces none)")
def network_policy(cluster):
    kubectl(cluster.node, "create", "namespace", "jobs", check=False)
    cluster.release.fresh(networkPolicy__enabled="true")
    policy = json.loads(kubectl(cluster.node, "-n", "jobs", "get", "networkpolicy", "nodens-dns", "-o", "json"))
    blocks = [to["ipBlock"]["cidr"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    claim(f"{LINK_LOCAL}/32" in blocks, str(blocks))
    return str(blocks)
