"""Just enough DNS to ask one question and read the records of its answer (RFC 1035 section 4)."""

import random
import socket
import struct

TYPES = {"A": 1, "AAAA": 28, "TXT": 16}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


def query(name, kind, identifier):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    header = struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!2H", TYPES[kind], 1)


def _skip_name(message, at):
    while True:
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        at += 1 + length


def read(message):
    """The RCODE's name, and the answer section's records as (type, RDATA), sorted."""
    _, flags, questions, answers, _, _ = struct.unpack_from("!6H", message)
    at = 12
    for _ in range(questions):
        at = _skip_name(message, at) + 4
    records = []
    for _ in range(answers):
        at = _skip_name(message, at)
        kind, _, _, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        records.append((kind, bytes(message[at : at + length])))
        at += length
    return RCODES.get(flags & 15, str(flags & 15)), sorted(records)


def ask(port, name, kind, timeout=1.0, address="127.0.0.1"):
    """The answer of this server to one query, as `read` gives it; None if there is none in time."""
    identifier = random.randrange(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        try:
            sock.send(query(name, kind, identifier))
            while True:
                message = sock.recv(65535)
                if len(message) >= 12 and message[:2] == struct.pack("!H", identifier):
                    return read(message)
        except OSError:
            return None
