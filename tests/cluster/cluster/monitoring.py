"""Check: Debian's Prometheus, in a pod, scrapes what the chart's ServiceMonitor selects and evaluates the chart's rules as they are.

Limits: Debian's Prometheus is built without discovery in Kubernetes, and there is no Prometheus Operator; `targets` and
`scrape_config` do what they do with the fields of a ServiceMonitor that the chart sets. There is no kube-state-metrics, so two of the
alerts have nothing to look at.
"""

import json
import time

from . import images
from .checks import check, claim
from .kubernetes import kubectl
from .node import until, wait
from .release import LINK_LOCAL, NAMESPACE, told

# The two kinds that the chart makes. The operator's own schemas are held against the chart elsewhere (charts/test).
KINDS = "\n---\n".join(f"""apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.monitoring.coreos.com}}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {plural[:-1]}}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
""" for kind, plural in (("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")))

POD = """apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: Pod
metadata: {name: prometheus, namespace: monitoring}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: prometheus
    image: nodens.test/prometheus:1
    imagePullPolicy: Never
    args: [--config.file=/etc/prometheus/prometheus.yml, --storage.tsdb.path=/tmp/data]
    readinessProbe: {httpGet: {path: /-/ready, port: 9090}, periodSeconds: 1}
    volumeMounts: [{name: config, mountPath: /etc/prometheus}]
  volumes: [{name: config, configMap: {name: prometheus}}]
"""


def image():
    made = images.Image("nodens.test/prometheus:1", ["/bin/prometheus"])
    made.program("/usr/bin/prometheus", "bin/prometheus")
    return made


def label(name):
    return "".join(character if character.isalnum() else "_" for character in name)


def targets(node, monitor):
    """What the ServiceMonitor selects: an address of each endpoint with the labels that Prometheus's discovery would give it."""
    endpoint, = monitor["spec"]["endpoints"]
    namespace, = monitor["spec"]["namespaceSelector"]["matchNames"]
    selector = ",".join(f"{name}={value}" for name, value in monitor["spec"]["selector"]["matchLabels"].items())
    found = []
    for service in json.loads(kubectl(node, "-n", namespace, "get", "services", "-o", "json", "-l", selector))["items"]:
        name = service["metadata"]["name"]
        slices = kubectl(node, "-n", namespace, "get", "endpointslices", "-o", "json", "-l", f"kubernetes.io/service-name={name}")
        labels = {f"service_label_{label(key)}": value for key, value in service["metadata"]["labels"].items()}
        found += [{"targets": [f"{address}:{port['port']}"],
                   "labels": {f"__meta_kubernetes_{key}": value for key, value in {
                       **labels, "namespace": namespace, "service_name": name, "pod_name": each["targetRef"]["name"],
                       "pod_node_name": each["nodeName"]}.items()}}
                  for part in json.loads(slices)["items"] for each in part["endpoints"] for address in each["addresses"]
                  for port in part["ports"] if port["name"] == endpoint["port"]]
    return found


def scrape_config(node, monitor):
    """What the Prometheus Operator makes of a ServiceMonitor's port and relabelings."""
    endpoint, = monitor["spec"]["endpoints"]
    relabel = [{"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target} for source, target in (
        ("namespace", "namespace"), ("service_name", "service"), ("pod_name", "pod"),
        (f"service_label_{label(monitor['spec']['jobLabel'])}", "job"))]
    relabel.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    relabel += [{"source_labels": each["sourceLabels"], "target_label": each["targetLabel"]} for each in endpoint["relabelings"]]
    return {"job_name": monitor["metadata"]["name"], "metrics_path": endpoint["path"],
            "scrape_interval": endpoint["interval"], "scrape_timeout": endpoint["scrapeTimeout"], "relabel_configs": relabel,
            "static_configs": targets(node, monitor)}


class Prometheus:
    """A pod with the ServiceMonitor and the PrometheusRule that the API server has of the release."""

    def __init__(self, node):
        self.node = node
        images.load(node, image())
        monitor, rules = (json.loads(kubectl(node, "-n", NAMESPACE, "get", kind, "nodens", "-o", "json"))
                          for kind in ("servicemonitor", "prometheusrule"))
        config = {"global": {"evaluation_interval": "5s"}, "rule_files": ["/etc/prometheus/rules.yml"],
                  "scrape_configs": [scrape_config(node, monitor)]}
        kubectl(node, "delete", "namespace", "monitoring", "--ignore-not-found", seconds=90)
        namespace, _, rest = POD.partition("---\n")
        files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus", "namespace": "monitoring"},
                 # JSON is YAML.
                 "data": {"prometheus.yml": json.dumps(config), "rules.yml": json.dumps(rules["spec"])}}
        kubectl(node, "apply", "-f", "-", stdin=namespace)
        until("the pod is accepted", lambda: kubectl(node, "apply", "-f", "-", stdin=f"{json.dumps(files)}\n---\n{rest}"), 20, 0.5)
        kubectl(node, "-n", "monitoring", "wait", "--for=condition=Ready", "pod/prometheus", "--timeout=60s", seconds=70)
        self.address = kubectl(node, "-n", "monitoring", "get", "pod", "prometheus", "-o", "jsonpath={.status.podIP}")

    def get(self, path, **parameters):
        words = [word for name, value in parameters.items() for word in ("--data-urlencode", f"{name}={value}")]
        said = self.node.run(["curl", "-sS", "--get", "--max-time", "5", *words, f"http://{self.address}:9090/api/v1/{path}"]).stdout
        answer = json.loads(said)
        claim(answer["status"] == "success", said)
        return answer["data"]

    def value(self, expression):
        """Of a query with one result; None if it has none."""
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def alerts(self):
        """State by name and, where there is one, group."""
        return {" ".join(filter(None, (alert["labels"]["alertname"], alert["labels"].get("group")))): alert["state"]
                for alert in self.get("alerts")["alerts"]}


@check("Prometheus with the chart's ServiceMonitor and rules: the target is up, no alert on a healthy node in 60 s; the VPC's nameserver "
       "goes silent: the alerts for server and group fire; it is back: they end")
def prometheus(cluster):
    kubectl(cluster.node, "apply", "-f", "-", stdin=KINDS)
    for plural in ("servicemonitors", "prometheusrules"):
        kubectl(cluster.node, "wait", "--for=condition=Established", f"crd/{plural}.monitoring.coreos.com", "--timeout=20s")
    cluster.release.fresh(serviceMonitor__enabled="true", serviceMonitor__interval="5s", serviceMonitor__scrapeTimeout="4s",
                          prometheusRule__enabled="true")
    watched = Prometheus(cluster.node)
    vpc = (cluster.node.state / "pid" / "vpc-dns").read_text().strip()
    pod = cluster.client()
    try:
        with pod.load(LINK_LOCAL, udp=50, tcp=10) as result:
            until("the target is up", lambda: watched.value("up") == 1, 40, 1)
            labels = watched.get("query", query="nodens_config_reload_success")["result"][0]["metric"]
            claim(labels["job"] == "nodens" and labels["node"] == "node", str(labels))
            seen = {}
            # Series of the load, too: without them the alerts would have nothing to be wrong about.
            until("the load is in the series", lambda: (watched.value("sum(rate(nodens_replies_total[30s]))") or 0) > 40, 60, 1)
            healthy = wait(60)
            until("60 s of it", lambda: seen.update(watched.alerts()) or healthy(), 90, 2)
            claim(not seen, f"on a healthy node: {seen}")
            families = len({name.removesuffix("_bucket") for name in watched.get("label/__name__/values") if name.startswith("nodens_")})
            rules = [rule for group in watched.get("rules")["groups"] for rule in group["rules"]]
            claim(len(rules) > 10 and all(rule["health"] == "ok" for rule in rules), str(rules))
        cluster.node.run(["kill", "-STOP", vpc])
        began, times = time.monotonic(), {}

        def note():
            for name, state in watched.alerts().items():
                times.setdefault((name, state), time.monotonic() - began)
            return {("NodensServerDown vpc", "firing"), ("NodensGroupDown vpc", "firing")} <= set(times)

        with pod.load(LINK_LOCAL, udp=10, tcp=2):
            until("both alerts fire", note, 300, 1)
    finally:
        cluster.node.run(["kill", "-CONT", vpc])
    until("no alert for server or group", lambda: not any("Down" in name for name in watched.alerts()), 90, 1)
    kubectl(cluster.node, "delete", "namespace", "monitoring", "--wait=false")
    told_of = "; ".join(f"{name} {state} after {seconds:.0f} s" for (name, state), seconds in times.items())
    return f"{families} families nodens_*, {len(rules)} rules; healthy, nothing pending ({told(result)}); silent: {told_of}"
