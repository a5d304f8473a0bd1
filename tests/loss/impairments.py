"""What is wrong with the path in each row of the table: rules, routes and servers."""

from dataclasses import dataclass, field

from network import SERVERS


def table(*chains):
    return "\n".join(["table ip path {", *chains, "}"])


def on_router(*rules):
    """Rules for each packet that the router forwards, in either direction."""
    return "router", table("chain forward {", "type filter hook forward priority filter", *rules, "}")


def lost(percent):
    return f"numgen random mod 100 < {percent} drop"


def on_arrival(role, *rules):
    """Rules for each packet that reaches a namespace. What is dropped as it leaves, its sender would be told of."""
    return role, table("chain arriving {", "type filter hook prerouting priority raw", *rules, "}")


def between_client_and_node(percent):
    return [on_arrival("node", f"iifname client {lost(percent)}"), on_arrival("client", lost(percent))]


# A VPC's resolver takes 1,024 packets a second from an interface of an instance, and drops the rest. How large a burst it takes
# is not published.
RATE_LIMIT = "router", table(
    "set sources { type ipv4_addr; flags dynamic; size 1024; }",
    "chain forward {",
    "type filter hook forward priority filter",
    "iifname node add @sources { ip saddr limit rate over 1024/second burst 100 packets } drop",
    "}",
)

# Whole datagrams only, as many firewalls have it.
NO_FRAGMENTS = on_arrival("node", "ip frag-off & 0x3fff != 0 drop")


@dataclass
class Row:
    """One row: the fault, and what nodens must do under it."""

    name: str
    title: str
    rules: list = field(default_factory=list)
    # (role, line for `ip`) once the forwarder is ready.
    routes: list = field(default_factory=list)
    # Addresses at which a server listens.
    listening: list = field(default_factory=lambda: SERVERS)
    # Answers after so many seconds.
    delay: float = 0.0
    # Whether answers have 2 KB.
    big: bool = False
    # New names a second that another client asks for meanwhile.
    background: int = 0
    # Whether each program must get every name through nodens.
    promised: bool = True
    # Longest lookup through nodens; None: no promise.
    within: float | None = None
    # Whether nodens must not be worse than the best of the others.
    compared: bool = True


ROWS = [
    Row("none", "nothing is wrong", within=1.0),
    Row("up1", "upstream path loses 1 % each way", [on_router(lost(1))]),
    Row("up5", "upstream path loses 5 % each way", [on_router(lost(5))]),
    Row("up10", "upstream path loses 10 % each way", [on_router(lost(10))]),
    Row("up30", "upstream path loses 30 % each way", [on_router(lost(30))]),
    Row("hole", "first of three servers is a black hole", [on_router(f"ip daddr {SERVERS[0]} drop")], within=1.0),
    Row(
        "icmp",
        "first server's port is closed, its ICMP filtered",
        [on_router(f"ip saddr {SERVERS[0]} ip protocol icmp drop")],
        listening=SERVERS[1:],
        within=1.0,
    ),
    Row("rate", "upstream takes 1,024 packets/s; 900 new names/s are asked", [RATE_LIMIT], background=900),
    # More than can be answered: who gets what there is depends on who asks again, and nobody can do better for all.
    Row(
        "over",
        "upstream takes 1,024 packets/s; 1,200 new names/s are asked",
        [RATE_LIMIT],
        background=1200,
        promised=False,
        compared=False,
    ),
    Row(
        "mtu",
        "MTU 1280, fragments dropped, answers of 2 KB",
        [NO_FRAGMENTS],
        [("router", "link set dev node mtu 1280"), ("router", "link set dev around mtu 1280")],
        big=True,
    ),
    Row(
        "asymmetric",
        "answers come back by another interface",
        routes=[
            ("router", "route add 10.53.1.1/32 via 10.53.2.1"),
            ("router", "route replace 10.53.0.0/24 via 10.53.2.1"),
        ],
        within=1.0,
    ),
    Row("slow", "servers answer after 300 ms", delay=0.3),
    Row("slow10", "after 300 ms, and 10 % are lost each way", [on_router(lost(10))], delay=0.3),
    # Here all depends on the client, which asks again after 5 s, or 2.5 s (musl).
    Row("down5", "client's path loses 5 % each way", between_client_and_node(5), promised=False),
    Row("down30", "client's path loses 30 % each way", between_client_and_node(30), promised=False),
]
