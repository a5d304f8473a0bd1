"""A server that takes its time: answers each query after a delay, over UDP, with the same addresses for every name.

slow.py SECONDS ADDRESS LISTEN...
"""

import asyncio
import socket
import struct
import sys

A, NS, AAAA = 1, 2, 28


class Slow(asyncio.DatagramProtocol):
    def __init__(self, seconds, address):
        self.seconds = seconds
        self.data = {A: socket.inet_aton(address), AAAA: socket.inet_pton(socket.AF_INET6, "2001:db8::1"), NS: b"\1a\0"}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, query, client):
        asyncio.get_running_loop().call_later(self.seconds, self.answer, query, client)

    def answer(self, query, client):
        end = query.index(b"\0", 12) + 5
        kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
        data = self.data.get(kind)
        record = struct.pack("!HHHIH", 0xC00C, kind, 1, 300, len(data)) + data if data else b""
        # QR, AA, RD and RA.
        header = query[:2] + struct.pack("!5H", 0x8580, 1, bool(data), 0, 0)
        self.transport.sendto(header + query[12:end] + record, client)


async def serve(seconds, address, listen):
    loop = asyncio.get_running_loop()
    for one in listen:
        await loop.create_datagram_endpoint(lambda: Slow(seconds, address), local_addr=(one, 53))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
