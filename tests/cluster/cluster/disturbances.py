"""Checks: what is changed, killed, restarted and taken away while pods ask. All in mode linkLocal."""

import json
import re
import time

from .checks import check, claim
from .kubernetes import kubectl
from .modes import ADDRESS, VALUES
from .node import Failed, until, wait
from .release import CHART, LINK_LOCAL, NAMESPACE, lost, told
from .resolution import HEADLESS, NODE_ONLY, SERVICE, leftovers


@check("an upgrade of the image under load loses no query")
def upgrade(cluster):
    cluster.release.fresh()
    with cluster.link_local().load(LINK_LOCAL) as result:
        seconds = cluster.release.upgrade(image__tag=cluster.next_tag())
    claim(lost(result) == 0, told(result))
    return f"{seconds:.1f} s; {told(result)}"


@check("`helm rollback` under load loses no query")
def rollback(cluster):
    cluster.release.fresh()
    cluster.release.upgrade(image__tag=cluster.next_tag())
    with cluster.link_local().load(LINK_LOCAL) as result:
        cluster.release.rollback()
    claim(lost(result) == 0, told(result))
    return told(result)


@check("an upgrade to an image that does not exist leaves the old pod answering; rollback heals it")
def upgrade_without_image(cluster):
    with cluster.link_local().load(LINK_LOCAL, udp=100, tcp=20) as result:
        # Without the hook, which would refuse it before anything changes.
        values = cluster.release.set(image__tag="9.9.9", checkConfig="false")
        said = cluster.release.helm("upgrade", "nodens", CHART, *cluster.release.values, *values, "--wait", "--timeout", "15s",
                                    check=False)
        claim(said.returncode != 0, "Helm called it deployed")
        cluster.release.rollback()
    claim(lost(result) == 0, told(result))
    return told(result)


@check("a changed ConfigMap is in force in the running container, which is not restarted; no query is lost")
def good_config(cluster):
    pod = cluster.link_local()
    before = cluster.release.container()
    with pod.load(LINK_LOCAL, udp=100, tcp=20) as result:
        set_config(cluster, cluster.good_config() + "\n# changed\nrecords:\n  new.cluster.test: {A: [10.9.9.9]}\n")
        began = time.monotonic()
        until("the new record is answered", lambda: pod.answer(LINK_LOCAL, "new.cluster.test."), 150, 0.5)
        seconds = time.monotonic() - began
    claim(cluster.release.container()["containerID"] == before["containerID"], "another container")
    claim(lost(result) == 0, told(result))
    return f"in force after {seconds:.0f} s; {told(result)}"


@check("a ConfigMap with a mistake changes nothing: the running process answers on, and its metric says that it refused it")
def bad_config(cluster):
    pod = cluster.link_local()
    with pod.load(LINK_LOCAL, udp=100, tcp=20) as result:
        began = time.monotonic()
        spoil_config(cluster)
        seconds = time.monotonic() - began
    claim(lost(result) == 0, told(result))
    return f"refused after {seconds:.0f} s; {told(result)}"


@check("a ConfigMap with a mistake, and then a crash: the node keeps DNS")
def bad_config_then_crash(cluster):
    pod = cluster.link_local()
    spoil_config(cluster)
    try:
        with pod.load(LINK_LOCAL, udp=20, tcp=5) as result:
            kill(cluster)
            began = time.monotonic()
            until("answers again", lambda: pod.answer(LINK_LOCAL, NODE_ONLY, "+time=1"), 20, 0.2)
            seconds = time.monotonic() - began
    finally:
        set_config(cluster, cluster.good_config())
    return f"answers again after {seconds:.1f} s; {told(result)}"


@check("a mistake in a key below the chart's `config` is refused by `helm upgrade`, and no query is lost")
def mistake_in_values(cluster):
    # The check before leaves a container for which the kubelet waits.
    cluster.release.fresh()
    with cluster.link_local().load(LINK_LOCAL, udp=100, tcp=20) as result:
        said = cluster.release.helm("upgrade", "nodens", CHART, *cluster.release.values,
                                    *cluster.release.set(config__upstreams__vpc__server="{10.1.0.251}"), check=False)
        until("3 s of it", wait(3), 10)
    if said.returncode == 0:
        cluster.release.helm("rollback", "nodens")
    claim(lost(result) == 0, told(result))
    claim(said.returncode != 0, f"Helm called it deployed; {told(result)}")
    return f"{said.stderr.strip().splitlines()[-1]}; {told(result)}"


@check("a mistake that only `nodens check` finds is refused by `helm upgrade` before anything changes; the Job's log names it")
def mistake_for_the_hook(cluster):
    cluster.release.fresh()
    def there():
        config = kubectl(cluster.node, "-n", NAMESPACE, "get", "configmap", "nodens", "-o", r"jsonpath={.data.nodens\.yaml}")
        return cluster.release.pod()["metadata"]["name"], config

    before = there()
    with cluster.link_local().load(LINK_LOCAL, udp=100, tcp=20) as result:
        began = time.monotonic()
        said = cluster.release.helm("upgrade", "nodens", CHART, *cluster.release.values,
                                    "--set-json", 'config.routes={"corp.example":"office"}', "--timeout", "60s", check=False)
        seconds = time.monotonic() - began
        until("3 s of it", wait(3), 10)
    log = kubectl(cluster.node, "-n", NAMESPACE, "logs", "job/nodens-check", check=False).stdout
    claim(said.returncode != 0 and "pre-upgrade hooks failed" in said.stderr, said.stderr or "Helm called it deployed")
    claim("office" in log, f"the log says: {log}")
    claim(there() == before, "the pod or the ConfigMap is another one")
    # The failed revision is no longer the last one.
    cluster.release.helm("rollback", "nodens", "--wait", "--timeout", "90s")
    claim(lost(result) == 0, told(result))
    return f"refused after {seconds:.1f} s: {log.strip()}; {told(result)}"


@check("kill -9: answers again within 3 s")
def kill_once(cluster):
    cluster.release.fresh()
    with cluster.link_local().load(LINK_LOCAL) as result:
        until("started again", kill(cluster), 60)
    gap = max(each["longest_gap_seconds"] for each in result.values())
    claim(gap < 3, told(result))
    return told(result)


@check("kill -9 again at once: while the kubelet waits, queries are refused and do not time out",
       "the kernel sends an address 6 ICMP errors at once and then 1 a second (net.ipv4.icmp_ratelimit)")
def kill_twice(cluster):
    return second_kill(cluster)


@check("the same with net.ipv4.icmp_ratemask=6160 on the node, which exempts 'destination unreachable': every query is refused")
def kill_twice_without_icmp_limit(cluster):
    before = cluster.node.run(["sysctl", "-n", "net.ipv4.icmp_ratemask"]).stdout.strip()
    cluster.node.run(["sysctl", "-qw", "net.ipv4.icmp_ratemask=6160"])
    try:
        return second_kill(cluster)
    finally:
        cluster.node.run(["sysctl", "-qw", f"net.ipv4.icmp_ratemask={before}"])


def second_kill(cluster):
    cluster.link_local()
    cluster.release.new_pod()
    until("started again", kill(cluster), 60)
    icmp = icmp_sent(cluster)
    # 2 a second each, as few pods ask: the limit is per address of a pod.
    with cluster.link_local().load(LINK_LOCAL, udp=2, tcp=2) as result:
        until("started again", kill(cluster), 90)
    sent = {name: value - icmp[name] for name, value in icmp_sent(cluster).items()}
    seen = f"{told(result)}; ICMP: {sent}"
    claim(all(each["counts"].get("timed out", 0) == 0 for each in result.values()), seen)
    return seen


@check("the pod is deleted: what is lost until its successor answers")
def delete_pod(cluster):
    cluster.link_local()
    cluster.release.new_pod()
    name = cluster.release.pod()["metadata"]["name"]
    with cluster.link_local().load(LINK_LOCAL) as result:
        kubectl(cluster.node, "-n", NAMESPACE, "delete", "pod", name, "--wait=false")
        until("a ready successor", lambda: cluster.release.pod()["metadata"]["name"] != name and cluster.release.ready(), 60)
    gap = max(each["longest_gap_seconds"] for each in result.values())
    claim(gap < 5, told(result))
    return told(result)


@check("the kubelet is restarted: no query is lost, the container stays")
def kubelet_restarted(cluster):
    return restarted(cluster, "kubelet")


@check("containerd is restarted: no query is lost, the container stays")
def containerd_restarted(cluster):
    return restarted(cluster, "containerd")


def restarted(cluster, daemon):
    cluster.link_local()
    before = cluster.release.container()["containerID"]
    flaps = []
    with cluster.link_local().load(LINK_LOCAL) as result:
        cluster.node.stop_daemon(daemon)
        cluster.node.start_again(daemon)
        healthy = {"kubelet": ["curl", "-sSf", "http://127.0.0.1:10248/healthz"], "containerd": ["ctr", "version"]}[daemon]
        until(f"{daemon} answers", lambda: cluster.node.run(healthy), 60, 0.3)
        # Its first looks at the pods are what could disturb them.
        ends = time.monotonic() + 15
        until("15 s of it", lambda: flaps.append(cluster.release.ready()) or time.monotonic() > ends, 30, 0.5)
    claim(cluster.release.container()["containerID"] == before, "another container")
    claim(lost(result) == 0, told(result))
    return f"readiness {'lost for ' + str(flaps.count(False)) + ' of ' + str(len(flaps)) + ' looks' if False in flaps else 'kept'}; {told(result)}"


@check("kube-dns scaled to 0: names of the VPC as before, Services from the cache; back to 2: all as before within 15 s")
def kube_dns_gone(cluster):
    pod = cluster.link_local()
    kubectl(cluster.node, "apply", "-f", "-", stdin=HEADLESS)
    pod.answer(LINK_LOCAL, SERVICE)
    scale = ("-n", "kube-system", "scale", "deployment/coredns")
    kubectl(cluster.node, *scale, "--replicas=0")
    try:
        until("no pod of kube-dns", lambda: not kubectl(cluster.node, "-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "name"), 60)
        with pod.load(LINK_LOCAL, udp=50, tcp=10) as result:
            # Longer than the TTL of 30 s, so that the answer has expired.
            until("35 s of it", wait(35), 60, 1)
        new = pod.dig(LINK_LOCAL, "kube-dns.kube-system.svc.cluster.local.")
    finally:
        kubectl(cluster.node, *scale, "--replicas=2")
        kubectl(cluster.node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s", seconds=100)
    began = time.monotonic()
    until("a Service that was not asked for before", lambda: pod.answer(LINK_LOCAL, "headless.jobs.svc.cluster.local."), 30, 0.2)
    seconds = time.monotonic() - began
    claim(lost(result) == 0, told(result))
    claim(seconds < 15, f"{seconds:.1f} s until Services are answered")
    error = re.search(r"EDE: .*", new)
    return f"{told(result)}; a name not in the cache: {error.group() if error else new}; back after {seconds:.1f} s"


@check("kube-dns is rolled, one pod after the other: no query for a name that only kube-dns knows is lost")
def kube_dns_rolled(cluster):
    return kube_dns_changes(cluster, lambda: kubectl(cluster.node, "-n", "kube-system", "rollout", "restart", "deployment/coredns"))


@check("a pod of kube-dns is killed, process and all, and the other stays: the same")
def kube_dns_pod_killed(cluster):
    def kill_one():
        pods = json.loads(kubectl(cluster.node, "-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "json"))["items"]
        kubectl(cluster.node, "-n", "kube-system", "delete", "pod", pods[0]["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")

    return kube_dns_changes(cluster, kill_one)


@check("service: kube-dns is rolled: the same")
def kube_dns_rolled_in_service(cluster):
    return kube_dns_rolled_in(cluster, "service")


@check("nodeLocal: kube-dns is rolled: the same, at kube-dns's own address")
def kube_dns_rolled_in_node_local(cluster):
    return kube_dns_rolled_in(cluster, "nodeLocal")


def kube_dns_rolled_in(cluster, mode):
    cluster.release.fresh(mode=mode, **VALUES[mode])
    return kube_dns_changes(cluster, lambda: kubectl(cluster.node, "-n", "kube-system", "rollout", "restart", "deployment/coredns"), ADDRESS[mode])


def kube_dns_changes(cluster, change, address=LINK_LOCAL):
    # A new name each time, of which kube-dns says that it does not exist: no cache helps.
    pod = cluster.link_local() if address == LINK_LOCAL else cluster.client()
    with pod.load(address, udp=100, tcp=20, names=["kubernetes.default.svc.cluster.local", "*.default.svc.cluster.local"]) as result:
        change()
        kubectl(cluster.node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s", seconds=100)
        until("5 s more", wait(5), 10)
    claim(lost(result, "NXDOMAIN") == 0, told(result))
    return told(result)


@check("OOM: the container is started again and answers within 3 s")
def out_of_memory(cluster):
    cluster.link_local()
    cluster.release.new_pod()
    pid = cluster.release.pid()
    memory = cluster.node.run(["sh", "-c", f"grep :memory: /proc/{pid}/cgroup | cut -d: -f3"]).stdout.strip()
    folder = f"/sys/fs/cgroup/memory{memory}"
    if not memory:
        raise Failed("no memory hierarchy of cgroup v1: this check knows no other")
    # Something in nodens's cgroup takes what is left of the limit; nodens is the one that the kernel picks.
    cluster.node.run(["sh", "-c", f"echo 1000 > /proc/{pid}/oom_score_adj"])
    with cluster.link_local().load(LINK_LOCAL) as result:
        cluster.node.run(["sh", "-c", f"echo $$ > {folder}/cgroup.procs; exec head -c 300m /dev/zero | tail > /dev/null"], check=False)
        until("another container", lambda: cluster.release.container()["restartCount"] == 1 and cluster.release.ready(), 60)
    reason = cluster.release.container()["lastState"]["terminated"]["reason"]
    gap = max(each["longest_gap_seconds"] for each in result.values())
    claim(gap < 3 and reason == "OOMKilled", f"{reason}; {told(result)}")
    return f"{reason}; {told(result)}"


@check("a good upgrade that begins while the kubelet is down and goes on when it is back: what is lost")
def upgrade_and_kubelet(cluster):
    cluster.release.fresh()
    tag = cluster.next_tag()
    with cluster.link_local().load(LINK_LOCAL) as result:
        cluster.node.stop_daemon("kubelet")
        # The hook's Job would wait for the kubelet.
        values = cluster.release.set(image__tag=tag, checkConfig="false")
        cluster.release.helm("upgrade", "nodens", CHART, *cluster.release.values, *values)
        cluster.node.start_again("kubelet")
        until("one ready pod of the new image", lambda: cluster.next_tag() != tag and cluster.release.ready(), 60)
        until("3 s more", wait(3), 10)
    gap = max(each["longest_gap_seconds"] for each in result.values())
    claim(gap < 3, told(result))
    return told(result)


# podsShouldBeOnNode in pkg/controller/daemon/daemon_controller.go; initialValue in pkg/kubelet/prober/worker.go.
@check("an upgrade that cannot become ready, begun while the kubelet restarts, does not take the working pod away",
       "a kubelet of 1.34 that starts calls containers not ready until it has probed them, and the DaemonSet controller deletes an "
       "old pod that is not ready")
def bad_upgrade_and_kubelet(cluster):
    cluster.release.fresh()
    before = cluster.release.pod()["metadata"]["name"]
    with cluster.link_local().load(LINK_LOCAL, udp=100, tcp=20) as result:
        cluster.node.stop_daemon("kubelet")
        # The configuration is refused at start: `args` of the container name a file that is not there.
        kubectl(cluster.node, "-n", NAMESPACE, "patch", "daemonset", "nodens", "--type=json", "-p", json.dumps(
            [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["serve", "--config", "/nowhere.yaml"]}]))
        cluster.node.start_again("kubelet")
        until("25 s of it", wait(25), 60, 1)
        names = [pod["metadata"]["name"] for pod in cluster.release.pods() if "deletionTimestamp" not in pod["metadata"]]
    cluster.release.helm("upgrade", "nodens", CHART, *cluster.release.values, "--force")
    cluster.release.rollout()
    claim(before in names and lost(result) == 0, f"the old pod is {'there' if before in names else 'gone'}; {told(result)}")
    return told(result)


@check("Pod Security: admitted at `privileged`; at `baseline` and `restricted` refused with words that name hostNetwork")
def pod_security(cluster):
    seen = []
    for level in ("privileged", "baseline", "restricted"):
        namespace = f"psa-{level}"
        kubectl(cluster.node, "create", "namespace", namespace)
        kubectl(cluster.node, "label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
        manifest = cluster.release.helm("template", "nodens", CHART, *cluster.release.values, "--set", "clusterDNS=10.96.0.10",
                                        "--show-only", "templates/daemonset.yaml")
        # The pod template as a pod, tried and not made.
        daemonset = kubectl(cluster.node, "create", "--dry-run=client", "-o", "json", "-f", "-", stdin=manifest)
        pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(daemonset)["spec"]["template"]}
        pod["metadata"] = {"name": "nodens", "namespace": namespace}
        pod["spec"]["serviceAccountName"] = "default"
        # system-node-critical is for kube-system where quotas say so; it is not what is tried here.
        done = until("the namespace's ServiceAccount", lambda: tried(cluster, pod), 20, 0.5)
        claim((done.returncode == 0) == (level == "privileged"), f"{level}: {done.stdout}{done.stderr}")
        if level != "privileged":
            claim("hostNetwork" in done.stderr, done.stderr)
        seen.append(f"{level}: {(done.stderr or done.stdout).strip()}")
        kubectl(cluster.node, "delete", "namespace", namespace, "--wait=false")
    return "; ".join(seen)


def tried(cluster, pod):
    done = kubectl(cluster.node, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
    return None if "serviceaccount" in done.stderr and "not found" in done.stderr else done


@check("linkLocal: `helm uninstall` leaves the address and the rules, as documented; the documented way leaves nothing")
def uninstall(cluster):
    cluster.release.fresh()
    cluster.release.uninstall()
    left = leftovers(cluster)
    claim(LINK_LOCAL in left and "nodens" in left, f"left: {left or 'nothing'}")
    cluster.release.install(config__node__on_exit="remove")
    cluster.release.helm("uninstall", "nodens", "--wait", "--timeout", "90s")
    until("no pod of nodens is left", lambda: not cluster.release.pods(), 60)
    after = leftovers(cluster)
    claim(not after, f"left with on_exit=remove: {after}")
    return f"left by default: {left}; with config.node.on_exit=remove: nothing"


def kill(cluster):
    """Kills nodens and returns the condition that the kubelet has started it again and found it ready."""
    before = cluster.release.container()["restartCount"]
    cluster.node.run(["kill", "-9", cluster.release.pid()])

    def again():
        now = cluster.release.container()
        return now["restartCount"] > before and now["ready"]

    return again


def set_config(cluster, text):
    patch = json.dumps({"data": {"nodens.yaml": text}})
    kubectl(cluster.node, "-n", NAMESPACE, "patch", "configmap", "nodens", "--type=merge", "-p", patch)


def spoil_config(cluster):
    """Puts a mistake into the ConfigMap, and waits until the running process has refused it."""
    set_config(cluster, cluster.good_config().replace("routes:", "roots:"))
    until("nodens_config_reload_success is 0", lambda: cluster.release.metric("nodens_config_reload_success") == 0, 150, 0.5)


def icmp_sent(cluster):
    """Errors "port unreachable" and the like that the node's kernel sent, and those that its limits suppressed."""
    lines = cluster.node.run(["nstat", "-az"]).stdout.splitlines()
    wanted = ("IcmpOutDestUnreachs", "IcmpOutRateLimitGlobal", "IcmpOutRateLimitHost")
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith(wanted)}
