"""Talks with matrix-js-sdk in an encrypted room, with matrix-nio. Arguments: the server's URL, a directory for keys, the other's user id.

The account is `nio`. Makes the room, invites the other, says "bonjour", and waits for "salut".
"""

import asyncio
import sys

from nio import AsyncClient, AsyncClientConfig, ErrorResponse, MegolmEvent, RoomMessageText, RoomPreset

PASSWORD = "correct horse battery staple"
PATIENCE = 90


def succeeded(response):
    assert not isinstance(response, ErrorResponse), response
    return response


async def main(base_url: str, directory: str, other: str) -> None:
    config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = AsyncClient(base_url, "@nio:localhost:8008", store_path=directory, config=config)
    succeeded(await client.login(PASSWORD, device_name="desk"))
    answered = asyncio.Event()

    async def on_message(room, event) -> None:
        if event.sender == other and event.body == "salut":
            assert event.decrypted, event
            answered.set()

    async def on_undecryptable(room, event) -> None:
        print(f"cannot decrypt {event}", file=sys.stderr)

    client.add_event_callback(on_message, RoomMessageText)
    client.add_event_callback(on_undecryptable, MegolmEvent)
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    created = succeeded(
        await client.room_create(
            preset=RoomPreset.trusted_private_chat, is_direct=True, invite=[other], initial_state=[encryption]
        )
    )
    room_id = created.room_id
    syncing = asyncio.create_task(client.sync_forever(timeout=10_000, full_state=True))

    async def until(condition) -> None:
        while not condition():
            if syncing.done():
                syncing.result()
            await asyncio.sleep(0.05)

    def other_is_here() -> bool:
        room = client.rooms.get(room_id)
        return bool(room and room.encrypted and other in room.users and other not in room.invited_users)

    await asyncio.wait_for(until(other_is_here), PATIENCE)
    await asyncio.wait_for(until(lambda: any(client.device_store.active_user_devices(other))), PATIENCE)
    content = {"msgtype": "m.text", "body": "bonjour"}
    # The other's devices are not verified here; `verification.rs` of the SDK tests is about that.
    succeeded(await client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True))
    await asyncio.wait_for(answered.wait(), PATIENCE)
    syncing.cancel()
    await client.close()


asyncio.run(main(*sys.argv[1:]))
