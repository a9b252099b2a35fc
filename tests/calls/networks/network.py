"""Networks made of network namespaces, and programs that run in them.

The process is root in a network and a mount namespace of its own (`unshare --net --mount`); everything here ends with it.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent


def run(*command, given=None):
    done = subprocess.run(command, input=given, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Internet:
    """The namespace of this process, which forwards between all others."""

    def __init__(self):
        if run("ip", "-o", "link").count("\n") > 3 or "veth" in run("ip", "-o", "link"):
            raise RuntimeError("this is no network namespace of its own")
        pathlib.Path("/run/netns").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "namespaces", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        forward()

    @staticmethod
    def name_hosts(names):
        """What names stand for, for every program from now on: pairs of an address and a name. Who asks for others is refused at once."""
        lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for address, name in names), ""]
        for file, content in (("/etc/hosts", "\n".join(lines)), ("/etc/resolv.conf", "nameserver 127.0.0.1\n")):
            with tempfile.NamedTemporaryFile("w") as instead:
                instead.write(content)
                instead.flush()
                os.chmod(instead.name, 0o644)
                run("mount", "--bind", instead.name, os.path.realpath(file))

    @staticmethod
    def firewall(*rules):
        """What is dropped on the way, as `nft` says it."""
        lines = ["table inet firewall {", "chain forward {", "type filter hook forward priority filter", *rules, "}", "}", ""]
        run("nft", "-f", "-", given="\n".join(lines))


def forward(namespace=None):
    for family in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        run(*within(namespace), "sysctl", "-qw", f"{family}=1")


def within(namespace):
    return [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]


class Host:
    """A namespace behind an interface of its own name at its router."""

    def __init__(self, name, *addresses, router=None, routers):
        """The addresses carry the lengths of their networks; `routers` are the router's in them, and where everything goes."""
        self.name = name
        run("ip", "netns", "add", name)
        run(*within(name), "ip", "link", "set", "lo", "up")
        if addresses:
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            if router is not None:
                run("ip", "link", "set", name, "netns", router)
            self.settle(router, name, "eth0", addresses, routers)

    def settle(self, router, outside, inside, addresses, routers):
        for address in routers:
            add_address(router, address, outside)
        run(*within(router), "ip", "link", "set", outside, "up")
        for address in addresses:
            add_address(self.name, address, inside)
        run(*within(self.name), "ip", "link", "set", inside, "up")
        for address in routers:
            run(*within(self.name), "ip", "route", "add", "default", "via", address.split("/")[0])

    def start(self, *command, **options):
        return subprocess.Popen([*within(self.name), *map(str, command)], **options)


def add_address(namespace, address, device):
    # Nobody else can have it: no time is lost with asking.
    unasked = ["nodad"] if ":" in address else []
    run(*within(namespace), "ip", "address", "add", address, "dev", device, *unasked)


class LinkedHost(Host):
    """A namespace behind a link that loses, delays and squeezes what it carries."""

    def __init__(self, name, address, router_address, seed):
        super().__init__(name, routers=[])
        self.link = subprocess.Popen(
            [sys.executable, HERE / "link.py", "--near", name, "--far", "eth0", "--namespace", name, "--seed", str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.link.stdout.readline()
        self.settle(None, name, "eth0", [address], [router_address])

    def set(self, **directions):
        """How the link is from now on, for `down` and `up`. Answers what it did with the packets since it was set before."""
        self.link.stdin.write(json.dumps(directions) + "\n")
        self.link.stdin.flush()
        return json.loads(self.link.stdout.readline())


class Participant:
    """A client in a call that tells of what it sees in lines of JSON, each with the time (of the machine's steady clock)."""

    def __init__(self, host, *command, environment=None):
        self.lines, self.news = [], threading.Condition()
        self.log = tempfile.TemporaryFile("w+")
        self.process = host.start(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=os.environ | (environment or {}),
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            # Chromium and its driver may say something, too.
            with contextlib.suppress(ValueError), self.news:
                self.lines.append(json.loads(line))
                self.news.notify_all()

    def all(self, what):
        with self.news:
            return [line for line in self.lines if line["what"] == what]

    def wait(self, what, seconds, meets=lambda line: True, after=0):
        """The first line about something that meets a condition. `after`: of those that were told later than that."""
        deadline = time.monotonic() + seconds
        seen = 0
        with self.news:
            while True:
                for line in self.lines[seen:]:
                    if line["what"] == what and line["at"] >= after and meets(line):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.news.wait(0.5)):
                    raise AssertionError(f"no {what} within {seconds} s; the last was {self.lines[-1:]}\n{self.read_log()}")
                self.news.wait(min(left, 1))

    def newest(self):
        return self.wait("figures", 15, after=time.monotonic())

    def read_log(self):
        self.log.seek(0)
        return self.log.read()[-3_000:]

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def table(columns, rows):
    """For people to read."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip(), flush=True)
