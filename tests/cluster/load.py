#!/usr/bin/env python3
"""Asks a DNS server at a fixed rate, each query from a socket of its own, and tells what became of every one.

    load.py SERVER UDP_QUERIES_A_SECOND TCP_QUERIES_A_SECOND NAME...

A name that begins with `*` is a new one each time. Prints `asking` once the first query over each transport has been
answered, asks until its standard input ends, and then prints one JSON object. Nothing is asked twice: what a stub resolver
would have mended with its second try is counted as lost. Limit: replies are compared by their ID, code and number of answers.
"""

import asyncio
import errno
import json
import struct
import sys
import time

WAIT = 5.0


def query(number, name):
    labels = name.replace("*", f"q{number}", 1).rstrip(".").encode().split(b".")
    return struct.pack(">6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l for l in labels) + b"\0\0\1\0\1"


def outcome(asked, reply):
    identifier, flags, _, answers = struct.unpack(">4H", reply[:8])
    if identifier != struct.unpack(">H", asked[:2])[0]:
        return "wrong ID"
    if flags & 15:
        return {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(flags & 15, f"RCODE {flags & 15}")
    return "answered" if answers else "no records"


class Datagram(asyncio.DatagramProtocol):
    def __init__(self, message):
        self.message = message
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        transport.sendto(self.message)

    def datagram_received(self, data, _):
        if not self.done.done():
            self.done.set_result(outcome(self.message, data))

    def error_received(self, error):
        if not self.done.done():
            self.done.set_result("refused" if error.errno == errno.ECONNREFUSED else errno.errorcode[error.errno])


async def udp(server, message):
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Datagram(message), remote_addr=(server, 53))
    try:
        return await protocol.done
    finally:
        transport.close()


async def tcp(server, message):
    reader, writer = await asyncio.open_connection(server, 53)
    try:
        writer.write(struct.pack(">H", len(message)) + message)
        length = struct.unpack(">H", await reader.readexactly(2))[0]
        return outcome(message, await reader.readexactly(length))
    finally:
        writer.close()


class Transport:
    """One transport's queries and what became of them."""

    def __init__(self, ask, server, rate, names):
        self.ask, self.server, self.rate, self.names = ask, server, rate, names
        self.results = []
        self.first = asyncio.Event()

    async def one(self, number):
        began = time.monotonic()
        try:
            result = await asyncio.wait_for(self.ask(self.server, query(number, self.names[number % len(self.names)])), WAIT)
        except (asyncio.TimeoutError, TimeoutError):
            result = "timed out"
        except ConnectionRefusedError:
            result = "refused"
        except ConnectionResetError:
            result = "reset"
        except asyncio.IncompleteReadError:
            result = "closed"
        except OSError as error:
            result = errno.errorcode.get(error.errno, str(error))
        self.results.append((began, time.monotonic() - began, result))
        if result == "answered":
            self.first.set()

    async def run(self, end):
        began, number, tasks = time.monotonic(), 0, set()
        while not end.is_set() and self.rate:
            task = asyncio.create_task(self.one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0, began + number / self.rate - time.monotonic()))
        await asyncio.gather(*tasks)

    def summary(self):
        counts, answered = {}, []
        for at, took, result in sorted(self.results):
            counts[result] = counts.get(result, 0) + 1
            if result == "answered":
                answered.append((at, took))
        first = min(self.results, default=(0,))[0]
        lost = [at - first for at, _, result in self.results if result != "answered"]
        # From one query that was answered to the next; what was lost at the end counts as well.
        times = [at for at, _ in answered] + [max(self.results, default=(0,))[0]]
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        return {"asked": len(self.results), "counts": counts,
                "lost_between": [round(at, 1) for at in (min(lost), max(lost))] if lost else [],
                "longest_gap_seconds": round(max(gaps, default=0), 2),
                "slowest_seconds": round(max((took for _, took in answered), default=0), 3)}


async def main():
    server, udp_rate, tcp_rate, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    end = asyncio.Event()
    transports = {"udp": Transport(udp, server, udp_rate, names), "tcp": Transport(tcp, server, tcp_rate, names)}
    running = [asyncio.create_task(transport.run(end)) for transport in transports.values()]
    for transport in transports.values():
        if transport.rate:
            await asyncio.wait_for(transport.first.wait(), 30)
    print("asking", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    end.set()
    await asyncio.gather(*running)
    print(json.dumps({name: transport.summary() for name, transport in transports.items()}))


asyncio.run(main())
