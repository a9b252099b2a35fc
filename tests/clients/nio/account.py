"""Registers, logs in, uses and ends a session with matrix-nio. Arguments: the server's URL, a registration token."""

import asyncio
import sys

from nio import AsyncClient, ErrorResponse, LoginError

USER, PASSWORD = "nio", "correct horse battery staple"


def succeeded(response):
    assert not isinstance(response, ErrorResponse), response
    return response


async def main(base_url: str, registration_token: str) -> None:
    client = AsyncClient(base_url, USER)
    registered = succeeded(await client.register_with_token(USER, PASSWORD, registration_token, "phone"))
    assert registered.user_id == f"@{USER}:localhost:8008", registered
    assert registered.access_token and registered.device_id, registered

    stranger = AsyncClient(base_url, USER)
    again = await stranger.register_with_token(USER, PASSWORD, registration_token)
    assert isinstance(again, ErrorResponse) and again.status_code == "M_USER_IN_USE", again

    whoami = succeeded(await client.whoami())
    assert (whoami.user_id, whoami.device_id) == (registered.user_id, registered.device_id), whoami

    succeeded(await client.set_displayname("Niobe"))
    assert succeeded(await client.get_displayname()).displayname == "Niobe"

    laptop = AsyncClient(base_url, USER)
    wrong = await laptop.login("wrong password")
    assert isinstance(wrong, LoginError) and wrong.status_code == "M_FORBIDDEN", wrong
    succeeded(await laptop.login(PASSWORD, device_name="laptop"))

    devices = succeeded(await laptop.devices()).devices
    assert sorted(device.display_name for device in devices) == ["laptop", "phone"], devices
    succeeded(await laptop.update_device(registered.device_id, {"display_name": "old phone"}))

    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": USER}, "password": PASSWORD}
    proof_wanted = await laptop.delete_devices([registered.device_id])
    auth["session"] = proof_wanted.session
    succeeded(await laptop.delete_devices([registered.device_id], auth))
    gone = await client.whoami()
    assert isinstance(gone, ErrorResponse) and gone.status_code == "M_UNKNOWN_TOKEN", gone

    token = laptop.access_token
    succeeded(await laptop.logout())
    laptop.access_token = token
    gone = await laptop.whoami()
    assert isinstance(gone, ErrorResponse) and gone.status_code == "M_UNKNOWN_TOKEN", gone
    await asyncio.gather(client.close(), stranger.close(), laptop.close())


asyncio.run(main(*sys.argv[1:]))
