"""What checks share: the node, the release, and the pod that asks."""

from . import images
from .kubernetes import kubectl
from .node import until
from .release import LINK_LOCAL, NAMESPACE, Client, Release, dns_block


class Cluster:
    def __init__(self, node):
        self.node = node
        self.release = Release(node)
        self.pod = None

    def client(self):
        """A pod with the block that the last installation printed; a new one only if that has changed."""
        if not self.release.notes:
            self.release.fresh()
        block = dns_block(self.release.notes)
        if self.pod is None or self.pod[0] != block:
            self.pod = (block, Client(self.node, "client", block))
        return self.pod[1]

    def link_local(self):
        """The pod that asks a plain linkLocal release, which is installed first if there is another or none."""
        if self.release.kind != ("linkLocal", {}):
            self.release.fresh()
        return self.client()

    def next_tag(self):
        """A tag that the release does not have now, of the same program: enough to have every pod replaced."""
        now = self.release.pod()["spec"]["containers"][0]["image"].rpartition(":")[2]
        return next(tag for tag in images.NODENS_TAGS if tag != now)

    def good_config(self):
        """nodens.yaml as the chart makes it of the release's values."""
        text = self.release.helm("get", "manifest", "nodens")
        document = next(part for part in text.split("\n---\n") if "kind: ConfigMap" in part and "nodens.yaml" in part)
        made = kubectl(self.node, "-n", NAMESPACE, "create", "--dry-run=client", "-f", "-", "-o", r"jsonpath={.data.nodens\.yaml}",
                       stdin=document)
        return made

    def until_answer(self, pod, name, *options):
        """kube-dns hears of a new Service a moment later, and nodens keeps its "no such name" for 5 s."""
        return until(f"{name} is answered", lambda: pod.answer(LINK_LOCAL, name, *options), 20, 0.3)
