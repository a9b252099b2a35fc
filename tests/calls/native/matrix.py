"""Calls from the side of Matrix: where they are held, who gets a token, and who is thrown out.

Runs the program given by `--program` in a directory of its own. Needs `livekit` from PyPI. Exits with 1 if something is not as it
should be.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from livekit import rtc


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """The program, with calls."""

    def __init__(self, program, base=None, **further):
        self.program = program
        self.directory = tempfile.TemporaryDirectory()
        self.port = free_port(socket.SOCK_STREAM)
        self.name = f"localhost:{self.port}"
        self.base = base or f"http://{self.name}"
        settings = {
            "SERVER_NAME": self.name,
            "PUBLIC_BASE_URL": self.base,
            "LISTENERS": f'[{{ address = "127.0.0.1:{self.port}", serves = ["client", "federation"] }}]',
            "REGISTRATION__OPEN": "true",
            "REGISTRATION__TOKENS": "false",
            "RATE_LIMITS__ENABLED": "false",
            "ACCOUNTS__ARGON2__MEMORY_KIB": "64",
            "ACCOUNTS__ARGON2__ITERATIONS": "1",
            "CALLS__ENABLED": "true",
            "CALLS__ADDRESSES": '["127.0.0.1"]',
            "CALLS__UDP_PORT": str(free_port(socket.SOCK_DGRAM)),
        } | further
        self.environment = {"PATH": os.environ["PATH"]}
        self.environment |= {f"ENTENTE_{name}": value for name, value in settings.items()}
        self.start()

    def start(self):
        self.log = open(pathlib.Path(self.directory.name) / "log", "ab")
        self.process = self.launch(
            self.program, "serve", cwd=self.directory.name, env=self.environment, stdout=self.log, stderr=self.log
        )
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.base}/health/ready", timeout=2).close()
                self.started = time.monotonic()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit(f"the program did not start:\n{self.read_log()}")

    def launch(self, *command, **options):
        return subprocess.Popen(command, **options)

    def read_log(self):
        return (pathlib.Path(self.directory.name) / "log").read_text()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        self.process.wait(30)
        return time.monotonic() - began

    def call(self, method, path, body=None, token=None):
        """Answers the status and the body."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def done(self, method, path, body=None, token=None):
        status, answer = self.call(method, path, body, token)
        assert status == 200, (method, path, status, answer)
        return answer


class User:
    def __init__(self, server, name):
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        answer = server.done("POST", "/_matrix/client/v3/register", body)
        self.server, self.id = server, answer["user_id"]
        self.token, self.device = answer["access_token"], answer["device_id"]

    def done(self, method, path, body=None):
        return self.server.done(method, f"/_matrix/client/{path}", body, self.token)

    def openid(self):
        return self.done("POST", f"v3/user/{urllib.parse.quote(self.id)}/openid/request_token", {})

    def sfu_get(self, room, **changes):
        body = {"room": room, "openid_token": self.openid(), "device_id": self.device} | changes
        return self.server.call("POST", "/livekit/jwt/sfu/get", body)


def claims(jwt):
    part = jwt.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def hashed(*parts):
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def check_discovery(server, alice):
    _, well_known = server.call("GET", "/.well-known/matrix/client")
    service = f"{server.base}/livekit/jwt"
    assert well_known["m.homeserver"]["base_url"] == server.base, well_known
    assert well_known["org.matrix.msc4143.rtc_foci"] == [{"type": "livekit", "livekit_service_url": service}]
    path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
    assert server.call("GET", path)[0] == 401
    url = f"ws://{server.name}/livekit/sfu"
    transports = alice.done("GET", "unstable/org.matrix.msc4143/rtc/transports")["rtc_transports"]
    assert transports == [{"type": "livekit", "livekit_service_url": service, "url": url}], transports
    assert alice.done("GET", "v1/rtc/transports") == {"transports": [{"type": "m.livekit", "url": url}]}
    assert server.call("GET", "/livekit/jwt/healthz")[0] == 200


def check_tokens(server, room, alice, stranger):
    status, answer = alice.sfu_get(room)
    assert status == 200 and answer["url"] == f"ws://{server.name}/livekit/sfu", answer
    held = claims(answer["jwt"])
    assert held["sub"] == f"{alice.id}:{alice.device}"
    assert held["video"]["room"] == hashed(room, "m.call#ROOM") and held["video"]["roomJoin"]
    assert held["video"]["roomCreate"] and held["video"]["canPublish"] and "roomAdmin" not in held["video"]
    # The grant is for the room of the call, by joining it.
    other = {"Authorization": f"Bearer {answer['jwt']}", "Content-Type": "application/json"}
    for method, body in (("CreateRoom", b'{"name": "other"}'), ("DeleteRoom", b'{"room": "other"}')):
        url = f"{server.base}/livekit/sfu/twirp/livekit.RoomService/{method}"
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, other), timeout=10)
        except urllib.error.HTTPError as error:
            assert error.code == 403, error
        else:
            raise AssertionError(f"{method} is open to every user")

    status, answer = stranger.sfu_get(room)
    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN"), answer
    status, answer = stranger.sfu_get("!nothing:example.org")
    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN"), answer
    wrong = alice.openid() | {"access_token": "wrong"}
    status, answer = alice.sfu_get(room, openid_token=wrong)
    assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED"), answer
    elsewhere = alice.openid() | {"matrix_server_name": "example.org"}
    status, answer = alice.sfu_get(room, openid_token=elsewhere)
    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN"), answer
    status, answer = alice.sfu_get(room, delay_id="x", delay_timeout=1_000)
    # For Element Call the sign to ask without it.
    assert (status, answer["errcode"]) == (400, "M_BAD_JSON"), answer
    status, answer = alice.sfu_get(room, device_id="")
    assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM"), answer
    assert server.call("POST", "/livekit/jwt/sfu/get", {"room": room})[1]["errcode"] == "M_BAD_JSON"

    member = {"id": "member", "claimed_user_id": alice.id, "claimed_device_id": alice.device}
    body = {"room_id": room, "slot_id": "m.call#1", "member": member, "openid_token": alice.openid()}
    answer = server.done("POST", "/livekit/jwt/get_token", body)
    held = claims(answer["jwt"])
    assert held["sub"] == hashed(alice.id, alice.device, "member")
    assert held["video"]["room"] == hashed(room, "m.call#1")
    body = body | {"member": member | {"claimed_user_id": stranger.id}, "openid_token": alice.openid()}
    assert server.call("POST", "/livekit/jwt/get_token", body)[0] == 401

    path = "unstable/io.element.msc4195/rtc/livekit/get_token"
    later = {"room_id": room, "slot_id": "m.call#ROOM", "member_id": "one", "url": f"ws://{server.name}/livekit/sfu"}
    assert claims(alice.done("POST", path, later)["jwt"])["sub"] == hashed(alice.id, "one")
    status, answer = server.call("POST", f"/_matrix/client/{path}", later | {"url": "wss://other"}, alice.token)
    assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM"), answer


async def check_removal(server, room, alice, bob):
    """Who is kicked is out at once, and a token that is still valid lets nobody back in."""
    rooms, joined = {}, {}
    for user in (alice, bob):
        _, answer = user.sfu_get(room)
        joined[user.id] = answer
        rooms[user.id] = rtc.Room()
        await rooms[user.id].connect(answer["url"], answer["jwt"])
    ended, reasons = asyncio.Event(), []
    rooms[bob.id].on("disconnected", lambda reason: (reasons.append(reason), ended.set()))
    gone = asyncio.Event()
    rooms[alice.id].on("participant_disconnected", lambda participant: gone.set())
    assert len(rooms[alice.id].remote_participants) == 1 or await appears(rooms[alice.id])
    # All are looked at every three seconds from the start on, and just were: without hearing of the kick it would take longer.
    await asyncio.sleep(3.2 - (time.monotonic() - server.started) % 3)
    began = time.monotonic()
    path = f"/_matrix/client/v3/rooms/{urllib.parse.quote(room)}/kick"
    await asyncio.to_thread(server.done, "POST", path, {"user_id": bob.id}, alice.token)
    await asyncio.wait_for(asyncio.gather(ended.wait(), gone.wait()), 5)
    took = time.monotonic() - began
    assert took < 2.5, f"thrown out after {took:.2f} s"
    assert reasons == [rtc.DisconnectReason.PARTICIPANT_REMOVED], reasons
    again = rtc.Room()
    try:
        await again.connect(joined[bob.id]["url"], joined[bob.id]["jwt"])
    except rtc.ConnectError:
        pass
    else:
        raise AssertionError("who was kicked came back with an old token")
    assert bob.sfu_get(room)[0] == 403
    await rooms[alice.id].disconnect()
    return joined[alice.id], took


MEMBER = "org.matrix.msc3401.call.member"


async def check_delayed_leave(server, room, alice, bob):
    """The server sends a delegated leave when its participant is gone, and not while it is there."""
    in_room = f"v3/rooms/{urllib.parse.quote(room)}"
    content = alice.done("GET", f"{in_room}/state/m.room.power_levels")
    content["events"][MEMBER] = 0
    alice.done("PUT", f"{in_room}/state/m.room.power_levels", content)
    state = f"{in_room}/state/{MEMBER}/{urllib.parse.quote(bob.id)}"
    bob.done("PUT", state, {"here": True})
    path = "/livekit/jwt/delegate_delayed_leave"
    assert server.call("POST", path)[0] in (400, 401)
    _, answer = bob.sfu_get(room)
    connection = rtc.Room()
    await connection.connect(answer["url"], answer["jwt"])
    # Restarted after eight seconds: without that it would be sent after ten.
    delay_id = bob.done("PUT", f"{state}?org.matrix.msc4140.delay=10000", {})["delay_id"]
    member = {"id": "m", "claimed_user_id": bob.id, "claimed_device_id": bob.device}
    body = {"room_id": room, "slot_id": "m.call#ROOM", "member": member, "delay_id": delay_id, "delay_timeout": 3_600_000}
    status, refused = server.call("POST", path, body | {"openid_token": alice.openid()})
    assert status == 401, refused
    status, refused = server.call("POST", path, body | {
        "openid_token": alice.openid(), "member": member | {"claimed_user_id": alice.id}})
    assert (status, refused["errcode"]) == (400, "M_INVALID_PARAM"), refused
    status, answer = bob.sfu_get(room, delay_id=delay_id, delay_timeout=3_600_000)
    assert status == 200, answer
    await asyncio.sleep(11)
    assert bob.done("GET", state) == {"here": True}, "left although it is there"
    await connection.disconnect()
    # By itself it would be sent in about seven seconds.
    began = time.monotonic()
    while bob.done("GET", state) != {}:
        assert time.monotonic() - began < 5, "the leave is not sent at once"
        await asyncio.sleep(0.05)
    assert bob.done("GET", "unstable/org.matrix.msc4140/delayed_events")["delayed_events"] == []

    # Who was never there leaves when its time is over.
    bob.done("PUT", state, {"here": True})
    delay_id = bob.done("PUT", f"{state}?org.matrix.msc4140.delay=600000", {})["delay_id"]
    path = "unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave"
    body = {"room_id": room, "slot_id": "m.call#ROOM", "member_id": "one", "delay_id": delay_id, "delay_timeout": 5_000}
    assert bob.done("POST", path, body) == {}
    await asyncio.sleep(1)
    assert bob.done("GET", state) == {"here": True}
    began = time.monotonic()
    while bob.done("GET", state) != {}:
        assert time.monotonic() - began < 20, "the leave is not sent"
        await asyncio.sleep(0.05)


async def check_audience(server, room, alice, bob):
    """Who may not announce to be in a call may listen, and is let or kept from speaking while it is there."""
    path = f"v3/rooms/{urllib.parse.quote(room)}/state/m.room.power_levels"
    content = alice.done("GET", path)
    open_to_all = json.loads(json.dumps(content))
    for name in (MEMBER, "org.matrix.msc4143.rtc.member", "m.rtc.member"):
        content["events"][name] = 50
    alice.done("PUT", path, content)
    _, answer = bob.sfu_get(room)
    held = claims(answer["jwt"])["video"]
    assert held["canPublish"] is False and held["canPublishData"] is False and held["canSubscribe"], held
    # Every local user may begin a call; here the audience is there first.
    connection = rtc.Room()
    await connection.connect(answer["url"], answer["jwt"])
    source = rtc.AudioSource(48_000, 1)
    try:
        await asyncio.wait_for(
            connection.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("a", source)), 15)
    except Exception:
        pass
    else:
        raise AssertionError("the audience speaks")
    alice.done("PUT", path, open_to_all)
    await asyncio.sleep(1)
    await asyncio.wait_for(
        connection.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("b", source)), 15)
    await connection.disconnect()


async def appears(room):
    for _ in range(50):
        if room.remote_participants:
            return True
        await asyncio.sleep(0.1)
    return False


async def main(arguments):
    server = Server(arguments.program)
    try:
        alice, bob, stranger = (User(server, name) for name in ("alice", "bob", "stranger"))
        body = {"invite": [bob.id], "preset": "private_chat"}
        room = alice.done("POST", "v3/createRoom", body)["room_id"]
        bob.done("POST", f"v3/rooms/{urllib.parse.quote(room)}/join", {})
        check_discovery(server, alice)
        check_tokens(server, room, alice, stranger)
        await check_delayed_leave(server, room, alice, bob)
        await check_audience(server, room, alice, bob)
        old, took = await check_removal(server, room, alice, bob)
        # The server stops although somebody is in a call, and after it the same token lets back in.
        connection = rtc.Room()
        await connection.connect(old["url"], old["jwt"])
        stopped_after = await asyncio.to_thread(server.stop)
        assert stopped_after < 15, f"stopping took {stopped_after:.1f} s during a call"
        await connection.disconnect()
        await asyncio.to_thread(server.start)
        connection = rtc.Room()
        await connection.connect(old["url"], old["jwt"])
        await connection.disconnect()
        print(json.dumps({"thrown_out_after": round(took, 3), "stopped_after": round(stopped_after, 2)}))
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
    asyncio.run(asyncio.wait_for(main(chosen), 360))
