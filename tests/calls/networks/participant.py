"""A native LiveKit client in a call, which tells of what it sees in lines of JSON: when it was connected, when the first picture and the
first sound of somebody else came, and then, several times a second, figures of what comes. Leaves when its input ends.

The token comes in the environment, as `TOKEN`. Needs `livekit` and `numpy` from PyPI.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent / "native"))

import numpy
from livekit import rtc
from livekit.rtc._proto import stats_pb2

import call

EVERY = 0.25
# Without a new picture for this long, what is seen stands still, in seconds.
STILL = 0.5


def tell(what, **figures):
    print(json.dumps({"at": time.monotonic(), "what": what, **figures}), flush=True)


class Seen:
    """What has come."""

    def __init__(self, room):
        self.pictures = self.loud = self.width = 0
        self.newest, self.longest_gap, self.stood_still = None, 0, 0
        self.tasks = []
        room.on("track_subscribed", self.follow)

    def follow(self, track, publication, participant):
        video = track.kind == rtc.TrackKind.KIND_VIDEO
        self.tasks.append(asyncio.create_task(self.watch(track) if video else self.listen(track)))

    async def watch(self, track):
        async for event in rtc.VideoStream(track):
            now = time.monotonic()
            if self.newest is None:
                tell("picture")
            else:
                gap = now - self.newest
                self.longest_gap = max(self.longest_gap, gap)
                self.stood_still += gap if gap > STILL else 0
            self.pictures += 1
            self.newest, self.width = now, event.frame.width

    async def listen(self, track):
        async for event in rtc.AudioStream(track):
            if numpy.abs(numpy.frombuffer(event.frame.data, dtype=numpy.int16)).max() > 2_000:
                if not self.loud:
                    tell("sound")
                self.loud += 1

    def figures(self):
        """Times are in seconds; the longest gap between two pictures is that since it was asked before."""
        gap, self.longest_gap = self.longest_gap, 0
        present = 0 if self.newest is None else time.monotonic() - self.newest
        still = self.stood_still + (present if present > STILL else 0)
        return {
            "pictures": self.pictures, "loud": self.loud, "width": self.width,
            "gap": round(max(gap, present), 3), "still": round(still, 3),
        }


async def publish_noise(source, stop):
    """Pictures of which half changes at random, 20 times a second: what an encoder may spend on them, it spends."""
    luck = numpy.random.default_rng(7)
    picture = numpy.full((call.HEIGHT, call.WIDTH, 4), 90, dtype=numpy.uint8)
    while not stop.is_set():
        blocks = luck.integers(60, 200, (call.HEIGHT // 6 + 1, call.WIDTH // 12 + 1), dtype=numpy.uint8)
        noise = blocks.repeat(6, axis=0).repeat(6, axis=1)[: call.HEIGHT, : call.WIDTH // 2]
        picture[:, : call.WIDTH // 2, :3] = noise[:, :, None]
        source.capture_frame(rtc.VideoFrame(call.WIDTH, call.HEIGHT, rtc.VideoBufferType.RGBA, picture.tobytes()))
        await asyncio.sleep(0.05)


async def statistics(room):
    """What the client's own figures say of what is received, and of the way."""
    stats = await room.get_rtc_stats()
    reports = [*stats.publisher_stats, *stats.subscriber_stats]
    figures = {"remote": set(), "lost": 0, "concealed": 0, "samples": 0, "keyframes": 0}
    candidates, pairs, selected = {}, {}, []
    for report in reports:
        kind = report.WhichOneof("stats")
        if kind == "inbound_rtp":
            inbound = report.inbound_rtp
            figures["lost"] += inbound.received.packets_lost
            figures["keyframes"] += inbound.inbound.key_frames_decoded
            figures["concealed"] += inbound.inbound.concealed_samples
            figures["samples"] += inbound.inbound.total_samples_received
        elif kind in ("local_candidate", "remote_candidate"):
            one = getattr(report, kind)
            candidates[one.rtc.id] = one.candidate
            if kind == "remote_candidate":
                figures["remote"].add(f"{one.candidate.address} {one.candidate.port}/{one.candidate.protocol}")
        elif kind == "candidate_pair":
            pairs[report.candidate_pair.rtc.id] = report.candidate_pair.candidate_pair.local_candidate_id
        elif kind == "transport":
            selected.append(report.transport.transport.selected_candidate_pair_id)
    figures["remote"] = sorted(figures["remote"])
    chosen = [pairs[pair] for pair in selected if pair in pairs]
    figures["ways"] = sorted({way(candidates[local]) for local in chosen if local in candidates})
    return figures


def way(local):
    """Over what a client's own candidate goes."""
    if local.candidate_type == stats_pb2.RELAY:
        return f"relay over {stats_pb2.IceServerTransportProtocol.Name(local.relay_protocol).removeprefix('TRANSPORT_').lower()}"
    return local.protocol


async def main(arguments):
    room = rtc.Room()
    seen = Seen(room)
    room.on("disconnected", lambda reason: tell("disconnected", reason=reason))
    room.on("reconnecting", lambda: tell("reconnecting"))
    tell("begins")
    arguments.dual = False
    await room.connect(arguments.url, os.environ["TOKEN"], call.options(arguments))
    tell("connected")
    stop = asyncio.Event()
    tasks = []
    if arguments.width:
        call.WIDTH, call.HEIGHT = arguments.width, arguments.width * 9 // 16
        sound, picture = rtc.AudioSource(call.SAMPLE_RATE, 1), rtc.VideoSource(call.WIDTH, call.HEIGHT)
        draw = publish_noise if arguments.noise else call.publish_picture
        tasks = [asyncio.create_task(call.publish_tone(sound, stop)), asyncio.create_task(draw(picture, stop))]
        await room.local_participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("mic", sound),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
        )
        await room.local_participant.publish_track(
            rtc.LocalVideoTrack.create_video_track("cam", picture),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=arguments.simulcast),
        )
        tell("published")
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ended.done():
        tell("figures", **seen.figures(), **await statistics(room))
        await asyncio.sleep(EVERY)
    stop.set()
    await asyncio.gather(*tasks)
    await room.disconnect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--width", type=int, default=0, help="of the pictures that are sent; 0: nothing is sent, no sound either")
    parser.add_argument("--simulcast", action="store_true")
    parser.add_argument("--noise", action="store_true", help="pictures that take as many bytes as they may")
    parser.add_argument("--encrypted", action="store_true")
    asyncio.run(main(parser.parse_args()))
