// Three users hold an encrypted call with Element Call in headless Chromium, embedded as clients embed it, against the whole program: on
// one server, or on two that federate; or on one whose calls a LiveKit server forwards. `--mode matrix_2_0` has them say so by sticky
// events (MSC4354).
//
// node element_call.mjs --program target/debug/entente [--servers 2] [--mode matrix_2_0] [--livekit-server livekit-server]
//   [--screenshot call.png] [--logs directory]
// Prints one JSON object: for each thing that happened the seconds until everyone knew. Exits with 1 if something is not as it should be.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { Call } from './element_call/call.mjs';
import { LivekitServer } from './element_call/livekit.mjs';
import { Participant } from './element_call/participant.mjs';
import * as scenarios from './element_call/scenarios.mjs';
import { Authority, Server } from './element_call/server.mjs';
import { serve } from './element_call/web.mjs';

const { values: options } = parseArgs({
  options: {
    program: { type: 'string' },
    servers: { type: 'string', default: '1' },
    'livekit-server': { type: 'string' },
    mode: { type: 'string' },
    screenshot: { type: 'string' },
    logs: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});

/** An encrypted room in which all users may be in the call. */
async function createRoom([creator, ...others]) {
  const body = {
    preset: 'private_chat',
    invite: others.map(({ id }) => id),
    power_level_content_override: { events: { 'org.matrix.msc3401.call.member': 0 } },
    initial_state: [{ type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } }],
  };
  const { room_id: room } = await creator.server.api('POST', 'createRoom', creator.token, body);
  for (const { server, token } of others) {
    const via = new URLSearchParams({ server_name: creator.server.name, via: creator.server.name });
    await server.api('POST', `join/${encodeURIComponent(room)}?${via}`, token, {});
  }
  return room;
}

async function onOneServer(call, took) {
  const [server] = call.servers;
  const [alice, bob, carol] = call.participants;
  took.join = await scenarios.everyoneJoins(call);
  if (options.screenshot) await alice.screenshot(options.screenshot);
  took.mute = await scenarios.mutes(call, bob);
  took.camera = await scenarios.turnsCameraOff(call, carol);
  took.screen = await scenarios.sharesScreen(call, bob);
  took.leave = await scenarios.leavesAndComesBack(call, bob);
  took.reload = await scenarios.reloads(call, alice);
  took.server_killed = await scenarios.serverIsKilled(call, server);
  // A LiveKit server waits longer for who is not heard, and does not let that be chosen.
  took.browser_killed = await scenarios.browserIsKilled(call, carol, options['livekit-server'] ? 60 : 15);
}

/** What sticky events are for: who is in the call, and who is not any more. */
async function withStickyEvents(call, took) {
  const [, bob, carol] = call.participants;
  took.join = await scenarios.everyoneJoins(call);
  took.leave = await scenarios.leavesAndComesBack(call, bob);
  took.browser_killed = await scenarios.browserIsKilled(call, carol);
}

async function onTwoServers(call, took) {
  const [, bob, carol] = call.participants;
  took.join = await scenarios.everyoneJoins(call);
  if (options.screenshot) await bob.screenshot(options.screenshot);
  took.mute = await scenarios.mutes(call, bob);
  took.leave = await scenarios.leavesAndComesBack(call, bob);
  took.server_killed = await scenarios.serverIsKilled(call, bob.user.server);
  took.browser_killed = await scenarios.browserIsKilled(call, carol);
}

const directory = await mkdtemp(join(tmpdir(), 'entente-element-call-'));
const servers = [];
const participants = [];
const took = {};
let web;
let livekit;
try {
  web = await serve();
  const authority = await Authority.create(directory);
  if (options['livekit-server']) livekit = await LivekitServer.create(options['livekit-server']);
  while (servers.length < Number(options.servers)) {
    servers.push(await Server.start(resolve(options.program), directory, authority, livekit));
  }
  await livekit?.start(`${servers[0].base}/livekit/jwt/sfu_webhook`);
  const users = [];
  for (const [index, name] of ['Alice', 'Bob', 'Carol'].entries()) {
    users.push(await servers[index % servers.length].register(name));
  }
  const room = await createRoom(users);
  for (const user of users) participants.push(await Participant.open(options.chromium, web.origin, user, room, options.mode));
  for (const participant of participants) await participant.join();
  const call = new Call(room, servers, participants, options.mode === 'matrix_2_0');
  const happens = servers.length === 1 ? (call.sticky ? withStickyEvents : onOneServer) : onTwoServers;
  await happens(call, took);
  console.log(JSON.stringify(took));
} catch (error) {
  console.log(JSON.stringify({ ...took, problem: String(error) }));
  for (const { name, log } of participants) console.error(`-- ${name}\n${log.slice(-20).join('\n')}`);
  for (const server of servers) console.error(`-- ${server.name}\n${server.log.slice(-4_000)}`);
  process.exitCode = 1;
} finally {
  if (options.logs) {
    const logs = [...participants.map(({ name, log }) => [name, log.join('\n')]), ...servers.map(({ name, log }) => [name, log])];
    for (const [name, log] of logs) await writeFile(join(options.logs, `${name}.log`), log);
  }
  await Promise.all(participants.map((participant) => participant.close().catch(() => undefined)));
  web?.close();
  await Promise.all([...servers, livekit].map((server) => server?.kill()));
  await rm(directory, { recursive: true, force: true });
}
