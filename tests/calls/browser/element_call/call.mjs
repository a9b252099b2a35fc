// A call of several participants, and what must hold in it.

import { createHash } from 'node:crypto';

import { until } from './waiting.mjs';

// How much must be decoded anew of a track until it counts as flowing: frames of video, or a quarter of a second of sound.
const FRAMES = 3;
const SAMPLES = 12_000;

export class Call {
  /** The ids that participants gave themselves, with sticky events. */
  #memberIds = new Map();

  constructor(room, servers, participants, sticky) {
    this.room = room;
    this.servers = servers;
    this.participants = participants;
    this.sticky = sticky;
  }

  /** As whom Element Call connects a participant: to the own server in the way of old clients, to others in that of MSC4195. */
  identityOn(server, participant) {
    const { id, device, server: own } = participant.user;
    if (!this.sticky && server === own) return membership(participant);
    const memberId = this.sticky ? this.#memberIds.get(participant) : membership(participant);
    return createHash('sha256').update(JSON.stringify([id, device, memberId])).digest('base64').replace(/=+$/, '');
  }

  /** With sticky events a participant has another id each time that it joins, which its own client knows. */
  async #learnIds() {
    if (!this.sticky) return;
    for (const participant of this.participants) {
      const own = (await participant.members()).findLast(({ user }) => user === participant.user.id);
      if (own) this.#memberIds.set(participant, own.content.member.id);
    }
  }

  /** The devices that are in the call as a participant's server, or with sticky events its client, knows it: "@user:server:DEVICE". */
  async #memberships(participant) {
    if (!this.sticky) return participant.user.server.memberships(this.room, participant.user);
    return (await participant.members()).map(({ user, content }) => `${user}:${content.member.device_id}`);
  }

  /** The tracks that are published, by whom, on which server. */
  async published() {
    const tracks = [];
    for (const server of this.servers) {
      for (const { identity, tracks: theirs = [] } of await server.participants(this.room)) {
        for (const track of theirs) tracks.push({ server, identity, ...track });
      }
    }
    return tracks;
  }

  /** Waits until everyone decodes what everyone else publishes. `only` names whose tracks are meant, if not everyone's. */
  async everyoneDecodes(limit, { only = this.participants, sources = ['MICROPHONE', 'CAMERA'] } = {}) {
    const before = new Map();
    return until('not everyone decodes everyone', limit, async () => {
      await this.#learnIds();
      const published = await this.published();
      const missing = [];
      await Promise.all(
        this.participants.map(async (viewer) => {
          const decoded = await viewer.decoded();
          for (const other of only) {
            if (other === viewer) continue;
            for (const source of sources) {
              const problem = notFlowing(viewer, other, source, published, decoded, before, (server) => this.identityOn(server, other));
              if (problem) missing.push(`${viewer.name} misses ${source} of ${other.name}: ${problem}`);
            }
          }
        }),
      );
      return missing.join('; ');
    });
  }

  /** Waits until all others show a tile of a participant of which something holds. */
  othersSee(what, limit, participant, holds) {
    return until(`not everyone sees that ${participant.name} ${what}`, limit, async () => {
      const others = this.participants.filter((other) => other !== participant);
      const seen = await Promise.all(
        others.map(async (other) => (await other.tiles()).some((tile) => tile.name === participant.name && holds(tile))),
      );
      return others.filter((_, index) => !seen[index]).map((other) => `${other.name} does not see it`).join(', ');
    });
  }

  /** Waits until nothing is left of a participant: on nobody's page, on no server, and not in the state of the room. */
  isGone(limit, participant) {
    const others = this.participants.filter((other) => other !== participant);
    return until(`${participant.name} is not gone`, limit, async () => {
      const places = [];
      for (const other of others) {
        if ((await other.tiles()).some(({ name }) => name === participant.name)) places.push(`${other.name} shows a tile`);
      }
      for (const server of this.servers) {
        const witness = others.find(({ user }) => user.server === server);
        const connected = await server.participants(this.room);
        const theirs = this.identityOn(server, participant);
        if (connected.some(({ identity }) => identity === theirs)) places.push(`connected to ${server.name}`);
        const members = witness ? await this.#memberships(witness) : [];
        if (members.includes(membership(participant))) places.push(`a member of the call on ${server.name}`);
      }
      return places.join(', ');
    });
  }

  /**
   * Waits until those who should be in the call are, each once, and nobody else, by each server's state of the room and connections: who
   * joins may connect twice, until the own server is found.
   */
  onlyTheseAreIn() {
    return until('others are in the call than should be', 15, async () => {
      const problems = [];
      await this.#learnIds();
      for (const server of this.servers) {
        const members = await this.#memberships(this.participants.find(({ user }) => user.server === server));
        problems.push(difference(`members on ${server.name}`, members, this.participants.map(membership)));
        const connected = (await server.participants(this.room)).map(({ identity }) => identity);
        const expected = this.participants.map((participant) => this.identityOn(server, participant));
        problems.push(difference(`connections to ${server.name}`, connected, expected));
      }
      return problems.filter(Boolean).join('; ');
    });
  }

  /** Checks that keys went from device to device, and none in the clear. */
  async checkKeys() {
    for (const participant of this.participants) {
      const { encrypted, clear } = await participant.keys();
      if (encrypted < this.participants.length - 1 || clear > 0) {
        throw new Error(`${participant.name} got ${encrypted} keys that were encrypted and ${clear} that were not`);
      }
    }
  }
}

const membership = ({ user }) => `${user.id}:${user.device}`;

function difference(what, found, expected) {
  const [left, right] = [found, expected].map((names) => JSON.stringify([...names].sort()));
  return left === right ? undefined : `${what}: ${left} instead of ${right}`;
}

// Why a participant does not decode another's track, or nothing. What is decoded counts from when it was seen first.
function notFlowing(viewer, other, source, published, decoded, before, identityOn) {
  const { server } = other.user;
  const theirs = published.filter((one) => one.server === server && one.identity === identityOn(server));
  const track = theirs.find((one) => one.source === source);
  if (!track) return 'it is not published';
  if (track.encryption !== 'GCM') return `its encryption is ${track.encryption}`;
  const now = decoded[track.sid];
  if (!now) return 'it is not received';
  // A screen of which nothing moves is not sent again.
  if (source === 'SCREEN_SHARE') return now.frames > 0 ? undefined : 'nothing of it is decoded';
  const key = `${viewer.name} ${track.sid}`;
  if (!before.has(key)) before.set(key, now);
  const first = before.get(key);
  const flows =
    source === 'MICROPHONE'
      ? now.samples - first.samples >= SAMPLES && now.energy > first.energy
      : now.frames - first.frames >= FRAMES;
  return flows ? undefined : `decoded ${JSON.stringify(first)}, then ${JSON.stringify(now)}`;
}
