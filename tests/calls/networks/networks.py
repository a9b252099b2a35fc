"""Calls between a client on an open network and one in a network that is not: behind a NAT that gives every connection another port,
where no UDP passes, where nothing passes but TCP port 443, where there is no IPv4. Media has to flow both ways in each. Prints how long
that took.

Runs the program given by `--program`, with its TLS and its relay, and LiveKit's native client; `--browsers` is for livekit-client in
Chromium as well, in every network: without it only where the native client cannot be tried. As root in namespaces of its own
(`unshare --net --mount`). Exits with 1 if something is not as it should be.
"""

import argparse
import os
import pathlib
import ssl
import sys
import tempfile
import time
import urllib.parse

sys.path.append(str(pathlib.Path(__file__).parent.parent / "native"))

from matrix import Server, User
from network import HERE, Host, Internet, Participant, run, table

# The web server has an address of its own, so that port 443 of the other is free for media.
WEB, MEDIA = "203.0.113.2", "203.0.113.3"
WEB_V6, MEDIA_V6 = "2001:db8:113::2", "2001:db8:113::3"
# The server's machine has them, and nobody is to hear of them.
UNTOLD = ["172.17.0.1", "203.0.113.9"]
TOLD = {f"{address} {port}" for address in (MEDIA, MEDIA_V6) for port in ("7882/udp", "443/tcp")}
# How long one may take from the first request until pictures and sound come, in seconds. A client that gets nowhere tries again after
# ten, so within them means at the first try; encoders on a busy machine need the rest.
BOUND = 15
SECONDS = 3


def certificate(directory):
    """An authority, and what it says of the server."""
    names = "subjectAltName=DNS:calls.test,DNS:media.test"
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run(*openssl, "-subj", "/CN=authority of this test", "-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.pem")
    run(*openssl, "-subj", "/CN=calls.test", "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key",
        "-keyout", f"{directory}/key.pem", "-out", f"{directory}/certificate.pem")
    # For every client, this one included.
    os.environ["SSL_CERT_FILE"] = f"{directory}/ca.pem"


def build():
    """The networks, by what they are called in the table."""
    internet = Internet()
    internet.name_hosts([(WEB, "calls.test"), (WEB_V6, "calls.test"), (MEDIA, "media.test"), (MEDIA_V6, "media.test")])
    server = Host(
        "server", *(f"{address}/24" for address in (WEB, MEDIA, UNTOLD[1])), *(f"{address}/64" for address in (WEB_V6, MEDIA_V6)),
        routers=["203.0.113.1/24", "2001:db8:113::1/64"],
    )
    run("nsenter", "--net=/run/netns/server", "ip", "link", "add", "docker0", "type", "bridge")
    run("nsenter", "--net=/run/netns/server", "ip", "address", "add", f"{UNTOLD[0]}/16", "dev", "docker0")
    run("nsenter", "--net=/run/netns/server", "ip", "link", "set", "docker0", "up")

    def client(name, number):
        return Host(name, f"198.51.{number}.2/24", routers=[f"198.51.{number}.1/24"])

    open_one = client("open", 100)
    another = client("open-too", 101)
    nat = client("nat", 102)
    run("nsenter", "--net=/run/netns/nat", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    # Another port for each address that is spoken to, and nothing comes in from any other.
    rule = "type nat hook postrouting priority srcnat\noifname eth0 masquerade fully-random"
    run("nsenter", "--net=/run/netns/nat", "nft", "-f", "-", given=f"table ip nat {{\nchain out {{\n{rule}\n}}\n}}\n")
    behind = Host("behind", "192.168.7.2/24", router="nat", routers=["192.168.7.1/24"])
    no_udp, only_443 = client("no-udp", 103), client("only-443", 104)
    only_web = client("only-web", 105)
    v6 = Host("v6", "2001:db8:200::2/64", routers=["2001:db8:200::1/64"])
    # Dropped, not refused: nobody is told, so clients have to find out by waiting.
    internet.firewall(
        'iifname "no-udp" meta l4proto udp drop',
        'iifname { "only-443", "only-web" } meta l4proto != tcp drop',
        'iifname { "only-443", "only-web" } tcp dport != 443 drop',
        f'iifname "only-web" ip daddr != {WEB} drop',
    )
    shut_in = {
        "open": another,
        "behind a symmetric NAT": behind,
        "no UDP": no_udp,
        "only TCP 443": only_443,
        "only TCP 443 of the web server": only_web,
        "only IPv6": v6,
    }
    return server, open_one, shut_in


class Elsewhere(Server):
    """The program, in the server's namespace."""

    def __init__(self, program, host, directory):
        self.host = host
        listener = 'serves = ["client", "federation"], tls = {{ certificate_file = "{0}/certificate.pem", private_key_file = "{0}/key.pem" }}'
        listener = listener.format(directory)
        super().__init__(
            program,
            base="https://calls.test",
            SERVER_NAME="calls.test",
            LISTENERS=f'[{{ address = "{WEB}:443", {listener} }}, {{ address = "[{WEB_V6}]:443", {listener} }}]',
            CALLS__ADDRESSES=f'["{MEDIA}", "{MEDIA_V6}"]',
            CALLS__UDP_PORT="7882",
            CALLS__TCP_PORT="443",
            TURN__ENABLED="true",
            TURN__URIS='["turn:media.test:3478?transport=udp", "turn:media.test:3478?transport=tcp", "turns:calls.test:443?transport=tcp"]',
        )

    def launch(self, *command, **options):
        return self.host.start(*command, **options)


def join(user, room, host, browser):
    status, answer = user.sfu_get(room)
    assert status == 200, answer
    if browser:
        command = ["node", HERE / "participant.mjs", "--url", answer["url"]]
    else:
        command = [sys.executable, HERE / "participant.py", "--url", answer["url"], "--width", "320"]
    return Participant(host, *command, environment={"TOKEN": answer["jwt"]})


def flow(*participants):
    """That pictures and sound go on coming. Answers the newest figures of each."""
    first = [participant.newest() for participant in participants]
    time.sleep(SECONDS)
    last = [participant.newest() for participant in participants]
    for before, now in zip(first, last):
        pictures, loud = now["pictures"] - before["pictures"], now["loud"] - before["loud"]
        # A browser's tone is a short one in each second.
        assert pictures > SECONDS * 3 and loud > SECONDS * 4, f"{pictures} pictures, {loud} frames of sound"
    return last


def hold(server, users, name, there, here, browser):
    """A call of a client on the open network with one in the other. Answers a row of the table."""
    alice, bob = users
    room = alice.done("POST", "v3/createRoom", {"invite": [bob.id], "preset": "private_chat"})["room_id"]
    bob.done("POST", f"v3/rooms/{urllib.parse.quote(room)}/join", {})
    waiting = join(alice, room, here, False)
    coming = None
    try:
        waiting.wait("published", 30)
        coming = join(bob, room, there, browser)
        began = coming.wait("begins", 30)["at"]
        connected = coming.wait("connected", 30)["at"] - began
        seen = [coming.wait(what, 30)["at"] - began for what in ("picture", "sound")]
        published = coming.wait("published", 30)["at"]
        heard = [waiting.wait(what, 30)["at"] - began for what in ("picture", "sound")]
        figures, _ = flow(coming, waiting)
        told = set(figures["remote"])
        assert told and told <= TOLD, f"{name}: told of {sorted(told - TOLD)}"
        slowest = max(*seen, *heard)
        assert slowest < BOUND, f"{name}: {slowest:.1f} s until everything came"
        client = "livekit-client" if browser else "native"
        times = [f"{took:.2f}" for took in (connected, *seen, published - began, *heard)]
        return [name, client, ", ".join(figures["ways"]), *times]
    except BaseException:
        print(name, waiting.read_log(), coming.read_log() if coming else "", sep="\n", file=sys.stderr)
        raise
    finally:
        for participant in filter(None, (coming, waiting)):
            participant.end()


# The ways that there are.
TCP = {"tcp", "relay over tcp", "relay over tls"}
WAYS = {
    "open": {"udp"},
    "behind a symmetric NAT": {"udp"},
    "no UDP": TCP,
    "only TCP 443": TCP - {"relay over tcp"},
    "only TCP 443 of the web server": {"relay over tls"},
    "only IPv6": {"udp"},
}


def main(arguments):
    columns = ["network", "client", "way", "connected", "its first picture", "sound", "published", "the other's first picture", "sound"]
    with tempfile.TemporaryDirectory() as directory:
        certificate(directory)
        host, here, shut_in = build()
        server = Elsewhere(arguments.program, host, directory)
        try:
            users = [User(server, name) for name in ("alice", "bob")]
            rows = []
            for name, there in shut_in.items():
                # The native client trusts nobody with a relay over TLS but authorities of its own.
                browsers = [True] if name == "only TCP 443 of the web server" else [False, True] if arguments.browsers else [False]
                for browser in browsers:
                    rows.append(hold(server, users, name, there, here, browser))
                    assert rows[-1][2] in WAYS[name], f"{name}: media went over {rows[-1][2]}"
            table(columns, rows)
        except BaseException:
            print(server.read_log()[-4_000:], file=sys.stderr)
            raise
        finally:
            server.process.kill()
            server.process.wait()
            server.directory.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--browsers", action="store_true")
    chosen = parser.parse_args()
    chosen.program = chosen.program.resolve()
    main(chosen)
