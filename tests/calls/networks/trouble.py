"""A call over a link that loses, delays and squeezes packets: the publisher sends pictures in three layers and a tone, the subscriber is
behind the link; with `--publisher` the publisher, and it only loses packets. Measures how long pictures stand still, how much sound is made up, and how soon layers go down and come up.

Runs the bridge given by `--bridge` and LiveKit's native client, or with `--browser` its client for browsers, in Chromium, behind the link. As
root in namespaces of its own (`unshare --net --mount`). `--long` stays longer in each trouble. Exits with 1 if something is not as it should be.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent / "native"))

import call
from network import HERE, Host, Internet, LinkedHost, Participant, table

SERVER = "203.0.113.2"
SECRET = "a secret of this test, long enough"
LARGE = 960
# Of sound, the share that may be made up because nothing came in time. Speech is understood as long as gaps are single and short; from
# about a tenth on words go missing. A bridge that only forwards makes up what is lost, 0.2 of it. Two packets that come along with each, or
# come once more where sound is encrypted between the clients, leave 0.2³ of losses, and the rest is what comes too late, or was lost before
# the bridge heard of losses.
MADE_UP = {"5 % lost": 0.07, "20 % lost": 0.10, "150 ms ± 30 ms": 0.10, "400 kbit/s": 0.05}
# How much sound may be made up in all when the link becomes too narrow, until less is sent, in seconds.
MADE_UP_FOR = {"until smaller": 2}
# The share of the time in which pictures may stand still for more than half a second each.
STANDING = {"5 % lost": 0.6, "20 % lost": 0.85}
# How long pictures may stand still at once on a link that has become too narrow, in seconds.
LONGEST_GAP = {"400 kbit/s": 5}
# How soon there have to be smaller pictures, and how soon they have to go on, when the link has become too narrow, in seconds.
SMALLER_WITHIN, ON_WITHIN = 10, 15
# How soon the large pictures have to be back when the link is good again, in seconds.
BACK_WITHIN = 30


class Trouble:
    def __init__(self, subscriber, link):
        self.subscriber, self.link = subscriber, link
        self.rows, self.problems = [], []

    def hold(self, name, seconds, until=lambda figures: False, **directions):
        """Lets the link be so for some time, or until something is seen. Answers how long that was, or `None`."""
        self.link.set(**directions)
        first = last = self.subscriber.newest()
        gap, narrowest, widest, seen_after = 0, first["width"], first["width"], None
        while last["at"] - first["at"] < seconds and seen_after is None:
            last = self.subscriber.wait("figures", 15, after=last["at"] + 0.001)
            gap = max(gap, last["gap"])
            narrowest, widest = min(narrowest, last["width"]), max(widest, last["width"])
            seen_after = last["at"] - first["at"] if until(last) else None
        did = self.link.set(**directions)["down"]
        took = last["at"] - first["at"]
        heard, made_up = last["samples"] - first["samples"], last["concealed"] - first["concealed"]
        still, loud = last["still"] - first["still"], last["loud"] - first["loud"]
        share, standing = made_up / max(1, heard), still / took
        self.rows.append([
            name, f"{took:.1f}", did["carried"], did["lost"], did["overflowed"], f"{narrowest}–{widest}",
            last["pictures"] - first["pictures"], f"{still:.1f}", f"{gap:.2f}", f"{100 * share:.1f}",
        ])
        if share > MADE_UP.get(name, 1):
            self.problems.append(f"{name}: {100 * share:.1f} % of the sound was made up")
        if share * took > MADE_UP_FOR.get(name, float("inf")):
            self.problems.append(f"{name}: sound was made up for {share * took:.1f} s")
        if standing > STANDING.get(name, float("inf")):
            self.problems.append(f"{name}: pictures stood still for {still:.1f} of {took:.1f} s")
        if gap > LONGEST_GAP.get(name, float("inf")):
            self.problems.append(f"{name}: pictures stood still for {gap:.1f} s at once")
        if loud < took * 50:
            self.problems.append(f"{name}: {loud} frames of sound in {took:.1f} s")
        if directions.get("down", {}).get("loss") and not did["lost"]:
            self.problems.append(f"{name}: the link lost nothing")
        return seen_after

    def recover(self, name):
        """Until the large pictures are back."""
        if self.hold(name, BACK_WITHIN, lambda figures: figures["width"] == LARGE and figures["gap"] < 0.5) is None:
            self.problems.append(f"{name}: no large pictures within {BACK_WITHIN} s")


def both(**settings):
    return {"down": settings, "up": settings}


def main(arguments):
    Internet()
    server = Host("server", f"{SERVER}/24", routers=["203.0.113.1/24"])
    sender = Host("sender", "198.51.100.2/24", routers=["198.51.100.1/24"])
    link = LinkedHost("receiver", "192.0.2.2/24", "192.0.2.1/24", arguments.seed)
    options = ["--listen", f"{SERVER}:7880", "--address", SERVER, "--key", "devkey", "--secret", SECRET]
    log = tempfile.TemporaryFile("w+")
    bridge = server.start(arguments.bridge, *options, stderr=log)
    seconds = 40 if arguments.long else 9
    encrypted = ["--encrypted"] if arguments.encrypted else []

    def join(host, who, program, *more):
        environment = {"TOKEN": call.token("devkey", SECRET, "trouble", who)}
        command = [*program, "--url", f"ws://{SERVER}:7880", *more, *encrypted]
        return Participant(host, *command, environment=environment)

    native = [sys.executable, HERE / "participant.py"]
    receiver = ["node", HERE / "participant.mjs", "--silent"] if arguments.browser else native
    publishes_from, receives_at = (link, sender) if arguments.publisher else (sender, link)

    with contextlib.ExitStack() as ending:
        ending.callback(lambda: (bridge.kill(), bridge.wait()))
        # Until it listens.
        for _ in range(300):
            if "listening" in read(log):
                break
            time.sleep(0.1)
        publisher = join(publishes_from, "alice", native, "--width", LARGE, "--simulcast", "--noise")
        ending.callback(publisher.end)
        publisher.wait("published", 30)
        subscriber = join(receives_at, "bob", receiver)
        ending.callback(subscriber.end)
        try:
            for what in ("picture", "sound"):
                subscriber.wait(what, 30)
            trouble = Trouble(subscriber, link)
            trouble.recover("at first")
            trouble.hold("5 % lost", seconds, **both(loss=0.05))
            trouble.hold("20 % lost", seconds, **both(loss=0.2))
            trouble.recover("after that")
            if not arguments.publisher:
                delay_and_squeeze(trouble, arguments.long, seconds)
        except BaseException:
            print(read(log)[-3_000:], publisher.read_log(), subscriber.read_log(), sep="\n", file=sys.stderr)
            raise
    table(["link", "s", "packets", "lost", "overflowed", "width", "pictures", "still s", "longest gap s", "sound made up %"], trouble.rows)
    for problem in trouble.problems:
        print(problem, flush=True)
    return 1 if trouble.problems else 0


def delay_and_squeeze(trouble, long, seconds):
    if long:
        trouble.hold("150 ms ± 30 ms", seconds, **both(delay=0.15, jitter=0.03))
        trouble.recover("after that")
    squeezed = {"down": {"rate": 400_000}}
    if trouble.hold("until smaller", SMALLER_WITHIN, lambda figures: figures["width"] < LARGE, **squeezed) is None:
        trouble.problems.append("400 kbit/s: large pictures went on")
    begun = trouble.subscriber.newest()["pictures"]
    goes_on = lambda figures: figures["pictures"] > begun + 10 and figures["gap"] < 0.5
    if trouble.hold("until they go on", ON_WITHIN, goes_on, **squeezed) is None:
        trouble.problems.append("400 kbit/s: small pictures do not go on")
    trouble.hold("400 kbit/s", seconds, **squeezed)
    trouble.recover("after that")


def read(log):
    log.seek(0)
    return log.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bridge", type=pathlib.Path, required=True)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--encrypted", action="store_true", help="sound and pictures, between the clients")
    parser.add_argument("--browser", action="store_true", help="the receiver is Chromium")
    parser.add_argument("--publisher", action="store_true", help="the publisher is behind the link")
    parser.add_argument("--seed", type=int, default=7, help="of the luck of packets")
    chosen = parser.parse_args()
    chosen.bridge = chosen.bridge.resolve()
    sys.exit(main(chosen))
