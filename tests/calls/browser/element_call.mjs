// Three users hold an encrypted call with Element Call in headless Chromium, embedded as clients embed it, against the whole program.
//
// node element_call.mjs --program target/debug/entente
// Prints one JSON object; exits with 1 if not everybody sees everybody.

import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { chromium } from 'playwright-core';

const { values: options } = parseArgs({
  options: { program: { type: 'string' }, chromium: { type: 'string', default: '/usr/bin/chromium' } },
});
const ASSETS = new URL('node_modules/@element-hq/element-call-embedded/dist/', import.meta.url);
const HOST = new URL('element_call_host.html', import.meta.url);
const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css', json: 'application/json', wasm: 'application/wasm' };
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function freePort(socket, listen) {
  listen();
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  return port;
}

async function startServer(directory) {
  const tcp = createTcpServer();
  const port = await freePort(tcp, () => tcp.listen(0, '127.0.0.1'));
  const udp = createSocket('udp4');
  const udpPort = await freePort(udp, () => udp.bind(0, '127.0.0.1'));
  const base = `http://localhost:${port}`;
  const settings = {
    SERVER_NAME: `localhost:${port}`,
    PUBLIC_BASE_URL: base,
    LISTENERS: `[{ address = "127.0.0.1:${port}", serves = ["client", "federation"] }]`,
    REGISTRATION__OPEN: 'true',
    REGISTRATION__TOKENS: 'false',
    RATE_LIMITS__ENABLED: 'false',
    ACCOUNTS__ARGON2__MEMORY_KIB: '64',
    ACCOUNTS__ARGON2__ITERATIONS: '1',
    CALLS__ENABLED: 'true',
    CALLS__ADDRESSES: '["127.0.0.1"]',
    CALLS__UDP_PORT: `${udpPort}`,
  };
  const env = { PATH: process.env.PATH };
  for (const [name, value] of Object.entries(settings)) env[`ENTENTE_${name}`] = value;
  const child = spawn(resolve(options.program), ['serve'], { cwd: directory, env });
  const log = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => log.push(text));
  for (let tries = 0; tries < 150; tries += 1) {
    const answer = await fetch(`${base}/health/ready`).catch(() => undefined);
    if (answer?.ok) return { base, child, log };
    if (child.exitCode !== null) break;
    await pause(200);
  }
  child.kill();
  throw new Error(`the program did not start: ${log.join('')}`);
}

async function api(base, path, body, token) {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${base}/_matrix/client/v3/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  const json = await answer.json();
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${JSON.stringify(json)}`);
  return json;
}

async function furnish(base) {
  const users = [];
  for (const username of ['alice', 'bob', 'carol']) {
    users.push(await api(base, 'register', { username, password: 'correct horse', auth: { type: 'm.login.dummy' } }));
  }
  const [alice, ...others] = users;
  const { room_id: room } = await api(
    base,
    'createRoom',
    {
      preset: 'private_chat',
      invite: others.map((user) => user.user_id),
      power_level_content_override: { events: { 'org.matrix.msc3401.call.member': 0 } },
      initial_state: [
        { type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } },
      ],
    },
    alice.access_token,
  );
  for (const user of others) await api(base, `rooms/${encodeURIComponent(room)}/join`, {}, user.access_token);
  return { users, room };
}

// Pages on localhost may use cameras and workers without TLS.
const web = createServer(async (request, response) => {
  const path = request.url.split(/[?#]/)[0];
  const asset = path.startsWith('/element-call/') ? path.slice('/element-call/'.length) : undefined;
  try {
    const body = await readFile(asset === undefined ? HOST : new URL(asset, ASSETS));
    const type = asset === undefined ? 'text/html' : TYPES[path.split('.').pop()];
    response.setHeader('content-type', type ?? 'application/octet-stream');
    response.end(body);
  } catch {
    response.statusCode = 404;
    response.end();
  }
});

async function open(browser, origin, base, room, user) {
  const context = await browser.newContext({ permissions: ['camera', 'microphone'], viewport: { width: 800, height: 600 } });
  const page = await context.newPage();
  const log = [];
  page.on('console', (message) => log.push(message.text().slice(0, 300)));
  const settings = { base, room, token: user.access_token, user: user.user_id, device: user.device_id };
  await page.goto(`${origin}/?${new URLSearchParams(settings)}`);
  return { page, log };
}

// The frames that each video of a page has shown.
async function frames({ page }) {
  const call = page.frames().find((frame) => frame.url().includes('/element-call/'));
  if (!call) return [];
  return call.evaluate(() =>
    [...document.querySelectorAll('video')].map((video) => video.getVideoPlaybackQuality().totalVideoFrames),
  );
}

const directory = await mkdtemp(join(tmpdir(), 'entente-element-call-'));
const server = await startServer(directory);
const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    '--no-sandbox',
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
    '--autoplay-policy=no-user-gesture-required',
  ],
});
const pages = [];
try {
  web.listen(0, 'localhost');
  await once(web, 'listening');
  const { users, room } = await furnish(server.base);
  for (const user of users) {
    pages.push(await open(browser, `http://localhost:${web.address().port}`, server.base, room, user));
  }
  const began = Date.now();
  let seen = [];
  const everybody = () => seen.every((videos) => videos.filter((count) => count > 30).length >= users.length);
  while (seen.length === 0 || !everybody()) {
    if (Date.now() - began > 90_000) throw new Error(`not everybody sees everybody: ${JSON.stringify(seen)}`);
    await pause(500);
    seen = await Promise.all(pages.map(frames));
  }
  for (const { page } of pages) {
    const asked = await page.evaluate(() => window.asked);
    if (!asked.includes('send_to_device io.element.call.encryption_keys')) {
      throw new Error(`no keys were sent, so nothing was encrypted: ${JSON.stringify(asked)}`);
    }
  }
  console.log(JSON.stringify({ frames: seen, after: (Date.now() - began) / 1000 }));
} catch (error) {
  console.log(JSON.stringify({ problem: String(error) }));
  for (const { log } of pages) console.error(log.slice(-30).join('\n'));
  console.error(server.log.join('').slice(-4_000));
  process.exitCode = 1;
} finally {
  await browser.close();
  web.close();
  server.child.kill();
  await rm(directory, { recursive: true, force: true });
}
