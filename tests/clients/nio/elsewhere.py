"""Talks with a user of another server in an encrypted room, with matrix-nio. Arguments: the server's URL, a directory for keys, the own
user id, the other's.

Joins the room that the other invites it to and answers "bonjour" with "salut". At "I have a laptop" it waits for the other's second device
and says "hello laptop" to both. It ends when "adieu" comes, from that device.
"""

import asyncio
import sys

from nio import AsyncClient, AsyncClientConfig, ErrorResponse, InviteMemberEvent, MegolmEvent, RoomMessageText

PASSWORD = "correct horse battery staple"
PATIENCE = 240


def succeeded(response):
    assert not isinstance(response, ErrorResponse), response
    return response


async def main(base_url: str, directory: str, own: str, other: str) -> None:
    config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = AsyncClient(base_url, own, store_path=directory, config=config)
    succeeded(await client.login(PASSWORD, device_name="desk"))
    texts = asyncio.Queue()

    async def on_invite(room, event) -> None:
        if event.membership == "invite" and event.state_key == client.user_id:
            succeeded(await client.join(room.room_id))

    async def on_message(room, event) -> None:
        if event.sender == other:
            assert event.decrypted, event
            await texts.put((room.room_id, event.body))

    async def on_undecryptable(room, event) -> None:
        print(f"cannot decrypt {event}", file=sys.stderr)

    client.add_event_callback(on_invite, InviteMemberEvent)
    client.add_event_callback(on_message, RoomMessageText)
    client.add_event_callback(on_undecryptable, MegolmEvent)
    syncing = asyncio.create_task(client.sync_forever(timeout=10_000, full_state=True))

    async def read(expected: str) -> str:
        room_id, body = await texts.get()
        assert body == expected, body
        return room_id

    async def say(room_id: str, body: str, devices: int) -> None:
        while len(list(client.device_store.active_user_devices(other))) < devices:
            if syncing.done():
                syncing.result()
            await asyncio.sleep(0.05)
        content = {"msgtype": "m.text", "body": body}
        # Whether they are the other's is not asked here: nio knows nothing of cross-signing.
        succeeded(await client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True))

    await say(await read("bonjour"), "salut", 1)
    await say(await read("I have a laptop"), "hello laptop", 2)
    await read("adieu")
    syncing.cancel()
    await client.close()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), PATIENCE))
