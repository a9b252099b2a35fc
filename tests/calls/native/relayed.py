"""Calls of clients that reach nothing but a relay: each way of reaching it carries sound and pictures.

Runs the program given by `--program` in a directory of its own. Needs `livekit` and `numpy` from PyPI. Prints one JSON object; exits
with 1 if something is not as it should be.
"""

import argparse
import asyncio
import json
import pathlib
import socket
import sys
import time
import urllib.parse
import urllib.request

from livekit import rtc

from call import HEIGHT, SAMPLE_RATE, WIDTH, Counter, publish_picture, publish_tone, within
from matrix import Server, User, free_port

SECONDS = 4


def own_address():
    """The machine's own address: clients ask no relay for a way to a loopback address. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.254", 9))
        return asking.getsockname()[0]


def relayed_packets(server):
    with urllib.request.urlopen(f"http://{server.environment['ENTENTE_METRICS__ADDRESS']}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return int(figures["entente_turn_relayed_packets_total"])


async def join(user, room, watched=None):
    status, answer = user.sfu_get(room)
    assert status == 200, answer
    connection = rtc.Room()
    if watched:
        watched.watch(connection)
    only_relays = rtc.RtcConfiguration(ice_transport_type=rtc.IceTransportType.TRANSPORT_RELAY)
    await connection.connect(answer["url"], answer["jwt"], rtc.RoomOptions(auto_subscribe=True, rtc_config=only_relays))
    return connection


async def call(server, alice, bob, room):
    """Answers what came through, and how long it took to begin."""
    before, began = relayed_packets(server), time.monotonic()
    stop, counter = asyncio.Event(), Counter()
    sender = await join(alice, room)
    receiver = await join(bob, room, counter)
    sound, picture = rtc.AudioSource(SAMPLE_RATE, 1), rtc.VideoSource(WIDTH, HEIGHT)
    tasks = [asyncio.create_task(publish_tone(sound, stop)), asyncio.create_task(publish_picture(picture, stop))]
    for track in (
        rtc.LocalAudioTrack.create_audio_track("mic", sound),
        rtc.LocalVideoTrack.create_video_track("cam", picture),
    ):
        await sender.local_participant.publish_track(track)
    begins = await within(20, lambda: counter.pictures and counter.loud)
    assert begins is not None, f"nothing came: {counter.pictures} pictures, {counter.loud} sounds"
    began_after = time.monotonic() - began
    pictures, loud = counter.pictures, counter.loud
    await asyncio.sleep(SECONDS)
    pictures, loud = counter.pictures - pictures, counter.loud - loud
    stop.set()
    await asyncio.gather(*tasks)
    await sender.disconnect()
    await receiver.disconnect()
    packets = relayed_packets(server) - before
    assert pictures > SECONDS * 8, f"{pictures} pictures"
    assert loud > SECONDS * 40, f"{loud} frames of sound"
    assert packets > loud, f"{packets} packets were relayed"
    return {"began_after": round(began_after, 2), "pictures": pictures, "loud": loud, "packets": packets}


async def main(arguments):
    port = free_port(socket.SOCK_STREAM)
    address = own_address()
    server = Server(
        arguments.program,
        CALLS__ADDRESSES=json.dumps([address]),
        TURN__ENABLED="true",
        TURN__PORT=str(port),
        # Above those that the system chooses.
        TURN__FIRST_RELAY_PORT="61000",
        METRICS__ADDRESS=f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
    )
    try:
        alice, bob = (User(server, name) for name in ("alice", "bob"))
        room = alice.done("POST", "v3/createRoom", {"invite": [bob.id], "preset": "private_chat"})["room_id"]
        bob.done("POST", f"v3/rooms/{urllib.parse.quote(room)}/join", {})
        ways = [f"turn:localhost:{port}?transport={transport}" for transport in ("udp", "tcp")]
        told = alice.done("GET", "v3/voip/turnServer")
        assert told["uris"] == ways and told["ttl"] == 86_400, told
        assert told["username"].endswith(f":{alice.id}") and told["password"], told
        result = {}
        for way in ways:
            server.stop()
            server.environment["ENTENTE_TURN__URIS"] = json.dumps([way.replace("localhost", address)])
            server.start()
            result[way.rpartition("=")[2]] = await call(server, alice, bob, room)
        print(json.dumps(result))
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
    chosen = parser.parse_args()
    chosen.program = chosen.program.resolve()
    asyncio.run(asyncio.wait_for(main(chosen), 120))
