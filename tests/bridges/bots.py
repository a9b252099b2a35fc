"""The shipped bots and a `matrix-nio` user in an encrypted room: commands, files, minutes of a call, and a bot that is killed at work.

Arguments: the program, beside which the bots are; a free directory.
"""
import asyncio, io, json, os, pathlib, socket, subprocess, sys, uuid

import nio

SOON = 120
PASSWORD = "correct horse battery staple"
DOMAIN = "localhost:8008"
PROGRAM, HOME = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
MEMBER = "org.matrix.msc4143.rtc.member"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


async def until(what, found):
    async def look():
        while not (answer := await found()):
            await asyncio.sleep(0.05)
        return answer
    answer = await asyncio.wait_for(look(), SOON)
    print("seen:", what, flush=True)
    return answer


def started(name, command, **more):
    with open(HOME / f"{name}.log", "a") as log:
        return subprocess.Popen(command, cwd=HOME, stdout=log, stderr=subprocess.STDOUT, **more)


async def start_server():
    environment = {**os.environ, "ENTENTE_CONFIG": "entente.toml", "ENTENTE_CALLS__ENABLED": "false"}
    server = started("entente", [PROGRAM], env=environment)

    async def runs():
        assert server.poll() is None, (HOME / "entente.log").read_text()
        return "Ctrl-C" in (HOME / "entente.log").read_text()
    await until("the server runs", runs)
    return server


class Bot:
    def __init__(self, name, base):
        self.name, self.port, self.process = name, free_port(), None
        self.user_id = f"@{name}:{DOMAIN}"
        (HOME / name).mkdir()
        (HOME / name / "bot.toml").write_text(
            f'[service]\nhomeserver_url = "{base}"\nserver_name = "{DOMAIN}"\nlisten = "127.0.0.1:{self.port}"\n'
            f'data = "{HOME / name / "data"}"\n[service.encryption]\nwho = "bot"\n')
        self.command = [PROGRAM.parent / f"entente-{name}-bot", "--config", HOME / name / "bot.toml"]
        subprocess.run([*self.command, "register", "--url", f"http://127.0.0.1:{self.port}"], check=True)

    async def start(self):
        self.process = started(self.name, self.command)

        async def listens():
            assert self.process.poll() is None, (HOME / f"{self.name}.log").read_text()
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", self.port)) == 0
        await until(f"the bot {self.name} runs", listens)

    def kill(self):
        self.process.kill()
        self.process.wait()


class User:
    def __init__(self, base):
        settings = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        (HOME / "alice").mkdir()
        self.client = nio.AsyncClient(base, "alice", store_path=str(HOME / "alice"), config=settings)
        self.heard, self.files, self.room = [], [], None
        self.client.add_event_callback(self.hear, nio.RoomMessageNotice)
        self.client.add_event_callback(lambda _, event: self.files.append(event), nio.RoomEncryptedFile)
        self.client.add_event_callback(lambda _, event: print("cannot decrypt", event), nio.MegolmEvent)

    def hear(self, _, event):
        assert event.decrypted, event
        self.heard.append((event.sender, event.body))

    async def say(self, text):
        await self.send({"msgtype": "m.text", "body": text})

    async def send(self, content):
        sent = await self.client.room_send(self.room, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(sent, nio.RoomSendResponse), sent

    async def stick(self, content):
        """Sends a membership of a call that sticks, encrypted."""
        event_type, encrypted = self.client.encrypt(self.room, MEMBER, content)
        path = nio.Api._build_path(["rooms", self.room, "send", event_type, str(uuid.uuid4())])
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        sticky = f"{path}?org.matrix.msc4354.sticky_duration_ms=600000"
        answer = await self.client.send("PUT", sticky, json.dumps(encrypted), headers)
        assert answer.status == 200, await answer.text()

    async def look(self):
        # Nothing may fall out of the timeline.
        everything = {"room": {"timeline": {"limit": 1_000}}}
        synced = await self.client.sync(timeout=0, sync_filter=everything, full_state=self.room is None)
        assert isinstance(synced, nio.SyncResponse), synced
        for ask, act in (
            (self.client.should_upload_keys, self.client.keys_upload),
            (self.client.should_query_keys, self.client.keys_query),
        ):
            if ask:
                await act()

    def of(self, bot):
        return [text for sender, text in self.heard if sender == bot.user_id]

    async def has_heard(self, bot, texts):
        await self.look()
        return self.of(bot) == texts


async def main():
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    echo, meeting = Bot("echo", base), Bot("meeting", base)
    (HOME / "entente.toml").write_text(
        f'[[listeners]]\naddress = "127.0.0.1:{port}"\n[registration]\nopen = true\n[rate_limits]\nenabled = false\n'
        '[application_services]\nregistrations = ["echo/registration.yaml", "meeting/registration.yaml"]\n')
    server = await start_server()
    try:
        await echo.start()
        await meeting.start()
        user = User(base)
        registered = await user.client.register("alice", PASSWORD)
        assert isinstance(registered, nio.RegisterResponse), registered
        await user.look()
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        made = await user.client.room_create(invite=[echo.user_id, meeting.user_id], initial_state=[encryption])
        assert isinstance(made, nio.RoomCreateResponse), made
        room = made.room_id

        async def have_come():
            await user.look()
            members = await user.client.joined_members(room)
            come = {echo.user_id, meeting.user_id} <= {member.user_id for member in members.members}
            known = all(any(user.client.device_store.active_user_devices(bot.user_id)) for bot in (echo, meeting))
            return come and known
        await until("both bots come, with their devices", have_come)
        user.room = room

        said = [f"number {number}" for number in range(5)]
        for text in said:
            await user.say(f"!echo {text}")
        await until("five answers, in order", lambda: user.has_heard(echo, said))

        # Killed while it answers, and so before it has acknowledged all of what it was given.
        for number in range(5, 25):
            said.append(f"number {number}")
            await user.say(f"!echo {said[-1]}")

        async def has_begun():
            await user.look()
            return len(user.of(echo)) > 5
        await until("the bot at work", has_begun)
        echo.kill()
        await user.say("!echo while it is away")
        said.append("while it is away")
        await echo.start()
        await until("every answer once, in order, after the bot was killed", lambda: user.has_heard(echo, said))

        # Files are encrypted both ways.
        await user.say("!file the text of a file")

        async def file_came():
            await user.look()
            return user.files
        [file] = await until("a file", file_came)
        downloaded = await user.client.download(file.url)
        plain = nio.crypto.attachments.decrypt_attachment(
            downloaded.body, file.key["k"], file.hashes["sha256"], file.iv)
        assert plain == b"the text of a file" and plain not in downloaded.body, plain
        uploaded, keys = await user.client.upload(
            io.BytesIO(bytes(12_345)), "application/octet-stream", "zeros.bin", encrypt=True, filesize=12_345)
        keys["url"] = uploaded.content_uri
        await user.send({"msgtype": "m.file", "body": "zeros.bin", "file": keys, "info": {"size": 12_345}})
        said.append("That file has 12345 bytes.")
        await until("how large the other file is", lambda: user.has_heard(echo, said))

        # Minutes of a call whose memberships stick, and are encrypted as everything else.
        await user.say("!meet minutes on")

        async def minutes_are_kept():
            await user.look()
            return any("!meet object" in text for text in user.of(meeting))
        await until("that minutes are kept", minutes_are_kept)
        own = user.client.user_id
        member = {"id": "one", "user_id": own, "device_id": user.client.device_id, "membership": "join"}
        there = {"slot_id": "m.call#ROOM", "application": {"type": "m.call"}, "member": member}
        await user.stick({**there, "msc4354_sticky_key": "one"})
        await user.stick({"msc4354_sticky_key": "one"})

        async def minutes_came():
            await user.look()
            return [text for text in user.of(meeting) if text.startswith("Minutes (UTC):\n" + own)]
        assert len(await until("the minutes", minutes_came)) == 1
        assert user.of(echo) == said, "nothing was said twice"
        await user.client.close()
    finally:
        for process in (echo.process, meeting.process, server):
            if process is not None:
                process.kill()
                process.wait()


asyncio.run(main())
print("the bots work")
