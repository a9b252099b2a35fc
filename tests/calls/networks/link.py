"""A link between two network namespaces that loses, delays and squeezes packets, as `tc netem` does where the kernel has it, with the
same luck for the same seed.

Makes the interface `--near` here and `--far` in the namespace, and says that it did. A line of JSON on its input,
`{"down": {"loss": 0.2, "delay": 0.15, "jitter": 0.03, "rate": 400000}, "up": {}}` (shares, seconds, bits per second), says how it is from
then on; the answer is what became of the packets since the line before. Ends with its input.
"""

import argparse
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
# How long a packet may wait for a squeezed link before it is dropped instead, in seconds: the buffer of a common access router.
LONGEST_QUEUE = 0.3


def open_interface(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


class Direction:
    """One way over the link."""

    def __init__(self, source, target, luck):
        self.source, self.target, self.luck = source, target, luck
        self.waiting, self.count = [], 0
        self.set({})

    def set(self, settings):
        self.loss, self.delay = settings.get("loss", 0), settings.get("delay", 0)
        self.jitter, self.rate = settings.get("jitter", 0), settings.get("rate")
        self.free_at = 0
        self.told = {"carried": 0, "lost": 0, "overflowed": 0}

    def take(self, now):
        """Reads what has come."""
        while True:
            try:
                packet = os.read(self.source, 65_536)
            except BlockingIOError:
                return
            if self.luck.random() < self.loss:
                self.told["lost"] += 1
                continue
            due = now
            if self.rate:
                due = max(now, self.free_at)
                if due - now > LONGEST_QUEUE:
                    self.told["overflowed"] += 1
                    continue
                due += len(packet) * 8 / self.rate
                self.free_at = due
            due += self.delay + self.luck.uniform(-self.jitter, self.jitter)
            self.count += 1
            heapq.heappush(self.waiting, (due, self.count, packet))

    def give(self, now):
        """Writes what is due."""
        while self.waiting and self.waiting[0][0] <= now:
            packet = heapq.heappop(self.waiting)[2]
            try:
                os.write(self.target, packet)
                self.told["carried"] += 1
            except OSError:
                # The interface is not up yet, or not any more.
                self.told["lost"] += 1


def main(arguments):
    near, far = open_interface(arguments.near), open_interface("link-far")
    subprocess.run(
        ["ip", "link", "set", "link-far", "netns", arguments.namespace, "name", arguments.far], check=True
    )
    luck = random.Random(arguments.seed)
    directions = {
        "down": Direction(near, far, random.Random(luck.random())),
        "up": Direction(far, near, random.Random(luck.random())),
    }
    print("{}", flush=True)
    selector = selectors.DefaultSelector()
    for direction in directions.values():
        selector.register(direction.source, selectors.EVENT_READ, direction)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    while True:
        dues = [direction.waiting[0][0] for direction in directions.values() if direction.waiting]
        timeout = max(0, min(dues) - time.monotonic()) if dues else None
        for key, _ in selector.select(timeout):
            if key.data:
                key.data.take(time.monotonic())
                continue
            line = sys.stdin.readline()
            if not line:
                return
            settings = json.loads(line)
            print(json.dumps({name: direction.told for name, direction in directions.items()}), flush=True)
            for name, direction in directions.items():
                direction.set(settings.get(name, {}))
        now = time.monotonic()
        for direction in directions.values():
            direction.give(now)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--near", "--far", "--namespace"):
        parser.add_argument(option, required=True)
    parser.add_argument("--seed", type=int, required=True)
    main(parser.parse_args())
