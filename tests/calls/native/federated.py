"""A call of users of two servers that federate: each publishes to the own server, and receives from the other's.

Runs the program given by `--program` twice, in directories of its own. Needs `livekit` and `numpy` from PyPI, and openssl. Prints one
JSON object; exits with 1 if something is not as it should be.
"""

import argparse
import asyncio
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

from livekit import rtc

from call import SAMPLE_RATE, Counter, publish_tone, within
from matrix import MEMBER, Server, User, claims, free_port, hashed

OPENSSL = """
[req]
distinguished_name = name
prompt = no
[name]
commonName = localhost
[authority]
basicConstraints = critical, CA:true
[server]
basicConstraints = critical, CA:false
subjectAltName = DNS:localhost
"""


class Authority:
    """A certificate authority that both servers trust."""

    def __init__(self, directory):
        self.directory = directory
        self.certificate = directory / "ca.pem"
        (directory / "openssl.conf").write_text(OPENSSL)
        self.sign("authority", self.certificate, directory / "ca-key.pem", "-subj", "/CN=authority of a test")

    def certify(self, name):
        """Answers the files of a certificate for localhost and of its key."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        self.sign("server", certificate, key, "-CA", self.certificate, "-CAkey", self.directory / "ca-key.pem")
        return certificate, key

    def sign(self, kind, certificate, key, *further):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        command += ["-config", self.directory / "openssl.conf", "-extensions", kind, "-keyout", key, "-out", certificate]
        subprocess.run([*command, *further], check=True, capture_output=True)


class FederatedServer(Server):
    """A server that others find by TLS."""

    def __init__(self, program, authority, **further):
        client, federation = (free_port(socket.SOCK_STREAM) for _ in range(2))
        certificate, key = authority.certify(f"{federation}")
        super().__init__(
            program,
            base=f"http://localhost:{client}",
            SERVER_NAME=f"localhost:{federation}",
            LISTENERS=f"""[{{ address = "127.0.0.1:{client}", serves = ["client"] }},
                {{ address = "127.0.0.1:{federation}", serves = ["federation"],
                   tls = {{ certificate_file = "{certificate}", private_key_file = "{key}" }} }}]""",
            FEDERATION__CA_FILE=str(authority.certificate),
            FEDERATION__ALLOW_PRIVATE_ADDRESSES="true",
            **further,
        )
        self.name = f"localhost:{federation}"

    def kill(self):
        """Ends it from one moment to the next."""
        self.process.kill()
        self.process.wait()


def get_token(server, user, room):
    """A token of a server for anybody's user, who shows an OpenID token."""
    member = {"id": "m", "claimed_user_id": user.id, "claimed_device_id": user.device}
    body = {"room_id": room, "slot_id": "m.call#ROOM", "member": member, "openid_token": user.openid()}
    return server.done("POST", "/livekit/jwt/get_token", body)


def check_tokens(here, there, room, alice, bob):
    """A user of another server may receive, and begins no call."""
    held = claims(get_token(here, bob, room)["jwt"])
    assert held["sub"] == hashed(bob.id, bob.device, "m")
    assert held["video"]["canPublish"] is False and held["video"]["canSubscribe"], held
    assert not held["video"].get("roomCreate"), held
    # Or the own server asks for it.
    path = "unstable/io.element.msc4195/rtc/livekit/get_token"
    url = f"ws://{here.base.removeprefix('http://')}/livekit/sfu"
    body = {"room_id": room, "slot_id": "m.call#ROOM", "member_id": "one", "server_name": here.name, "url": url}
    answer = bob.done("POST", path, body)
    assert answer["url"] == url and claims(answer["jwt"])["video"]["canPublish"] is False, answer
    # Who is in no room here gets nothing.
    stranger = User(there, "stranger")
    body = {"room": room, "openid_token": stranger.openid(), "device_id": stranger.device}
    assert here.call("POST", "/livekit/jwt/sfu/get", body)[0] == 403


async def connect(server, user, room, counter=None):
    answer = await asyncio.to_thread(get_token, server, user, room)
    connection = rtc.Room()
    if counter:
        counter.watch(connection)
    await connection.connect(answer["url"], answer["jwt"])
    return connection


async def publish(connection, tasks, stop):
    source = rtc.AudioSource(SAMPLE_RATE, 1)
    tasks.append(asyncio.create_task(publish_tone(source, stop)))
    await connection.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("mic", source))


async def call(here, there, room, alice, bob):
    """Alice is on the server here and Bob there. Answers how long things took, in seconds."""
    took, tasks, stop = {}, [], asyncio.Event()
    try:
        await connect(here, bob, room)
    except rtc.ConnectError:
        pass
    else:
        raise AssertionError("a user of another server begins a call")

    heard_by_alice, heard_by_bob = Counter(), Counter()
    began = time.monotonic()
    alice_here, bob_there = await connect(here, alice, room), await connect(there, bob, room)
    bob_here = await connect(here, bob, room, heard_by_bob)
    alice_there = await connect(there, alice, room, heard_by_alice)
    await publish(alice_here, tasks, stop)
    await publish(bob_there, tasks, stop)
    assert await within(20, lambda: heard_by_alice.loud > 20 and heard_by_bob.loud > 20), "they do not hear each other"
    took["hear"] = round(time.monotonic() - began, 2)
    try:
        await asyncio.wait_for(publish(bob_here, tasks, stop), 15)
    except Exception:
        pass
    else:
        raise AssertionError("a user of another server publishes here")

    # The server here is killed. Its own user is away, so that the other's comes back first, to a room that is not there.
    await alice_here.disconnect()
    back = asyncio.Event()
    bob_here.on("reconnected", back.set)
    await asyncio.to_thread(here.kill)
    await asyncio.to_thread(here.start)
    began = time.monotonic()
    await asyncio.wait_for(back.wait(), 40)
    took["back"] = round(time.monotonic() - began, 2)
    before = heard_by_bob.loud
    alice_here = await connect(here, alice, room)
    await publish(alice_here, tasks, stop)
    assert await within(20, lambda: heard_by_bob.loud > before + 20), "nothing is heard after a restart"

    # Who is kicked is out of the call on both servers.
    ended = [asyncio.Event(), asyncio.Event()]
    for event, connection in zip(ended, (bob_here, bob_there)):
        connection.on("disconnected", lambda _, event=event: event.set())
    began = time.monotonic()
    await asyncio.to_thread(alice.done, "POST", f"v3/rooms/{urllib.parse.quote(room)}/kick", {"user_id": bob.id})
    await asyncio.wait_for(ended[0].wait(), 5)
    took["kicked_here"] = round(time.monotonic() - began, 2)
    await asyncio.wait_for(ended[1].wait(), 15)
    took["kicked_there"] = round(time.monotonic() - began, 2)
    assert get_status(here, bob, room) == 403 and get_status(there, bob, room) == 403

    stop.set()
    for connection in (alice_here, alice_there):
        await connection.disconnect()
    for task in [*tasks, *heard_by_alice.tasks, *heard_by_bob.tasks]:
        task.cancel()
    return took


def get_status(server, user, room):
    body = {"room": room, "openid_token": user.openid(), "device_id": user.device}
    return server.call("POST", "/livekit/jwt/sfu/get", body)[0]


async def main(arguments):
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(pathlib.Path(directory))
        servers = []
        try:
            for _ in range(2):
                servers.append(FederatedServer(arguments.program, authority))
            here, there = servers
            alice, bob = User(here, "alice"), User(there, "bob")
            body = {"invite": [bob.id], "preset": "private_chat", "power_level_content_override": {"events": {MEMBER: 0}}}
            room = alice.done("POST", "v3/createRoom", body)["room_id"]
            bob.done("POST", f"v3/join/{urllib.parse.quote(room)}?server_name={here.name}&via={here.name}", {})
            check_tokens(here, there, room, alice, bob)
            print(json.dumps(await call(here, there, room, alice, bob)))
        except BaseException:
            for server in servers:
                print(server.read_log()[-4_000:], file=sys.stderr)
            raise
        finally:
            for server in servers:
                server.kill()
                server.directory.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    chosen = parser.parse_args()
    chosen.program = chosen.program.resolve()
    asyncio.run(asyncio.wait_for(main(chosen), 180))
