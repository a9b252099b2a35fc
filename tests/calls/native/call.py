"""Two native LiveKit clients in one room of the call bridge: one publishes sound and pictures, the other counts what it decodes,
through mutes, changes of quality, reconnects and a replacement.

Needs `livekit` and `numpy` from PyPI. Prints one JSON object; exits with 1 if media did not flow.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
import time

import numpy
from livekit import rtc

WIDTH, HEIGHT = 960, 540
SAMPLE_RATE = 48_000


def token(key, secret, room, identity, **grants):
    """Signs a token as an application's server would."""

    def encode(part):
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    now = int(time.time())
    claims = {
        "iss": key,
        "sub": identity,
        "nbf": now - 5,
        "exp": now + 600,
        "video": {"room": room, "roomJoin": True, **grants},
    }
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + encode(signature)).decode()


async def publish_tone(source, stop):
    """A tone of 440 Hz, in frames of 10 ms."""
    samples = SAMPLE_RATE // 100
    phase = 0
    while not stop.is_set():
        wave = numpy.sin(2 * numpy.pi * 440 * (numpy.arange(samples) + phase) / SAMPLE_RATE)
        phase += samples
        data = (wave * 12_000).astype(numpy.int16).tobytes()
        await source.capture_frame(rtc.AudioFrame(data, SAMPLE_RATE, 1, samples))


async def publish_picture(source, stop):
    """A moving bar, 20 times a second."""
    picture = numpy.zeros((HEIGHT, WIDTH, 4), dtype=numpy.uint8)
    count = 0
    while not stop.is_set():
        picture[:] = 40
        at = (count * 8) % (WIDTH - 40)
        picture[:, at : at + 40] = (200, 30, 90, 255)
        source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, picture.tobytes()))
        count += 1
        await asyncio.sleep(0.05)


class Counter:
    """What a participant decodes."""

    def __init__(self):
        self.pictures = 0
        self.loud = 0
        self.sounds = 0
        self.sizes = set()
        self.size = None
        self.tasks = []

    def watch(self, room):
        @room.on("track_subscribed")
        def _(track, publication, participant):
            follow = self.video if track.kind == rtc.TrackKind.KIND_VIDEO else self.audio
            self.tasks.append(asyncio.create_task(follow(track)))

    async def video(self, track):
        async for event in rtc.VideoStream(track):
            self.pictures += 1
            self.size = event.frame.width
            self.sizes.add(f"{event.frame.width}x{event.frame.height}")

    async def audio(self, track):
        async for event in rtc.AudioStream(track):
            self.sounds += 1
            samples = numpy.frombuffer(event.frame.data, dtype=numpy.int16)
            if numpy.abs(samples).max() > 2_000:
                self.loud += 1


async def within(seconds, condition):
    """How long it took until it became true; `None` if it did not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return round(time.monotonic() - began, 2)
        await asyncio.sleep(0.02)
    return None


async def change_quality(bob, counter, problems):
    """The low layer, and back. Answers how long each took."""
    tracks = next(iter(bob.remote_participants.values())).track_publications.values()
    video = next(track for track in tracks if track.kind == rtc.TrackKind.KIND_VIDEO)
    took = []
    for quality, arrived in (
        (rtc.VideoQuality.VIDEO_QUALITY_LOW, lambda: counter.size == WIDTH // 3),
        (rtc.VideoQuality.VIDEO_QUALITY_HIGH, lambda: counter.size == WIDTH),
    ):
        video.set_video_quality(quality)
        took.append(await within(10, arrived))
    if None in took:
        problems.append("quality did not change")
    return took


async def reconnect(alice, bob, counter, problems):
    """Signalling is cut for each, then one begins anew. Media goes on. Answers pictures in the second after each."""
    kinds = rtc.SimulateScenarioKind
    seen = []
    for room, kind in (
        (alice, kinds.SIMULATE_SIGNAL_RECONNECT),
        (bob, kinds.SIMULATE_SIGNAL_RECONNECT),
        (bob, kinds.SIMULATE_FULL_RECONNECT),
        (alice, kinds.SIMULATE_FULL_RECONNECT),
    ):
        back = asyncio.Event()
        room.once("reconnected", back.set)
        await room.simulate_scenario(kind)
        try:
            await asyncio.wait_for(back.wait(), 15)
        except asyncio.TimeoutError:
            problems.append(f"no reconnect after {kind}")
        await asyncio.sleep(1)
        before = counter.pictures, counter.loud
        await asyncio.sleep(1)
        seen.append(counter.pictures - before[0])
        if seen[-1] < 5 or counter.loud - before[1] < 30:
            problems.append(f"media did not go on after {kind}")
    return seen


async def replace(arguments, alice, identity, problems):
    """Who comes under the same identity replaces who was there."""
    reasons, ended = [], asyncio.Event()
    alice.on("disconnected", lambda reason: (reasons.append(reason), ended.set()))
    second = rtc.Room()
    held = token(arguments.key, arguments.secret, arguments.room, identity)
    await second.connect(arguments.url, held, options(arguments))
    try:
        await asyncio.wait_for(ended.wait(), 5)
    except asyncio.TimeoutError:
        problems.append("a second session did not end the first")
    if reasons and reasons != [rtc.DisconnectReason.DUPLICATE_IDENTITY]:
        problems.append(f"replaced for {reasons}")
    return second


def options(arguments, key=b"the shared key of this test......", dual=False):
    chosen = rtc.RoomOptions(auto_subscribe=True)
    if hasattr(chosen, "single_peer_connection"):
        chosen.single_peer_connection = not (arguments.dual or dual)
    if arguments.encrypted:
        chosen.encryption = rtc.E2EEOptions(key_provider_options=rtc.KeyProviderOptions(shared_key=key))
    return chosen


async def main(arguments):
    result = {"dual": arguments.dual, "mixed": arguments.mixed, "encrypted": arguments.encrypted}
    stop = asyncio.Event()
    alice, bob = rtc.Room(), rtc.Room()
    counter = Counter()
    counter.watch(bob)
    messages = []
    bob.on("data_received", lambda packet: messages.append((packet.participant.identity, packet.data.decode())))
    speakers = []
    bob.on("active_speakers_changed", lambda active: speakers.extend(one.identity for one in active))
    mutes = []
    bob.on("track_muted", lambda participant, publication: mutes.append("muted"))
    bob.on("track_unmuted", lambda participant, publication: mutes.append("unmuted"))
    gone = asyncio.Event()
    bob.on("participant_disconnected", lambda participant: gone.set())

    began = time.monotonic()
    join = lambda room, who, dual=False: room.connect(
        arguments.url, token(arguments.key, arguments.secret, arguments.room, who), options(arguments, dual=dual)
    )
    await join(alice, "@alice:example.org:A")
    await join(bob, "@bob:example.org:B", dual=arguments.mixed)
    result["connected_after"] = round(time.monotonic() - began, 2)

    sound = rtc.AudioSource(SAMPLE_RATE, 1)
    picture = rtc.VideoSource(WIDTH, HEIGHT)
    audio_track = rtc.LocalAudioTrack.create_audio_track("mic", sound)
    video_track = rtc.LocalVideoTrack.create_video_track("cam", picture)
    tasks = [asyncio.create_task(publish_tone(sound, stop)), asyncio.create_task(publish_picture(picture, stop))]
    audio = await alice.local_participant.publish_track(
        audio_track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )
    await alice.local_participant.publish_track(
        video_track,
        rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA, simulcast=arguments.simulcast, video_codec=codec(arguments.codec)
        ),
    )
    await alice.local_participant.publish_data("hello", reliable=True)
    await asyncio.sleep(arguments.seconds)
    audio_track.mute()
    await asyncio.sleep(1)
    audio_track.unmute()
    await asyncio.sleep(1)
    await alice.local_participant.publish_data("lossy", reliable=False)
    await asyncio.sleep(0.5)
    result.update(
        pictures=counter.pictures,
        sizes=sorted(counter.sizes),
        sounds=counter.sounds,
        loud=counter.loud,
        messages=messages,
        speakers=sorted(set(speakers)),
        mutes=mutes,
        audio_sid=audio.sid[:3],
        codecs=sorted(track.mime_type for one in bob.remote_participants.values() for track in one.track_publications.values()),
    )
    problems = []
    if f"video/{arguments.codec}" not in [name.lower() for name in result["codecs"]]:
        problems.append("another codec was used")
    if arguments.simulcast:
        result["quality_changed_after"] = await change_quality(bob, counter, problems)
    result["pictures_after_reconnects"] = await reconnect(alice, bob, counter, problems)
    stop.set()
    await asyncio.gather(*tasks)
    second = await replace(arguments, alice, "@alice:example.org:A", problems)
    gone.clear()
    await second.disconnect()
    try:
        await asyncio.wait_for(gone.wait(), 5)
        result["left"] = True
    except asyncio.TimeoutError:
        result["left"] = False
    await bob.disconnect()

    if counter.pictures < arguments.seconds * 8:
        problems.append("too few pictures")
    if counter.loud < arguments.seconds * 40:
        problems.append("too little sound")
    if ("@alice:example.org:A", "hello") not in messages:
        problems.append("no message")
    if "@alice:example.org:A" not in speakers:
        problems.append("no speaker")
    if mutes != ["muted", "unmuted"]:
        problems.append("mutes not told")
    if not result["left"]:
        problems.append("leaving not told")
    result["problems"] = problems
    print(json.dumps(result))
    return 1 if problems else 0


def codec(name):
    return getattr(rtc.VideoCodec, name.upper())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="ws://127.0.0.1:7880")
    parser.add_argument("--key", default="devkey")
    parser.add_argument("--secret", default="a secret of this test, long enough")
    parser.add_argument("--room", default="room")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--dual", action="store_true")
    parser.add_argument("--mixed", action="store_true", help="only Bob has two peer connections")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--simulcast", action="store_true")
    parser.add_argument("--codec", default="vp8")
    status = asyncio.run(asyncio.wait_for(main(parser.parse_args()), 180))
    sys.stdout.flush()
    # Without the library's own end, in which a thread of it may go on forever.
    os._exit(status)
