"""Docker in a pod: Debian's dockerd as it is, in a privileged container, and what its containers get."""

import subprocess
from pathlib import Path

from . import images
from .checks import check, claim
from .kubernetes import kubectl
from .node import Failed, until
from .release import LINK_LOCAL, dns_block

IMAGE = "nodens.test/docker:1"
NAME = "registry.example.com"


def image(cache):
    """dockerd and what it runs. The package is unpacked and not installed, as it would be started here."""
    unpacked = Path(cache) / "docker"
    if not (unpacked / "usr/sbin/dockerd").exists():
        unpacked.mkdir(exist_ok=True)
        done = subprocess.run("apt-get download -qq docker.io && dpkg -x docker.io_*.deb . && rm docker.io_*.deb", shell=True,
                              cwd=unpacked, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"docker.io: {done.stdout}{done.stderr}")
    made = images.busybox()
    made.reference = IMAGE
    for program in ("usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker"):
        made.program(unpacked / program, program)
    for program in ("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc", "usr/sbin/xtables-nft-multi"):
        made.program(f"/{program}", program)
    for name in ("iptables", "ip6tables"):
        made.files[f"usr/sbin/{name}"] = "xtables-nft-multi"
    for library in Path("/usr/lib").glob("*-linux-gnu/xtables/*.so"):
        made.files[str(library).lstrip("/")] = library
    return made


POD = """apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: jobs}}
{spec}
  terminationGracePeriodSeconds: 3
{sidecar}  containers:
  - name: docker
    image: nodens.test/docker:1
    imagePullPolicy: Never
    command: [dockerd, --storage-driver=vfs, {options}]
    securityContext: {{privileged: true}}
    volumeMounts:
    - {{name: data, mountPath: /var/lib/docker}}
    - {{name: images, mountPath: /images, readOnly: true}}
  volumes:
  - {{name: data, emptyDir: {{}}}}
  - {{name: images, hostPath: {{path: {images}}}}}
{volumes}"""


def load(node):
    """Loads the image once. Returns the folder of images for dockerd itself."""
    folder = node.state / "images"
    if not folder.exists():
        folder.mkdir()
        images.clients(node.state).write(folder / "clients.tar")
        images.load(node, image(node.cache))
    return folder


class Docker:
    """A pod with dockerd in it, and the image `clients` loaded."""

    def __init__(self, cluster, name, spec, *, sidecar="", volumes="", options="--log-level=warn"):
        self.node, self.name = cluster.node, name
        folder = load(cluster.node)
        kubectl(self.node, "-n", "jobs", "delete", "pod", name, "--ignore-not-found", "--grace-period=1")
        manifest = POD.format(name=name, spec=spec.rstrip(), sidecar=sidecar, volumes=volumes, options=options, images=folder)
        kubectl(self.node, "apply", "-f", "-", stdin=manifest)
        kubectl(self.node, "-n", "jobs", "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", seconds=70)
        until("dockerd answers", lambda: self.docker("version"), 60, 0.5)
        self.docker("load", "-i", "/images/clients.tar")

    def docker(self, *arguments, stdin=None, check=True):
        done = kubectl(self.node, "-n", "jobs", "exec", *(["-i"] if stdin else []), self.name, "-c", "docker", "--", "docker", *arguments,
                       stdin=stdin, check=False, seconds=120)
        if check and done.returncode != 0:
            raise Failed(f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def nameservers(self, *options):
        said = self.docker("run", "--rm", *options, "nodens.test/clients:1", "cat", "/etc/resolv.conf")
        return [line.split()[1] for line in said.splitlines() if line.startswith("nameserver")]

    def resolves(self, *options):
        """Both resolvers find the name in a container; a Service, too."""
        for program in (["nslookup", NAME], ["lookup-glibc", NAME], ["lookup-musl", "kubernetes.default.svc.cluster.local"]):
            self.docker("run", "--rm", *options, "nodens.test/clients:1", *program)

    def build(self):
        return self.docker("build", "--no-cache", "-", stdin=f"FROM nodens.test/clients:1\nRUN cat /etc/resolv.conf && nslookup {NAME}\n")

    def delete(self):
        kubectl(self.node, "-n", "jobs", "delete", "pod", self.name, "--wait=false")


@check("Docker in a pod without nodens: a container does not find a name of the VPC")
def docker_without(cluster):
    cluster.link_local()
    docker = Docker(cluster, "docker-without", "spec:\n  dnsPolicy: ClusterFirst\n")
    said = docker.docker("run", "--rm", "nodens.test/clients:1", "lookup-glibc", NAME, check=False)
    servers = docker.nameservers()
    docker.delete()
    claim("10.1.20.5" not in said, said)
    return f"nameservers of a container: {servers}; getaddrinfo: {said.splitlines()[0]}"


@check("Docker in a pod with the block of NOTES: `docker run`, `docker build` and a network of one's own resolve")
def docker_link_local(cluster):
    cluster.link_local()
    docker = Docker(cluster, "docker", dns_block(cluster.release.notes))
    bridge = docker.nameservers()
    claim(bridge == [LINK_LOCAL], str(bridge))
    docker.resolves()
    built = docker.build()
    claim(f"nameserver {LINK_LOCAL}" in built and "10.1.20.5" in built, built)
    docker.docker("network", "create", "own")
    own = docker.nameservers("--network", "own")
    claim(own == ["127.0.0.11"], str(own))
    docker.resolves("--network", "own")
    docker.delete()
    return f"nameservers: docker run {bridge}, docker build the same, own network {own}"


SIDECAR = """  initContainers:
  - name: nodens
    image: docker.io/library/nodens:0.1.0
    imagePullPolicy: Never
    restartPolicy: Always
    args: [serve, --config, /etc/nodens/nodens.yaml]
    volumeMounts:
    - {name: config, mountPath: /etc/nodens}
"""
SIDECAR_CONFIG = """apiVersion: v1
kind: ConfigMap
metadata: {name: sidecar, namespace: jobs}
data:
  nodens.yaml: |
    listen: ["0.0.0.0:53"]
    allow: [private]
    upstreams: {cluster: {servers: [10.96.0.10]}}
    routes: {".": cluster}
    # Where only nodes reach the VPC's nameserver a sidecar cannot, so the name is its own.
    records: {registry.example.com: {A: [10.1.20.5]}}
"""


@check("Docker in a pod with nodens as sidecar at 127.0.0.1: containers get 8.8.8.8; with `dockerd --dns 172.17.0.1` they resolve")
def docker_sidecar(cluster):
    cluster.link_local()
    kubectl(cluster.node, "apply", "-f", "-", stdin=SIDECAR_CONFIG)
    spec = "spec:\n  dnsPolicy: None\n  dnsConfig: {nameservers: ['127.0.0.1']}\n"
    volumes = "  - {name: config, configMap: {name: sidecar}}\n"
    docker = Docker(cluster, "docker-sidecar", spec, sidecar=SIDECAR, volumes=volumes)
    plain = docker.nameservers()
    docker.docker("network", "create", "own")
    own = docker.nameservers("--network", "own")
    docker.resolves("--network", "own")
    lost = docker.docker("run", "--rm", "nodens.test/clients:1", "lookup-glibc", NAME, check=False)
    docker.delete()
    claim("10.1.20.5" not in lost, lost)
    claim(plain == ["8.8.8.8", "8.8.4.4"] and own == ["127.0.0.11"], f"{plain}, {own}")
    docker = Docker(cluster, "docker-sidecar-dns", spec, sidecar=SIDECAR, volumes=volumes, options="--dns=172.17.0.1")
    told = docker.nameservers()
    claim(told == ["172.17.0.1"], str(told))
    docker.resolves()
    docker.build()
    docker.docker("network", "create", "own")
    docker.resolves("--network", "own")
    docker.delete()
    return f"nameservers: docker run {plain}, own network {own}, which resolves; with --dns {told}, which resolves in run, build and on an own network"
