"""Exchanges encrypted attachments with matrix-sdk, with matrix-nio. Arguments: the server's URL, a directory for keys, the other's user id.

The account is `nio`. Joins the room that the other invites it to, waits for a file, and sends what was in it back in a file of its own.
"""

import asyncio
import io
import sys

from nio import (
    AsyncClient,
    AsyncClientConfig,
    ErrorResponse,
    InviteMemberEvent,
    MegolmEvent,
    RoomEncryptedFile,
    crypto,
)

PASSWORD = "correct horse battery staple"
PATIENCE = 90


def succeeded(response):
    assert not isinstance(response, ErrorResponse), response
    return response


async def main(base_url: str, directory: str, other: str) -> None:
    config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = AsyncClient(base_url, "@nio:localhost:8008", store_path=directory, config=config)
    succeeded(await client.login(PASSWORD, device_name="desk"))
    received = asyncio.get_running_loop().create_future()

    async def on_invite(room, event) -> None:
        if event.membership == "invite" and event.state_key == client.user_id:
            succeeded(await client.join(room.room_id))

    async def on_file(room, event) -> None:
        if event.sender == other and not received.done():
            received.set_result((room.room_id, event))

    async def on_undecryptable(room, event) -> None:
        print(f"cannot decrypt {event}", file=sys.stderr)

    client.add_event_callback(on_invite, InviteMemberEvent)
    client.add_event_callback(on_file, RoomEncryptedFile)
    client.add_event_callback(on_undecryptable, MegolmEvent)
    syncing = asyncio.create_task(client.sync_forever(timeout=10_000, full_state=True))
    room_id, event = await asyncio.wait_for(received, PATIENCE)
    assert event.decrypted, event
    downloaded = succeeded(await client.download(event.url))
    file = crypto.attachments.decrypt_attachment(downloaded.body, event.key["k"], event.hashes["sha256"], event.iv)
    assert file not in downloaded.body

    while not any(client.device_store.active_user_devices(other)):
        await asyncio.sleep(0.05)
    uploaded, keys = await client.upload(
        io.BytesIO(file), "application/octet-stream", "back.bin", encrypt=True, filesize=len(file)
    )
    keys["url"] = succeeded(uploaded).content_uri
    content = {"msgtype": "m.file", "body": "back.bin", "file": keys, "info": {"size": len(file)}}
    succeeded(await client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True))
    syncing.cancel()
    await client.close()


asyncio.run(main(*sys.argv[1:]))
