"""A bridge on `mautrix` whose bot encrypts by transactions, and a `matrix-nio` user: both ways in an encrypted room, over a crash of the server.

Arguments: the program, a free directory.
"""
import asyncio, os, pathlib, socket, subprocess, sys

import nio
from mautrix.appservice import AppService
from mautrix.appservice.state_store import ASStateStore
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.errors import EncryptionError, SessionNotFound
from mautrix.types import DeviceID, EventType, Membership, MessageType, TextMessageEventContent

SOON = 120
PASSWORD = "correct horse battery staple"
DOMAIN = "localhost:8008"
PROGRAM, HOME = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()


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


async def start_server():
    with open(HOME / "entente.log", "w") as log:
        environment = {**os.environ, "ENTENTE_CONFIG": "entente.toml", "ENTENTE_CALLS__ENABLED": "false"}
        server = subprocess.Popen([PROGRAM], cwd=HOME, env=environment, stdout=log, stderr=subprocess.STDOUT)

    async def runs():
        assert server.poll() is None, (HOME / "entente.log").read_text()
        return "Ctrl-C" in (HOME / "entente.log").read_text()
    await until("the server runs", runs)
    return server


class States(MemoryStateStore, ASStateStore):
    """What the bridge knows of rooms."""

    def __init__(self):
        MemoryStateStore.__init__(self)
        ASStateStore.__init__(self)

    async def find_shared_rooms(self, user_id):
        return [room for room, members in self.members.items() if user_id in members and room in self.encryption]


class Bridge:
    def __init__(self, base, port):
        self.port, self.heard = port, []
        self.service = AppService(
            base, DOMAIN, as_token="as", hs_token="hs", bot_localpart="bridgebot", id="bridge",
            state_store=States(), ephemeral_events=True, encryption_events=True)
        # One after the other: the keys of a message come no later than the message.
        self.service.synchronous_handlers = True
        self.service.matrix_event_handler(self.handle)
        keys = MemoryCryptoStore("bridge", "bridge")
        self.client = Client(
            mxid=self.service.bot_mxid, base_url=base, sync_store=keys, state_store=self.service.state_store)
        self.crypto = OlmMachine(self.client, keys, self.service.state_store)
        self.service.otk_handler = self.crypto.handle_as_otk_counts
        self.service.device_list_handler = self.crypto.handle_as_device_lists
        self.service.to_device_handler = self.crypto.handle_as_to_device_event

    async def start(self):
        await self.service.start("127.0.0.1", self.port)
        await self.service.intent.ensure_registered()
        self.client.api.token = "as"
        await self.client.create_device_msc4190(DeviceID(""), "bridge")
        await self.crypto.load()
        await self.crypto.share_keys()
        self.ghost = self.service.intent.user(f"@bridge_ann:{DOMAIN}")
        await self.ghost.ensure_registered()
        await self.ghost.set_displayname("Ann of another network")

    async def handle(self, event):
        if event.type == EventType.ROOM_MEMBER:
            await self.crypto.handle_member_event(event)
            if event.content.membership == Membership.INVITE and event.state_key == self.service.bot_mxid:
                await self.service.intent.join_room_by_id(event.room_id)
                await self.ghost.ensure_joined(event.room_id, bot=self.service.intent)
        elif event.type == EventType.ROOM_ENCRYPTED and event.sender.startswith("@alice:"):
            try:
                plain = await self.crypto.decrypt_megolm_event(event)
            except SessionNotFound as error:
                assert await self.crypto.wait_for_session(event.room_id, error.session_id, timeout=SOON), error
                plain = await self.crypto.decrypt_megolm_event(event)
            self.heard.append(plain.content.body)

    async def say(self, intent, room, text):
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        try:
            encrypted = await self.crypto.encrypt_megolm_event(room, EventType.ROOM_MESSAGE, content)
        except EncryptionError:
            members = await self.service.intent.get_joined_members(room)
            await self.crypto.share_group_session(room, [member for member in members if member.startswith("@alice:")])
            encrypted = await self.crypto.encrypt_megolm_event(room, EventType.ROOM_MESSAGE, content)
        await intent.send_message_event(room, EventType.ROOM_ENCRYPTED, encrypted)


class User:
    def __init__(self, base):
        settings = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        (HOME / "alice").mkdir()
        self.client, self.heard = nio.AsyncClient(base, "alice", store_path=str(HOME / "alice"), config=settings), []
        self.client.add_event_callback(lambda _, event: self.heard.append((event.sender, event.body)), nio.RoomMessageText)

    async def say(self, room, text):
        content = {"msgtype": "m.text", "body": text}
        sent = await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(sent, nio.RoomSendResponse), sent

    async def look(self):
        synced = await self.client.sync(timeout=0)
        assert isinstance(synced, nio.SyncResponse), synced
        for ask, act in (
            (self.client.should_upload_keys, self.client.keys_upload),
            (self.client.should_query_keys, self.client.keys_query),
        ):
            if ask:
                await act()

    async def has_heard(self, sender, text):
        await self.look()
        return (sender, text) in self.heard


async def main():
    server_port, bridge_port = free_port(), free_port()
    (HOME / "registration.yaml").write_text(
        f"id: bridge\nurl: http://127.0.0.1:{bridge_port}\nas_token: as\nhs_token: hs\nsender_localpart: bridgebot\n"
        "rate_limited: false\nnamespaces:\n  users:\n  - exclusive: true\n    regex: '@bridge_.*'\n"
        "receive_ephemeral: true\norg.matrix.msc3202: true\nio.element.msc4190: true\n")
    (HOME / "entente.toml").write_text(
        f'[[listeners]]\naddress = "127.0.0.1:{server_port}"\n[registration]\nopen = true\n'
        '[rate_limits]\nenabled = false\n[application_services]\nregistrations = ["registration.yaml"]\n')
    base = f"http://127.0.0.1:{server_port}"
    server = await start_server()
    try:
        bridge, user = Bridge(base, bridge_port), User(base)
        await bridge.start()
        registered = await user.client.register("alice", PASSWORD)
        assert isinstance(registered, nio.RegisterResponse), registered
        await user.look()
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        made = await user.client.room_create(invite=[bridge.service.bot_mxid], initial_state=[encryption])
        room = made.room_id

        async def has_come():
            await user.look()
            members = await user.client.joined_members(room)
            return {"@bridge_ann:" + DOMAIN, bridge.service.bot_mxid} <= {member.user_id for member in members.members}
        await until("the bot and a ghost come", has_come)
        for number in range(5):
            await user.say(room, f"from alice {number}")

        async def all_heard():
            return bridge.heard == [f"from alice {number}" for number in range(5)]
        await until("five encrypted messages at the bridge, in order", all_heard)
        bot, ghost = bridge.service.bot_mxid, bridge.ghost.mxid
        await bridge.say(bridge.service.intent, room, "from the bot")
        await until("the bot's answer", lambda: user.has_heard(bot, "from the bot"))
        await bridge.say(bridge.ghost, room, "from the ghost")
        await until("the ghost's answer", lambda: user.has_heard(ghost, "from the ghost"))

        server.kill()
        server.wait()
        server = await start_server()
        await user.say(room, "after the crash")

        async def heard_once():
            return bridge.heard.count("after the crash") == 1
        await until("an encrypted message after the crash", heard_once)
        await bridge.say(bridge.ghost, room, "still here")
        await until("the ghost after the crash", lambda: user.has_heard(ghost, "still here"))
        assert len(bridge.heard) == len(set(bridge.heard)) == 6, bridge.heard
        assert len(user.heard) == len(set(user.heard)), user.heard
        await user.client.close()
        await bridge.service.stop()
        await bridge.client.api.session.close()
    finally:
        server.kill()
        server.wait()


asyncio.run(main())
print("the encrypting bridge works")
