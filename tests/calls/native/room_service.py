"""`RoomService`, asked by LiveKit's own SDK for servers, in protobuf over Twirp, about a call with two of its native clients, and in JSON,
whose answers must be what that SDK takes for its messages; and the webhooks that tell of it, read by the same SDK.

Needs `livekit` and `livekit-api` from PyPI. Exits with 1 if something is not as it should be.
"""

import argparse
import asyncio
import json

import aiohttp
from aiohttp import web
from google.protobuf import json_format
from livekit import api, rtc


async def refused(code, asked):
    """Waits for a refusal with this code."""
    try:
        answer = await asked
    except api.TwirpError as error:
        assert error.code == code, (error.code, error.message)
    else:
        raise AssertionError(f"{code} was expected: {answer}")


async def soon(what, look):
    for _ in range(100):
        found = look()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{what} does not happen")


async def join(arguments, identity):
    grants = api.VideoGrants(room_join=True, room=arguments.room)
    token = api.AccessToken("devkey", arguments.secret).with_identity(identity).with_grants(grants).to_jwt()
    room = rtc.Room()
    await room.connect(arguments.url, token)
    return room


async def speak(source):
    while True:
        await source.capture_frame(rtc.AudioFrame.create(48_000, 1, 480))


class Hook:
    """What is told by webhooks of one room, each shown by its token to come from who has the key."""

    def __init__(self, arguments):
        self.room, self.told = arguments.room, []
        self.receiver = api.WebhookReceiver(api.TokenVerifier("devkey", arguments.secret))

    async def take(self, request):
        assert request.content_type == "application/webhook+json", request.content_type
        event = self.receiver.receive(await request.text(), request.headers["authorization"])
        if event.room.name == self.room:
            self.told.append(event)
        return web.Response()

    async def start(self, port):
        application = web.Application()
        application.router.add_post("/", self.take)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    def names(self):
        return [(event.event, event.participant.identity) for event in self.told]


async def check_json(arguments, publication):
    """The same in JSON: numbers, names and what is left out are read by protobuf's own rules."""
    grants = api.VideoGrants(room_create=True, room_list=True, room_admin=True, room=arguments.room)
    token = api.AccessToken("devkey", arguments.secret).with_grants(grants).to_jwt()
    base = arguments.url.replace("ws", "http", 1)
    bobs = {"room": arguments.room, "identity": "bob"}

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:

        async def ask(method, request, message):
            async with session.post(f"{base}/twirp/livekit.RoomService/{method}", json=request) as answer:
                text = await answer.text()
                assert answer.status == 200 and answer.content_type == "application/json", (method, answer.status, text)
                return json_format.Parse(text, message)

        made = await ask("CreateRoom", {"name": arguments.room, "emptyTimeout": 60}, api.Room())
        listed = await ask("ListRooms", {"names": [arguments.room]}, api.ListRoomsResponse())
        assert [room.sid for room in listed.rooms] == [made.sid] and made.creation_time > 0, listed
        found = await ask("ListParticipants", {"room": arguments.room}, api.ListParticipantsResponse())
        assert sorted(one.identity for one in found.participants) == ["alice", "bob"], found
        bob = await ask("GetParticipant", bobs, api.ParticipantInfo())
        assert [track.sid for track in bob.tracks] == [publication.sid] and bob.joined_at > 0, bob
        # As its SDK for Go names fields, and as JSON does.
        for name in ("track_sid", "trackSid"):
            muted = await ask("MutePublishedTrack", bobs | {name: publication.sid, "muted": False}, api.MuteRoomTrackResponse())
            assert muted.track.sid == publication.sid and not muted.track.muted, muted
        data = {"room": arguments.room, "data": "anNvbg==", "kind": "RELIABLE", "destinationIdentities": ["bob"]}
        await ask("SendData", data, api.SendDataResponse())
        named = await ask("UpdateParticipant", bobs | {"name": "Robert"}, api.ParticipantInfo())
        assert named.name == "Robert" and named.permission.can_publish, named
        changed = await ask("UpdateRoomMetadata", {"room": arguments.room, "metadata": "of JSON"}, api.Room())
        assert changed.metadata == "of JSON", changed
        async with session.post(f"{base}/twirp/livekit.RoomService/GetParticipant", json=bobs | {"identity": "carol"}) as answer:
            assert answer.status == 404 and (await answer.json())["code"] == "not_found"


async def main(arguments):
    hook = Hook(arguments)
    await hook.start(arguments.webhook_port)
    service = api.LiveKitAPI(arguments.url, "devkey", arguments.secret)
    rooms, name = service.room, arguments.room
    made = await rooms.create_room(api.CreateRoomRequest(name=name, empty_timeout=60, max_participants=2, metadata="m"))
    assert (made.name, made.empty_timeout, made.max_participants, made.metadata) == (name, 60, 2, "m"), made
    assert made.sid.startswith("RM_")
    listed = await rooms.list_rooms(api.ListRoomsRequest(names=[name, "another"]))
    assert [room.sid for room in listed.rooms] == [made.sid], listed
    await refused("not_found", rooms.get_participant(api.RoomParticipantIdentity(room=name, identity="alice")))
    await refused("not_found", rooms.list_participants(api.ListParticipantsRequest(room="another")))

    alice, bob = await join(arguments, "alice"), await join(arguments, "bob")
    data, changed, left = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
    alice.on("data_received", lambda packet: data.put_nowait((packet.topic, packet.data)))
    alice.on("room_metadata_changed", lambda old, new: changed.put_nowait(new))
    bob.on("disconnected", lambda reason: left.put_nowait(reason))
    source = rtc.AudioSource(48_000, 1)
    track = rtc.LocalAudioTrack.create_audio_track("voice", source)
    publication = await bob.local_participant.publish_track(track)
    speaking = asyncio.create_task(speak(source))

    found = await rooms.list_participants(api.ListParticipantsRequest(room=name))
    assert sorted(one.identity for one in found.participants) == ["alice", "bob"], found
    bobs = await rooms.get_participant(api.RoomParticipantIdentity(room=name, identity="bob"))
    assert bobs.sid == bob.local_participant.sid and bobs.permission.can_publish, bobs

    # A track is there when its first packet came.
    await soon("bob is heard of", lambda: any(one.track_publications for one in alice.remote_participants.values()))
    await check_json(arguments, publication)
    assert await asyncio.wait_for(changed.get(), 10) == "of JSON"
    await rooms.send_data(api.SendDataRequest(room=name, data=b"to all", topic="t", kind=0))
    assert await asyncio.wait_for(data.get(), 10) == ("t", b"to all")
    await rooms.update_room_metadata(api.UpdateRoomMetadataRequest(room=name, metadata="new"))
    assert await asyncio.wait_for(changed.get(), 10) == "new"

    muted = await rooms.mute_published_track(
        api.MuteRoomTrackRequest(room=name, identity="bob", track_sid=publication.sid, muted=True))
    assert muted.track.sid == publication.sid and muted.track.muted, muted
    unknown = api.MuteRoomTrackRequest(room=name, identity="bob", track_sid="TR_none", muted=True)
    await refused("not_found", rooms.mute_published_track(unknown))

    permission = api.ParticipantPermission(can_subscribe=True, can_publish=False, can_publish_data=False)
    updated = await rooms.update_participant(
        api.UpdateParticipantRequest(room=name, identity="bob", name="Bob", permission=permission))
    assert updated.name == "Bob" and not updated.permission.can_publish, updated

    await rooms.remove_participant(api.RoomParticipantIdentity(room=name, identity="bob"))
    assert await asyncio.wait_for(left.get(), 10) == rtc.DisconnectReason.PARTICIPANT_REMOVED
    await rooms.delete_room(api.DeleteRoomRequest(room=name))
    await refused("not_found", rooms.delete_room(api.DeleteRoomRequest(room=name)))
    stranger = api.LiveKitAPI(arguments.url, "devkey", "another secret, just as long as it has to be")
    await refused("unauthenticated", stranger.room.list_rooms(api.ListRoomsRequest()))
    await soon("the end is told of", lambda: ("room_finished", "") in hook.names())
    for event in [("room_started", ""), ("participant_joined", "alice"), ("track_published", "bob"), ("participant_left", "bob")]:
        assert event in hook.names(), (event, hook.names())
    removed = next(event for event in hook.told if event.event == "participant_left" and event.participant.identity == "bob")
    assert removed.participant.disconnect_reason == rtc.DisconnectReason.PARTICIPANT_REMOVED, removed
    assert removed.participant.sid == bobs.sid and removed.id.startswith("EV_") and removed.num_dropped == 0, removed
    assert all(event.room.sid == made.sid for event in hook.told), hook.told
    assert removed.participant.name == "Bob" and not removed.participant.permission.can_publish, removed
    for event in (event for event in hook.told if event.event in ("track_published", "track_unpublished")):
        assert (event.participant.sid, event.track.sid) == (bobs.sid, publication.sid), event
        assert event.track.mime_type == "audio/opus" and event.track.version.unix_micro > 0, event
    speaking.cancel()
    await asyncio.gather(alice.disconnect(), service.aclose(), stranger.aclose())
    print(json.dumps({"room_service": "as it should be"}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--url", "--secret", "--room"):
        parser.add_argument(option, required=True)
    parser.add_argument("--webhook-port", type=int, required=True)
    asyncio.run(asyncio.wait_for(main(parser.parse_args()), 180))
