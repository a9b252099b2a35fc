"""Calls that a LiveKit server forwards instead of the program (`sfu = "livekit"`): who gets in, who begins a call, who may send, who is
thrown out, and that the leave of who is gone is sent.

Runs the program given by `--program` twice, as two servers that federate, and the LiveKit server given by `--livekit-server`. Needs
`livekit` and `numpy` from PyPI, and openssl. Prints one JSON object with the seconds that things took; exits with 1 if something is not as
it should be.
"""

import argparse
import asyncio
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from livekit import rtc

from call import HEIGHT, SAMPLE_RATE, WIDTH, Counter, publish_picture, publish_tone, within
from federated import Authority, FederatedServer, get_token
from matrix import MEMBER, User, check_audience, check_delayed_leave, claims, free_port

KEY, SECRET = "a key of this test", "a secret of this test, long enough"
# A participant who is cut off is gone for a LiveKit server when it has heard nothing for some twenty seconds, which it does not let choose.
GONE_WITHIN = 40


class LivekitServer:
    """A LiveKit server on loopback addresses, in which nobody but its keys' holders makes rooms."""

    def __init__(self, program):
        self.program, self.log = program, tempfile.NamedTemporaryFile("w+")
        self.port = free_port(socket.SOCK_STREAM)
        self.url = f"ws://127.0.0.1:{self.port}"
        self.process = None

    def start(self, webhook):
        settings = {
            "port": self.port,
            "bind_addresses": ["127.0.0.1"],
            "rtc": {
                "tcp_port": free_port(socket.SOCK_STREAM),
                "udp_port": free_port(socket.SOCK_DGRAM),
                "node_ip": "127.0.0.1",
                "use_external_ip": False,
                "interfaces": {"includes": ["lo"]},
                "enable_loopback_candidate": True,
            },
            "room": {"auto_create": False},
            "keys": {KEY: SECRET},
            "webhook": {"api_key": KEY, "urls": [webhook]},
        }
        # YAML has all of JSON.
        command = [self.program, "--config-body", json.dumps(settings)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, self.read_log()
                time.sleep(0.1)
        raise SystemExit(f"the LiveKit server did not start:\n{self.read_log()}")

    def read_log(self):
        return pathlib.Path(self.log.name).read_text()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Seat:
    """A user in a call, with what comes of the others."""

    def __init__(self, answer):
        self.answer, self.room, self.counter = answer, rtc.Room(), Counter()
        self.counter.watch(self.room)
        self.ended = asyncio.Event()
        self.reasons = []
        self.room.on("disconnected", lambda reason: (self.reasons.append(reason), self.ended.set()))

    async def connect(self):
        await self.room.connect(self.answer["url"], self.answer["jwt"])
        return self

    def hears_of(self, kind):
        remote = self.room.remote_participants.values()
        return any(track.kind == kind for one in remote for track in one.track_publications.values())

    async def publish_sound(self, tasks, stop):
        source = rtc.AudioSource(SAMPLE_RATE, 1)
        tasks.append(asyncio.create_task(publish_tone(source, stop)))
        track = rtc.LocalAudioTrack.create_audio_track("mic", source)
        await asyncio.wait_for(self.room.local_participant.publish_track(track), 15)

    async def publish_pictures(self, tasks, stop):
        source = rtc.VideoSource(WIDTH, HEIGHT)
        tasks.append(asyncio.create_task(publish_picture(source, stop)))
        track = rtc.LocalVideoTrack.create_video_track("cam", source)
        await asyncio.wait_for(self.room.local_participant.publish_track(track), 15)


async def take_seat(server, user, room):
    status, answer = await asyncio.to_thread(user.sfu_get, room)
    assert status == 200, answer
    return await Seat(answer).connect()


async def cannot_connect(answer):
    try:
        await Seat(answer).connect()
    except rtc.ConnectError:
        return
    raise AssertionError("a call is open to who may not begin one")


async def check_media(server, room, alice, bob, carol, took):
    """Local users begin the call; whoever is in the room receives; users of other servers do not send."""
    tasks, stop = [], asyncio.Event()
    remote = await asyncio.to_thread(get_token, server, carol, room)
    assert claims(remote["jwt"])["video"]["canPublish"] is False, remote
    # Nobody is there yet.
    await cannot_connect(remote)
    alices = await take_seat(server, alice, room)
    bobs, carols = await take_seat(server, bob, room), await Seat(remote).connect()
    began = time.monotonic()
    await alices.publish_sound(tasks, stop)
    await alices.publish_pictures(tasks, stop)
    for name, seat in (("local", bobs), ("remote", carols)):
        decoded = await within(20, lambda: seat.counter.pictures > 5 and seat.counter.loud > 20)
        assert decoded is not None, f"the {name} user got {seat.counter.pictures} pictures and {seat.counter.loud} sounds"
    took["media"] = round(time.monotonic() - began, 2)
    try:
        await carols.publish_sound(tasks, stop)
    except Exception:
        pass
    else:
        raise AssertionError("a user of another server sends media")
    await check_rules(room, alice, alices, bobs, took, tasks, stop)
    stop.set()
    await asyncio.gather(*tasks)
    return alices, bobs, carols


async def check_rules(room, alice, alices, bobs, took, tasks, stop):
    """Who may send is decided by the rules of the room, also in the middle of a call."""
    path = f"v3/rooms/{urllib.parse.quote(room)}/state/m.room.power_levels"
    content = await asyncio.to_thread(alice.done, "GET", path)
    closed = json.loads(json.dumps(content))
    for name in (MEMBER, "org.matrix.msc4143.rtc.member", "m.rtc.member"):
        closed["events"][name] = 50
    await bobs.publish_sound(tasks, stop)
    assert await within(10, lambda: alices.hears_of(rtc.TrackKind.KIND_AUDIO)) is not None, "nobody hears Bob"
    began = time.monotonic()
    await asyncio.to_thread(alice.done, "PUT", path, closed)
    assert await within(5, lambda: not alices.hears_of(rtc.TrackKind.KIND_AUDIO)) is not None, "the audience speaks"
    took["silenced"] = round(time.monotonic() - began, 2)
    assert took["silenced"] < 1, took
    await asyncio.to_thread(alice.done, "PUT", path, content)
    await asyncio.sleep(1)
    await bobs.publish_sound(tasks, stop)
    assert await within(10, lambda: alices.hears_of(rtc.TrackKind.KIND_AUDIO)) is not None, "Bob may not speak again"


async def check_removal(server, room, alice, removed, seat, what, took):
    """Who is kicked or banned is out within a second, and again if they come back with the token that they have."""
    began = time.monotonic()
    path = f"/_matrix/client/v3/rooms/{urllib.parse.quote(room)}/{what}"
    await asyncio.to_thread(server.done, "POST", path, {"user_id": removed.id}, alice.token)
    await asyncio.wait_for(seat.ended.wait(), 5)
    took[what] = round(time.monotonic() - began, 2)
    assert took[what] < 1, took
    assert seat.reasons == [rtc.DisconnectReason.PARTICIPANT_REMOVED], seat.reasons
    again = Seat(seat.answer)
    began = time.monotonic()
    # It may be thrown out before it is in.
    try:
        await again.connect()
    except rtc.ConnectError:
        pass
    else:
        await asyncio.wait_for(again.ended.wait(), 5)
    took[f"{what}, with an old token"] = round(time.monotonic() - began, 2)


async def check_cut_off(server, room, bob, took):
    """A client that is killed: nothing is left of its user."""
    state = f"v3/rooms/{urllib.parse.quote(room)}/state/{MEMBER}/{urllib.parse.quote(bob.id)}"
    bob.done("PUT", state, {"here": True})
    delay_id = bob.done("PUT", f"{state}?org.matrix.msc4140.delay=600000", {})["delay_id"]
    status, answer = bob.sfu_get(room, delay_id=delay_id, delay_timeout=3_600_000)
    assert status == 200, answer
    client = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).parent.parent / "networks" / "participant.py", "--url", answer["url"]],
        env={"TOKEN": answer["jwt"], "PATH": ""}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    try:
        while json.loads(await asyncio.to_thread(client.stdout.readline))["what"] != "connected":
            pass
        await asyncio.sleep(2)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    began = time.monotonic()
    while await asyncio.to_thread(bob.done, "GET", state) != {}:
        assert time.monotonic() - began < GONE_WITHIN, "who was cut off is still said to be in the call"
        await asyncio.sleep(0.2)
    took["cut off"] = round(time.monotonic() - began, 1)


async def main(arguments, directory):
    authority = Authority(directory)
    livekit = LivekitServer(arguments.livekit_server)
    calls = {"CALLS__SFU": "livekit", "CALLS__LIVEKIT_URL": livekit.url, "CALLS__API_KEY": KEY, "CALLS__API_SECRET": SECRET}
    here = FederatedServer(arguments.program, authority, **calls)
    there = FederatedServer(arguments.program, authority)
    took = {}
    try:
        livekit.start(f"{here.base}/livekit/jwt/sfu_webhook")
        alice, bob, carol = User(here, "alice"), User(here, "bob"), User(there, "carol")
        room = alice.done("POST", "v3/createRoom", {"preset": "public_chat"})["room_id"]
        quoted = urllib.parse.quote(room)
        bob.done("POST", f"v3/rooms/{quoted}/join", {})
        carol.done("POST", f"v3/join/{quoted}?via={urllib.parse.quote(here.name)}", {})
        levels = alice.done("GET", f"v3/rooms/{quoted}/state/m.room.power_levels")
        levels["events"][MEMBER] = 0
        alice.done("PUT", f"v3/rooms/{quoted}/state/m.room.power_levels", levels)
        alices, bobs, carols = await check_media(here, room, alice, bob, carol, took)
        await check_removal(here, room, alice, bob, bobs, "kick", took)
        await check_removal(here, room, alice, carol, carols, "ban", took)
        bob.done("POST", f"v3/rooms/{quoted}/join", {})
        await check_delayed_leave(here, room, alice, bob)
        await check_audience(here, room, alice, bob)
        await check_cut_off(here, room, bob, took)
        await alices.room.disconnect()
        print(json.dumps(took))
    except BaseException:
        print(json.dumps(took), here.read_log()[-3_000:], livekit.read_log()[-3_000:], sep="\n", file=sys.stderr)
        raise
    finally:
        livekit.stop()
        for server in (here, there):
            server.kill()
            server.directory.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--livekit-server", type=pathlib.Path, required=True)
    chosen = parser.parse_args()
    chosen.program = chosen.program.resolve()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(asyncio.wait_for(main(chosen, pathlib.Path(directory)), 240))
