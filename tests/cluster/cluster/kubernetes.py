"""Kubernetes on the node: certificates, the flags of every program, the network of pods, kube-dns, the VPC's nameserver."""

import json
import subprocess
from pathlib import Path

from . import images
from .node import HERE, NODE_IP, VPC_DNS, Failed, until

KUBE_DNS = "10.96.0.10"
# Its Service has it only while a check asks for it.
KUBE_DNS_IPV6 = "fd00:96::a"
SERVICES = "10.96.0.0/16,fd00:96::/112"
PODS = "10.244.0.0/16,fd00:244::/56"
TOKEN = "the-only-administrator"


def up(node):
    certificates(node)
    kubeconfig(node)
    vpc_dns(node)
    etcd(node)
    control_plane(node)
    runs_pods(node)
    kubectl(node, "apply", "-f", HERE / "manifests" / "kube-dns.yaml")
    until_ready(node)
    kubectl(node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s", seconds=200)


def runs_pods(node):
    containerd(node)
    kubelet(node)
    kube_proxy(node)
    for image in (images.pause(node.cache), images.coredns(node.cache), images.clients(node.state)):
        images.load(node, image)


def until_ready(node):
    until(f"{node.name} is Ready", lambda: "True" in kubectl(
        node, "get", "node", node.name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"), 120)


def kubectl(node, *arguments, stdin=None, seconds=60, check=True):
    done = node.run(["kubectl", *arguments], stdin=stdin, seconds=seconds, check=check)
    return done.stdout if check else done


def certificates(node):
    etc = node.state / "etc"

    def openssl(*arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, cwd=etc)
        if done.returncode != 0:
            raise Failed(f"openssl {arguments[0]}: {done.stderr}")

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("genrsa", "-out", "service-accounts.key", "2048")
    names = f"DNS:kubernetes.default.svc,DNS:localhost,IP:10.96.0.1,IP:127.0.0.1,IP:{NODE_IP}"
    for name, subject, extension in (
            ("apiserver", "/CN=apiserver", f"subjectAltName={names}"),
            ("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client", "extendedKeyUsage=clientAuth")):
        (etc / "extension").write_text(extension + "\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "30", "-extfile", "extension", "-out", f"{name}.crt")


def kubeconfig(node):
    etc = node.state / "etc"
    (etc / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    (etc / "admin.kubeconfig").write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "clusters": [{"name": "node", "cluster": {"server": f"https://{NODE_IP}:6443", "certificate-authority": str(etc / "ca.crt")}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "admin"}}],
    }))


def vpc_dns(node):
    """Unbound in the namespace `vpc`: names that kube-dns does not know, for whoever can reach it."""
    configuration = node.state / "etc" / "unbound.conf"
    configuration.write_text(f"""
server:
    interface: {VPC_DNS}
    access-control: 0.0.0.0/0 allow
    username: ""
    chroot: ""
    directory: "{node.state}"
    pidfile: ""
    do-daemonize: no
    use-syslog: no
    num-threads: 1
    module-config: "iterator"
    local-zone: "." static
    local-zone: "example.com." static
    local-data: "registry.example.com. 5 A 10.1.20.5"
    local-data: "registry.example.com. 5 AAAA fd00:1::20:5"
    local-zone: "load.example.com." redirect
    local-data: "load.example.com. 5 A 10.1.20.7"
    local-data: "external.example.com. 5 A 10.1.20.9"
    local-data: "git.example.com. 5 A {NODE_IP}"
    local-zone: "20.1.10.in-addr.arpa." static
    local-data-ptr: "10.1.20.5 registry.example.com"
""")
    node.daemon("vpc-dns", ["ip", "netns", "exec", "vpc", "unbound", "-d", "-c", configuration])


def etcd(node):
    node.daemon("etcd", ["etcd", "--data-dir", node.state / "etcd", "--listen-client-urls", "http://127.0.0.1:2379",
                         "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380"])


def control_plane(node):
    etc = node.state / "etc"
    node.daemon("kube-apiserver", [
        "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={NODE_IP}", "--secure-port=6443",
        f"--tls-cert-file={etc}/apiserver.crt", f"--tls-private-key-file={etc}/apiserver.key", f"--client-ca-file={etc}/ca.crt",
        f"--token-auth-file={etc}/tokens.csv", "--authorization-mode=RBAC", "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={etc}/service-accounts.key",
        f"--service-account-signing-key-file={etc}/service-accounts.key", f"--service-cluster-ip-range={SERVICES}",
        f"--kubelet-client-certificate={etc}/kubelet-client.crt", f"--kubelet-client-key={etc}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP"])
    until("the API server is ready", lambda: kubectl(node, "get", "--raw", "/readyz") == "ok", 90, 0.5)
    node.daemon("kube-controller-manager", [
        "kube-controller-manager", f"--kubeconfig={etc}/admin.kubeconfig", f"--root-ca-file={etc}/ca.crt",
        f"--service-account-private-key-file={etc}/service-accounts.key", "--use-service-account-credentials=true",
        "--allocate-node-cidrs=true", f"--cluster-cidr={PODS}", f"--service-cluster-ip-range={SERVICES}", "--leader-elect=false"])
    node.daemon("kube-scheduler", ["kube-scheduler", f"--kubeconfig={etc}/admin.kubeconfig", "--leader-elect=false"])


def containerd(node):
    networks = node.state / "etc" / "cni"
    networks.mkdir()
    (networks / "10-pods.conflist").write_text(json.dumps({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True,
            "ipam": {"type": "host-local", "dataDir": str(node.state / "run" / "cni"),
                     "ranges": [[{"subnet": subnet}] for subnet in node.pods],
                     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
        }],
    }))
    configuration = node.state / "etc" / "containerd.toml"
    # restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE may not lower a process's score below its own.
    configuration.write_text(f"""
version = 2
root = "{node.state}/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "nodens.test/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
""")
    node.daemon("containerd", ["containerd", "--config", configuration])
    until("containerd answers", lambda: node.run(["ctr", "version"]), 30, 0.3)


def kubelet(node):
    configuration = node.state / "etc" / "kubelet.json"
    configuration.write_text(json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False},
                           "x509": {"clientCAFile": str(node.shared / "ca.crt")}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False, "oomScoreAdj": 0,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [KUBE_DNS], "clusterDomain": "cluster.local", "resolvConf": "/etc/resolv.conf",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%",
                         "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    }))
    node.daemon("kubelet", [
        "kubelet", f"--config={configuration}", f"--kubeconfig={node.shared}/admin.kubeconfig", f"--root-dir={node.state}/kubelet",
        f"--hostname-override={node.name}", f"--node-ip={node.ip},{node.ipv6}"])


def kube_proxy(node, mode="nftables"):
    node.daemon("kube-proxy", [
        "kube-proxy", f"--kubeconfig={node.shared}/admin.kubeconfig", f"--proxy-mode={mode}", f"--hostname-override={node.name}",
        f"--cluster-cidr={PODS}", "--oom-score-adj=0",
        # Limits of connection tracking are the machine's, not this network namespace's.
        "--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s"])
