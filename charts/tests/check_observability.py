#!/usr/bin/env python3
"""Checks what people see of nodens: alerts, dashboard, and the documents they lead to.

    charts/tests/check_observability.py NODENS

NODENS is the binary. It is started on free ports, before a server that answers nothing, and its /metrics is read. Needs
promtool (Debian package prometheus) and dig (dnsutils). Checked are:

- the rules, by `promtool check rules`, and their unit tests; every alert fires in one of them;
- every PromQL expression of the dashboard and of the texts of alerts: it parses;
- every metric of nodens that any of them names: it is on /metrics, has the labels that selectors and groupings name,
  and the values that selectors ask for (`state="down"`, `le="0.5"`);
- every `docs/...#section` that an alert leads to, and every relative link and section of README.md, ARCHITECTURE.md, CHANGELOG.md, docs/
  and charts/: file and heading exist.

Exit status 1 and one line for each mistake.
"""

import argparse
import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "charts/nodens/files/alerts.yaml"
TESTS = ROOT / "charts/tests/alerts_test.yaml"
DASHBOARD = ROOT / "charts/nodens/files/dashboard.json"

# Labels that Prometheus or the chart's ServiceMonitor add, or that an expression makes itself.
TARGET_LABELS = {"job", "instance", "node", "namespace", "pod", "container", "endpoint", "service", "cluster"}
# Families of others: kube-state-metrics, and Prometheus itself.
FOREIGN = re.compile(r"^(kube_|up$|ALERTS$)")
# Stands for any value where the templates put one.
ANY = "ANY"

mistakes = []


def mistake(where, what):
    mistakes.append(f"{where}: {what}")


def promtool(where, *arguments):
    """Runs promtool; what it prints is the mistake."""
    try:
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("promtool is missing: install the Debian package prometheus, or run it from its release")
    if done.returncode:
        mistake(where, (done.stdout + done.stderr).strip())


# --- expressions -------------------------------------------------------------------------------------------------------


def rules_of(text):
    """Names and bodies of the alerts, by lines: the file is ours, and PyYAML is not everywhere."""
    for part in re.split(r"^\s+- alert: ", text, flags=re.M)[1:]:
        name, body = part.split("\n", 1)
        yield name.strip(), body


def rule_expressions(text):
    """(where, expression) of each alert and of each query in its texts."""
    for name, body in rules_of(text):
        block = re.search(r"expr: \|\n((?:\s{10,}.*\n)+)", body)
        if block is None:
            mistake(name, "has no `expr: |`")
            continue
        yield name, block[1]
        for query in re.findall(r'printf "((?:[^"\\]|\\.)*)"[^}]*\| query', body):
            yield f"{name}, text", re.sub(r"%(\[\d\])?s", ANY, query).replace("%%", "%")


def dashboard_expressions(dashboard):
    """(where, expression) of each target, annotation and variable."""
    panels = list(dashboard["panels"])
    while panels:
        panel = panels.pop(0)
        panels.extend(panel.get("panels", []))
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        values = re.fullmatch(r"label_values\((.+), *(\w+)\)", variable.get("definition", ""))
        if values:
            yield f"variable {variable['name']}", f"count by ({values[2]}) ({values[1]})"
        elif variable["type"] == "query":
            mistake(f"variable {variable['name']}", "is no label_values(METRIC, LABEL)")


def plain(expression):
    """The expression as Prometheus sees it, once Grafana has put its variables in."""
    return expression.replace("$__rate_interval", "5m").replace("$job", ANY).replace("$node", ANY)


def check_parse(expressions):
    """Each parses: promtool reads them as recording rules, one at a time."""
    for where, expression in expressions:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            rule = {"groups": [{"name": "a", "rules": [{"record": "a", "expr": expression}]}]}
            file.write(json.dumps(rule))
            file.flush()
            promtool(where, "check", "rules", file.name)


# --- metrics -----------------------------------------------------------------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def live_metrics(binary):
    """/metrics of a nodens that was asked a few questions."""
    with tempfile.TemporaryDirectory() as directory:
        # A socket nobody reads: servers that never answer, on a port that is ours.
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        config = pathlib.Path(directory) / "nodens.yaml"
        path = f"{directory}/nodens.sock"
        config.write_text(
            f'listen: ["127.0.0.1:0"]\nadmin: null\nsocket: {path}\n'
            f'upstreams:\n  vpc: {{servers: ["127.0.0.1:{port}", "tcp://127.0.0.1:{port}"]}}\nroutes: {{".": vpc}}\n'
        )
        process = subprocess.Popen(
            [binary, "serve", "--config", config], stderr=subprocess.PIPE, text=True
        )
        try:
            listen = None
            for line in process.stderr:
                found = re.search(r'listen="127\.0\.0\.1:(\d+)"', line)
                if found:
                    listen = found[1]
                    break
            if listen is None:
                sys.exit(f"{binary} serve did not start")
            # Until somebody has answered, and a server is known to be down: what they say is not what is looked at.
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                subprocess.run(
                    ["dig", "@127.0.0.1", "-p", listen, "name.example", "+tries=1", "+time=5"], stdout=subprocess.DEVNULL
                )
                connection = UnixConnection(path)
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                if re.search(r'^nodens_upstream_state\{.*state="down".*\} 1$', text, re.M):
                    return text
            sys.exit("no server was found to be down within 20 s:\n" + text)
        finally:
            process.terminate()
            process.wait()


def read_metrics(text):
    """Family or series name → label → values."""
    series = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()
        known = series.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""):
            known.setdefault(label, set()).add(value)
    return series


def check_metrics(where, expression, series):
    """What the expression names exists on /metrics."""
    # Groupings: every label of theirs belongs to some metric, or to the target.
    known = set(TARGET_LABELS) | {"le", "alertstate", "alertname", "daemonset", "condition", "created_by_name"}
    for labels in series.values():
        known |= labels.keys()
    for clause in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        for label in filter(None, re.split(r"[\s,]+", clause)):
            if label not in known:
                mistake(where, f"groups by {label}, which no metric has")
    for name, selector in re.findall(r"\b((?:nodens|process|kube|up|ALERTS)\w*)(?:\{([^}]*)\})?", expression):
        if FOREIGN.match(name) or name in ("process", "nodens"):
            continue
        if name not in series:
            mistake(where, f"{name} is not on /metrics")
            continue
        for label, operator, _, value in re.findall(r"""(\w+)\s*(=~|!~|!=|=)\s*(["'])(.*?)\3""", selector or ""):
            if label in TARGET_LABELS:
                continue
            if label not in series[name]:
                mistake(where, f"{name} has no label {label}")
                continue
            wanted = value.split("|") if operator in ("=~", "!~") and re.fullmatch(r"[\w|]+", value) else [value]
            if ANY in value or operator in ("=~", "!~") and not re.fullmatch(r"[\w|]+", value):
                continue
            for one in wanted:
                # Only the reason that holds has a series.
                if one not in series[name][label] and label != "reason":
                    mistake(where, f'{name} is never {label}="{one}"; it is one of {sorted(series[name][label])}')


# --- documents ---------------------------------------------------------------------------------------------------------


def headings(path):
    """The anchors GitHub and GitLab make of a document's headings."""
    anchors = set()
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor if not number else f"{anchor}-{number}") in anchors:
            number += 1
        anchors.add(anchor if not number else f"{anchor}-{number}")
    return anchors


def check_link(where, base, link):
    target, _, anchor = link.partition("#")
    path = (base / target).resolve() if target else None
    if path is not None and not path.exists():
        mistake(where, f"{link}: there is no such file")
    elif anchor and path is not None and path.suffix == ".md" and anchor not in headings(path):
        mistake(where, f"{link}: there is no such section")


def check_documents():
    documents = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    documents += sorted(ROOT.glob("docs/**/*.md")) + sorted(ROOT.glob("charts/**/*.md"))
    for document in filter(pathlib.Path.exists, documents):
        text = re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", document.read_text(), flags=re.M | re.S)
        where = document.relative_to(ROOT)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            check_link(where, document.parent, document.name + link if link.startswith("#") else link)


def check_rules(text):
    promtool(RULES.relative_to(ROOT), "check", "rules", str(RULES))
    promtool(TESTS.relative_to(ROOT), "test", "rules", str(TESTS))
    tests = TESTS.read_text()
    fires = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests))
    quiet = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
    for name, body in rules_of(text):
        if name not in fires:
            mistake(name, "no unit test makes it fire")
        if name not in quiet:
            mistake(name, "no unit test in which it must stay quiet")
        # The second alert of one name may share the texts of the first.
        if "annotations: *" in body:
            continue
        for annotation in ("summary", "description", "action", "runbook"):
            if not re.search(rf"^\s+{annotation}: \S", body, re.M):
                mistake(name, f"has no {annotation}")
        link = re.search(r"runbook: (\S+)", body)
        if link:
            check_link(name, ROOT, link[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("nodens", help="the binary")
    binary = parser.parse_args().nodens
    text = RULES.read_text()
    check_rules(text)
    expressions = [(where, plain(expression)) for where, expression in rule_expressions(text)]
    expressions += [
        (f"dashboard, {where}", plain(expression))
        for where, expression in dashboard_expressions(json.loads(DASHBOARD.read_text()))
    ]
    check_parse(expressions)
    series = read_metrics(live_metrics(binary))
    for where, expression in expressions:
        check_metrics(where, expression, series)
    check_documents()
    for line in mistakes:
        print(line)
    print(f"{len(expressions)} expressions, {len(series)} series names, {len(mistakes)} mistakes")
    sys.exit(bool(mistakes))


main()
