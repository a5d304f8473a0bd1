#!/usr/bin/env python3
"""Stands in for GitLab, over HTTPS: gives a runner one job, takes its log and its end, and serves a repository.

    gitlab_stand_in.py ADDRESS CERTIFICATE KEY FOLDER <JOB

JOB is the answer to a request for a job, as JSON. Prints `listening` once it does, and one JSON object (state, reason, log) when the
runner has said how the job ended; then it ends. FOLDER/NAME.git is a bare repository, which Git reads as plain files (its "dumb"
protocol, which knows no depth). What an API is asked for beside these three requests of jobs, it does not know.
"""

import http.server
import json
import re
import ssl
import sys
import threading


class GitLab(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, folder, job):
        super().__init__((address, 443), Request)
        self.folder, self.job = folder, job
        self.asked = threading.Lock()
        self.log = bytearray()
        self.end = None
        self.ended = threading.Event()


class Request(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, request, client, server):
        super().__init__(request, client, server, directory=server.folder)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        # No bytes follow a 204, and it may not say how many.
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.body()
        if self.path != "/api/v4/jobs/request":
            return self.answer(404)
        # Never released: there is one job.
        if self.server.asked.acquire(blocking=False):
            return self.answer(201, json.dumps(self.server.job).encode(), Content_Type="application/json")
        return self.answer(204)

    def do_PATCH(self):
        content = self.body()
        if not re.fullmatch(r"/api/v4/jobs/\d+/trace", self.path):
            return self.answer(404)
        log = self.server.log
        if int(self.headers["Content-Range"].partition("-")[0]) != len(log):
            return self.answer(416, Range=f"0-{len(log)}")
        log += content
        return self.answer(202, Job_Status="running", Range=f"0-{len(log)}")

    def do_PUT(self):
        content = self.body()
        if not re.fullmatch(r"/api/v4/jobs/\d+", self.path):
            return self.answer(404)
        told = json.loads(content)
        self.answer(200)
        if told["state"] in ("success", "failed"):
            self.server.end = told
            self.server.ended.set()

    def log_message(self, *_):
        pass


def main():
    address, certificate, key, folder = sys.argv[1:]
    server = GitLab(address, folder, json.load(sys.stdin))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # busybox's wget has no signature algorithm beside SHA-1.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    # The handshake in the request's own thread: one that nobody finishes must not hold up the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    server.ended.wait()
    print(json.dumps({"state": server.end["state"], "reason": server.end.get("failure_reason"), "log": server.log.decode(errors="replace")}))


main()
