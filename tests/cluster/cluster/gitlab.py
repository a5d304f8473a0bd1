"""Checks: a job of GitLab Runner as it is (tests/cluster/build-gitlab-runner), with its Kubernetes executor and its helper.

GitLab itself is a stand-in (gitlab_stand_in.py) at https://git.example.com, a name that only the VPC's nameserver knows. The runner is
a process on the node; `config.toml` has the block that `helm install` printed, to the letter. A job is what many are: its helper clones
the project by HTTPS, its build asks for names, and it has a service. Limits: images are busybox with what is needed put in, and the
project is read by Git's "dumb" protocol.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from . import docker, images
from .checks import check, claim
from .kubernetes import KUBE_DNS, TOKEN, kubectl
from .modes import ADDRESS, VALUES
from .node import HERE, NODE_IP, VPC_DNS, Failed, until
from .release import LINK_LOCAL
from .resolution import NODE_ONLY

GITLAB = "git.example.com"
JOB_IMAGE, HELPER_IMAGE = "nodens.test/job:1", "nodens.test/gitlab-runner-helper:1"
SERVICE = "kubernetes.default.svc.cluster.local"
README = "What the project says of itself.\n"

# Below [runners.kubernetes], what any config.toml has there.
EXECUTOR = """\
    host = "https://{node}:6443"
    ca_file = "{ca}"
    bearer_token = "{token}"
    namespace = "jobs"
    helper_image = "{helper}"
    pull_policy = "never"
    poll_interval = 1
"""
RUNNER = """\
concurrent = 1
check_interval = 1
[[runners]]
  name = "runner"
  url = "https://{gitlab}"
  token = "the-only-runner"
  tls-ca-file = "{ca}"
  executor = "kubernetes"
"""
PLAIN = "[[runners]]\n  [runners.kubernetes]\n"

# The build container asks for names and for the server by HTTPS, in the ways of busybox, Go and glibc.
SCRIPT = [
    f"nslookup {NODE_ONLY.rstrip('.')}",
    f"nslookup {SERVICE}",
    "lookup-go kubernetes.default",
    "lookup-glibc kubernetes.default",
    f'SSL_CERT_FILE="$CI_SERVER_TLS_CA_FILE" fetch-go https://{GITLAB}/group/project.git/HEAD',
    f"wget -q -O - --no-check-certificate https://{GITLAB}/group/project.git/HEAD",
    "wget -q -O - http://127.0.0.1:8080/resolv.conf",
    "cat README",
]
# The first of the script, so that all containers run while they are looked at.
WAIT = "until [ -e /tmp/looked ]; do sleep 0.1; done"
WEB = {"name": JOB_IMAGE, "alias": "web", "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"]}

# With Docker as the service, as the image docker:dind is used. The image that it runs is what the job's own has in /bin: busybox.
DOCKER = {"name": docker.IMAGE, "alias": "docker", "command": ["dockerd", "--storage-driver=vfs", "--host=tcp://0.0.0.0:2375", "--tls=false"]}
DOCKER_HOST = "tcp://docker:2375"
DOCKER_SCRIPT = [
    "until docker version > /dev/null 2>&1; do sleep 0.2; done",
    "tar -c -C / bin | docker import - busybox:1",
    "docker run --rm busybox:1 cat /etc/resolv.conf",
    f"docker run --rm busybox:1 nslookup {GITLAB}",
    f"docker run --rm busybox:1 wget -q -O - --no-check-certificate https://{GITLAB}/group/project.git/HEAD",
    f"docker run --rm busybox:1 nslookup {SERVICE}",
    rf"printf 'FROM busybox:1\nRUN nslookup {GITLAB}\n' | docker build -",
    "docker network create own",
    "docker run --rm --network own busybox:1 cat /etc/resolv.conf",
    f"docker run --rm --network own busybox:1 nslookup {GITLAB}",
]


class GitLab:
    """The stand-in with a project, and a runner: both run for one job."""

    def __init__(self, cluster):
        self.node = cluster.node
        self.programs = build()
        self.folder = self.node.state / "gitlab"
        if not self.folder.exists():
            self.folder.mkdir()
            for image in (job_image(self.node.state), helper_image(self.programs)):
                images.load(self.node, image)
            self.certificate()
        self.commit = project(self.folder)
        kubectl(self.node, "create", "namespace", "jobs", check=False)
        until("the namespace's ServiceAccount", lambda: kubectl(self.node, "-n", "jobs", "get", "serviceaccount", "default"), 20, 0.3)

    def certificate(self):
        etc = self.node.state / "etc"
        for argv in (["req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={GITLAB}", "-addext", f"subjectAltName=DNS:{GITLAB}",
                      "-keyout", self.folder / "key", "-out", self.folder / "request"],
                     ["x509", "-req", "-in", self.folder / "request", "-CA", etc / "ca.crt", "-CAkey", etc / "ca.key", "-CAcreateserial",
                      "-copy_extensions", "copy", "-days", "30", "-out", self.folder / "certificate"]):
            done = subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"openssl {argv[0]}: {done.stderr}")

    def config(self, block, more=""):
        """config.toml with a block of NOTES, to the letter, and what a runner has beside it; `more` goes into [runners.kubernetes]."""
        ca = self.node.state / "etc" / "ca.crt"
        head = RUNNER.format(gitlab=GITLAB, ca=ca)
        executor = EXECUTOR.format(node=NODE_IP, ca=ca, token=TOKEN, helper=HELPER_IMAGE)
        claim(block.startswith(PLAIN), f"another beginning than expected: {block}")
        return f"{head}  [runners.kubernetes]\n{executor}{more}{block.removeprefix(PLAIN)}"

    def job(self, script, git=True, image=JOB_IMAGE, service=WEB, **variables):
        """A job as the API gives it; `git`: it begins with a clone of the project."""
        variables = {"GIT_STRATEGY": "fetch" if git else "none", "CI_PROJECT_PATH": "group/project", **variables}
        return {
            "id": 1, "token": "the-only-job", "job_info": {"id": 1, "name": "job", "stage": "test", "project_id": 1, "project_name": "project"},
            "git_info": {"repo_url": f"https://{GITLAB}/group/project.git", "ref": "main", "sha": self.commit, "ref_type": "branch",
                         "refspecs": ["+refs/heads/main:refs/remotes/origin/main"], "depth": 0},
            "runner_info": {"timeout": 120},
            "variables": [{"key": key, "value": value, "public": True} for key, value in variables.items()],
            "steps": [{"name": "script", "script": script, "timeout": 120, "when": "on_success"}],
            "image": {"name": image},
            "services": [service],
        }

    def run(self, config, job, look=None):
        """Has the runner do the job; `look` is called with the name of the job's pod once that runs. Returns how the job ended: state,
        reason, log."""
        (self.folder / "config.toml").write_text(config)
        stand_in = self.node.popen([sys.executable, HERE / "gitlab_stand_in.py", NODE_IP, self.folder / "certificate", self.folder / "key",
                                    self.folder / "projects"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            stand_in.stdin.write(json.dumps(job))
            stand_in.stdin.close()
            stand_in.stdin = None
            if stand_in.stdout.readline() != "listening\n":
                raise Failed(f"gitlab_stand_in.py: {stand_in.communicate()[1]}")
            self.node.daemon("gitlab-runner", [self.programs / "bin/gitlab-runner", "run", "--config", self.folder / "config.toml",
                                               "--working-directory", self.folder])
            try:
                problem = self.looked(look, stand_in) if look else None
                said, errors = stand_in.communicate(timeout=30 if problem else 180)
            except subprocess.TimeoutExpired:
                raise Failed(f"the job did not end; {problem or ''} the runner said: {self.node.log('gitlab-runner')[-2000:]}")
            finally:
                self.node.stop_daemon("gitlab-runner")
        finally:
            if stand_in.poll() is None:
                stand_in.kill()
                stand_in.wait()
            pods = self.pods()
            if pods:
                kubectl(self.node, "-n", "jobs", "delete", "pod", *pods, "--grace-period=1", check=False)
        claim(stand_in.returncode == 0, f"gitlab_stand_in.py: {errors}")
        ended = json.loads(said)
        # Without colours.
        ended["log"] = re.sub("\x1b\\[[0-9;]*[mK]", "", ended["log"])
        claim(problem is None, f"{problem}; the job's log: {ended['log']}")
        return ended

    def looked(self, look, stand_in):
        """Returns what went wrong, so that the job's log can be told with it."""
        try:
            until("the job's pod runs", lambda: stand_in.poll() is not None or self.pods_running(), 60)
            if stand_in.poll() is not None:
                raise Failed("the job ended before it was looked at")
            pod = self.pods_running()[0]
            kubectl(self.node, "-n", "jobs", "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=30s")
            look(pod)
        except Failed as failed:
            return str(failed)
        return None

    def pods(self, *options):
        names = kubectl(self.node, "-n", "jobs", "get", "pods", *options, "-o", "jsonpath={.items[*].metadata.name}").split()
        return [name for name in names if name.startswith("runner-")]

    def pods_running(self):
        return self.pods("--field-selector=status.phase=Running")


def build():
    """Where build-gitlab-runner put the programs."""
    done = subprocess.run([HERE / "build-gitlab-runner"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"GitLab Runner was not built, so nothing is known of it: {done.stderr.strip()[-1000:]}")
    return Path(done.stdout.strip())


def job_image(folder):
    """`clients`, and a Go program that gets a URL."""
    image = images.clients(folder)
    image.reference = JOB_IMAGE
    program = folder / "fetch-go"
    done = subprocess.run(["go", "build", "-o", program, HERE / "fetch.go"], capture_output=True, text=True,
                          env={**os.environ, "CGO_ENABLED": "0"})
    if done.returncode != 0:
        raise Failed(f"fetch-go: {done.stderr}")
    image.program(program, "bin/fetch-go")
    return image


def helper_image(programs):
    """The helper, Git with what it needs for HTTPS, and bash, which the runner pipes its scripts into."""
    image = images.busybox()
    image.reference = HELPER_IMAGE
    image.program(programs / "bin/gitlab-runner-helper", "usr/bin/gitlab-runner-helper")
    image.program("/bin/bash", "bin/bash")
    image.files["usr/bin/env"] = "/bin/busybox"
    image.files["usr/bin/gitlab-runner-build"] = b"#!/bin/bash\numask 0\nexec bash\n"
    image.program("/usr/bin/git", "usr/bin/git")
    image.program("/usr/lib/git-core/git-remote-http", "usr/lib/git-core/git-remote-https")
    image.files["etc/nsswitch.conf"] = b"hosts: files dns\n"
    return image


def project(folder):
    """Makes group/project.git, as a web server without a program for Git can serve it. Returns its commit."""
    work, bare = folder / "work", folder / "projects/group/project.git"

    def git(*arguments):
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        done = subprocess.run(["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.com", *map(str, arguments)],
                              capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise Failed(f"git {arguments}: {done.stderr}")
        return done.stdout.strip()

    if not bare.exists():
        git("init", "--quiet", "--initial-branch=main", work)
        (work / "README").write_text(README)
        git("-C", work, "add", "README")
        git("-C", work, "commit", "--quiet", "-m", "A project")
        bare.parent.mkdir(parents=True)
        git("clone", "--quiet", "--bare", work, bare)
        git("-C", bare, "update-server-info")
    return git("-C", bare, "rev-parse", "main")


def runner_block(notes):
    """The block for config.toml, from what `helm install` printed, to the letter."""
    found = re.search(r"^GitLab Runner, Kubernetes executor: in config\.toml, .*:\n\n(\[\[runners\]\]\n(?:  .*\n)+)", notes, re.MULTILINE)
    if not found:
        raise Failed(f"no block for a runner in NOTES:\n{notes}")
    return found.group(1)


def promised(block):
    """What a resolv.conf made from the block says, in no order of its lines and options."""
    lists = {key: json.loads(value) for key, value in re.findall(r"(nameservers|searches) = (\[.*\])", block)}
    options = re.findall(r'name = "(\S+)"\n +value = "(\S+)"', block)
    return {"nameserver": lists["nameservers"], "search": lists["searches"], "options": sorted(":".join(pair) for pair in options)}


def resolv_conf(text):
    lines = [line.split() for line in text.splitlines() if line]
    return {"nameserver": [word for key, *words in lines if key == "nameserver" for word in words],
            "search": [word for key, *words in lines if key == "search" for word in words],
            "options": sorted(word for key, *words in lines if key == "options" for word in words)}


def job_succeeds(cluster, block, expected):
    """A whole job; in its three containers, resolv.conf is what is expected, and names are found."""
    gitlab = GitLab(cluster)

    def look(pod):
        for container in ("build", "helper", "svc-0"):
            inside = ("-n", "jobs", "exec", pod, "-c", container, "--")
            found = resolv_conf(kubectl(cluster.node, *inside, "cat", "/etc/resolv.conf"))
            if found != expected:
                raise Failed(f"container {container}: {found} instead of {expected}")
            for name in (GITLAB, SERVICE):
                kubectl(cluster.node, *inside, "nslookup", name)
        kubectl(cluster.node, "-n", "jobs", "exec", pod, "-c", "build", "--", "touch", "/tmp/looked")

    began = time.monotonic()
    ended = gitlab.run(gitlab.config(block), gitlab.job([WAIT, *SCRIPT]), look)
    claim(ended["state"] == "success" and "Job succeeded" in ended["log"], f"{ended['reason']}: {ended['log']}")
    # What the exit status of the script's programs does not say.
    for words in ("Checking out", "200 OK", "ref: refs/heads/main", f"nameserver {expected['nameserver'][0]}", README.strip()):
        claim(words in ended["log"], f"no {words!r} in the job's log: {ended['log']}")
    return f"Job succeeded after {time.monotonic() - began:.0f} s; {expected['nameserver']}"


def runner_in_mode(cluster, mode):
    if cluster.release.kind != (mode, VALUES[mode]):
        cluster.release.fresh(mode=mode, **VALUES[mode])
    block = runner_block(cluster.release.notes)
    expected = promised(block)
    claim(expected["nameserver"] == [ADDRESS[mode]] and "ndots:2" in expected["options"], block)
    return job_succeeds(cluster, block, expected)


@contextmanager
def kube_dns_forwards_in_vain(cluster):
    """kube-dns as it often is: for whatever is no Service it asks nameservers of the VPC that do not hear pods."""
    node = cluster.node
    corefile = kubectl(node, "-n", "kube-system", "get", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}")
    end = corefile.rindex("}")

    def put(text):
        kubectl(node, "-n", "kube-system", "patch", "configmap", "coredns", "--type=merge", "-p", json.dumps({"data": {"Corefile": text}}))
        kubectl(node, "-n", "kube-system", "rollout", "restart", "deployment/coredns")
        kubectl(node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s", seconds=100)

    try:
        # CoreDNS asks each for 2 s, one after the other, and then says SERVFAIL. After two it would say so before Go gives up, after 5 s;
        # so it would, too, after its health checks had found all of them down.
        put(f"{corefile[:end]}    forward . {VPC_DNS} {VPC_DNS} {VPC_DNS} {{\n        max_fails 0\n    }}\n{corefile[end:]}")
        yield
    finally:
        put(corefile)


@check("GitLab Runner without nodens, kube-dns having upstreams that pods do not reach: the helper cannot clone, and a Go program of the "
       "job says `dial tcp: lookup …: i/o timeout`; with the VPC's nameserver in dns_config it says the same")
def gitlab_runner_without(cluster):
    cluster.release.uninstall()
    gitlab, seen = GitLab(cluster), []
    fetch = [f"fetch-go https://{GITLAB}/"]
    given = f'{PLAIN}    dns_policy = "none"\n    [runners.kubernetes.dns_config]\n      nameservers = ["{VPC_DNS}"]\n'
    with kube_dns_forwards_in_vain(cluster):
        for block, job, words in (
                (PLAIN, gitlab.job(SCRIPT), rf"Could not resolve host: {GITLAB}"),
                (PLAIN, gitlab.job(fetch, git=False), rf"dial tcp: lookup {GITLAB}.* on {KUBE_DNS}:53: .*i/o timeout"),
                (given, gitlab.job(fetch, git=False), rf"dial tcp: lookup {GITLAB}.* on {VPC_DNS}:53: .*i/o timeout")):
            ended = gitlab.run(gitlab.config(block), job)
            found = re.search(words, ended["log"])
            claim(ended["state"] == "failed" and found, f"{ended['state']}, and not {words!r}: {ended['log']}")
            seen.append(found.group())
    return "; ".join(seen)


@check("linkLocal: a job of GitLab Runner, with the block of NOTES in config.toml to the letter, clones its project from a server that only the "
       "VPC's nameserver knows, finds Services, and fetches by HTTPS; build, helper and service container have the resolv.conf of the block")
def gitlab_runner(cluster):
    return runner_in_mode(cluster, "linkLocal")


@check("service: the same")
def gitlab_runner_in_service(cluster):
    return runner_in_mode(cluster, "service")


@check("nodeLocal: the same, and with a config.toml that says nothing of DNS")
def gitlab_runner_in_node_local(cluster):
    seen = runner_in_mode(cluster, "nodeLocal")
    default = {"nameserver": [KUBE_DNS], "search": ["jobs.svc.cluster.local", "svc.cluster.local", "cluster.local"], "options": ["ndots:5"]}
    return f"{seen}; without a block: {job_succeeds(cluster, PLAIN, default)}"


@check("linkLocal: a job of GitLab Runner with Docker as its service: `docker run`, `docker build` and a network of its own find a name of the "
       "VPC, with nothing said of DNS but NOTES' block")
def gitlab_runner_with_docker(cluster):
    cluster.link_local()
    docker.load(cluster.node)
    gitlab = GitLab(cluster)
    job = gitlab.job(DOCKER_SCRIPT, git=False, image=docker.IMAGE, service=DOCKER, DOCKER_HOST=DOCKER_HOST)
    ended = gitlab.run(gitlab.config(runner_block(cluster.release.notes), "    privileged = true\n"), job)
    claim(ended["state"] == "success", f"{ended['reason']}: {ended['log']}")
    servers = re.findall(r"^nameserver (\S+)", ended["log"], re.MULTILINE)
    claim(servers == [LINK_LOCAL, "127.0.0.11"] and "ref: refs/heads/main" in ended["log"], ended["log"])
    return f"Job succeeded; nameservers: docker run {servers[0]}, own network {servers[1]}"
