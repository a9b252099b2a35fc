// The program, with calls, and what its APIs say of them. Servers find each other by TLS on loopback addresses.

import { execFile, spawn } from 'node:child_process';
import { createHash, createHmac } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { pause } from './waiting.mjs';

const MEMBER = 'org.matrix.msc3401.call.member';
export const KEY = 'a key of this test';
export const SECRET = 'a secret of this test, long enough';

async function freePort(socket, listen) {
  listen();
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  return port;
}

export const freeTcpPort = () => {
  const socket = createServer();
  return freePort(socket, () => socket.listen(0, '127.0.0.1'));
};

export const freeUdpPort = () => {
  const socket = createSocket('udp4');
  return freePort(socket, () => socket.bind(0, '127.0.0.1'));
};

// What certificates of an authority and of a server are.
const OPENSSL = `
[req]
distinguished_name = name
prompt = no
[name]
commonName = localhost
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
[server]
basicConstraints = critical, CA:false
subjectAltName = DNS:localhost
`;

/** A certificate authority that all servers of a test trust. */
export class Authority {
  #directory;

  constructor(directory) {
    this.#directory = directory;
    this.certificate = join(directory, 'ca.pem');
  }

  static async create(directory) {
    const authority = new Authority(directory);
    await writeFile(join(directory, 'openssl.conf'), OPENSSL);
    await authority.#sign('authority', authority.certificate, join(directory, 'ca-key.pem'), ['-subj', '/CN=authority of a test']);
    return authority;
  }

  /** Writes `certificate.pem` and `key.pem` for `localhost` into a directory. */
  async certify(directory) {
    const signer = ['-CA', this.certificate, '-CAkey', join(this.#directory, 'ca-key.pem')];
    await this.#sign('server', join(directory, 'certificate.pem'), join(directory, 'key.pem'), signer);
  }

  #sign(kind, certificate, key, further) {
    const options = ['-config', join(this.#directory, 'openssl.conf'), '-extensions', kind, '-keyout', key, '-out', certificate];
    const keys = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
    return promisify(execFile)('openssl', ['req', '-x509', ...keys, ...options, ...further]);
  }
}

/** One server. */
export class Server {
  #program;
  #directory;
  #environment;
  #child;
  log = '';

  /** Starts the program in a new directory below the given one. Its calls are forwarded by a LiveKit server, if there is one. */
  static async start(program, directory, authority, livekit) {
    const server = new Server();
    const [port, federation, media] = [await freeTcpPort(), await freeTcpPort(), await freeUdpPort()];
    server.name = `localhost:${federation}`;
    server.base = `http://localhost:${port}`;
    server.sfu = livekit?.base ?? `${server.base}/livekit/sfu`;
    server.#program = program;
    server.#directory = join(directory, `${federation}`);
    await mkdir(server.#directory);
    await authority.certify(server.#directory);
    const settings = {
      SERVER_NAME: server.name,
      PUBLIC_BASE_URL: server.base,
      LISTENERS: `[{ address = "127.0.0.1:${port}", serves = ["client"] },
        { address = "127.0.0.1:${federation}", serves = ["federation"],
          tls = { certificate_file = "certificate.pem", private_key_file = "key.pem" } }]`,
      FEDERATION__CA_FILE: authority.certificate,
      FEDERATION__ALLOW_PRIVATE_ADDRESSES: 'true',
      REGISTRATION__OPEN: 'true',
      REGISTRATION__TOKENS: 'false',
      RATE_LIMITS__ENABLED: 'false',
      ACCOUNTS__ARGON2__MEMORY_KIB: '64',
      ACCOUNTS__ARGON2__ITERATIONS: '1',
      CALLS__ENABLED: 'true',
      CALLS__ADDRESSES: '["127.0.0.1"]',
      CALLS__UDP_PORT: `${media}`,
      CALLS__API_KEY: KEY,
      CALLS__API_SECRET: SECRET,
      ...(livekit && { CALLS__SFU: 'livekit', CALLS__LIVEKIT_URL: livekit.url }),
    };
    server.#environment = { PATH: process.env.PATH };
    for (const [name, value] of Object.entries(settings)) server.#environment[`ENTENTE_${name}`] = value;
    await server.restart();
    return server;
  }

  /** Starts the program again, and waits until it serves. */
  async restart() {
    const child = spawn(this.#program, ['serve'], { cwd: this.#directory, env: this.#environment });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (this.log += text));
    this.#child = child;
    for (let tries = 0; tries < 600; tries += 1) {
      const answer = await fetch(`${this.base}/health/ready`).catch(() => undefined);
      if (answer?.ok) return;
      if (child.exitCode !== null) break;
      await pause(50);
    }
    child.kill('SIGKILL');
    throw new Error(`the program did not start: ${this.log.slice(-4_000)}`);
  }

  /** Ends it from one moment to the next. */
  async kill() {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }

  async api(method, path, token, body) {
    const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(`${this.base}/_matrix/client/v3/${path}`, { method, headers, body: JSON.stringify(body) });
    const json = await answer.json();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${JSON.stringify(json)}`);
    return json;
  }

  /** A new user with a device, shown to others by the given name. */
  async register(name) {
    const body = { username: name.toLowerCase(), password: 'correct horse', auth: { type: 'm.login.dummy' } };
    const { user_id: id, access_token: token, device_id: device } = await this.api('POST', 'register', undefined, body);
    await this.api('PUT', `profile/${encodeURIComponent(id)}/displayname`, token, { displayname: name });
    return { id, token, device, name, server: this };
  }

  /** The devices that are in the call of a room, by its state: "@user:server:DEVICE". */
  async memberships(room, { token }) {
    const state = await this.api('GET', `rooms/${encodeURIComponent(room)}/state`, token);
    const members = state.filter(({ type, content }) => type === MEMBER && Object.keys(content).length > 0);
    return members.map(({ sender, content }) => `${sender}:${content.device_id}`);
  }

  /** Who is connected to this server's part of the call of a room, with their tracks, as LiveKit's RoomService says it. */
  async participants(room) {
    const name = createHash('sha256').update(JSON.stringify([room, 'm.call#ROOM'])).digest('base64').replace(/=+$/, '');
    const url = `${this.sfu}/twirp/livekit.RoomService/ListParticipants`;
    const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${adminToken(name)}` };
    const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ room: name }) });
    if (answer.status === 404) return [];
    if (!answer.ok) throw new Error(`ListParticipants: ${answer.status} ${await answer.text()}`);
    return (await answer.json()).participants ?? [];
  }
}

function adminToken(room) {
  const now = Math.floor(Date.now() / 1000);
  const encoded = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const claims = { iss: KEY, sub: 'test', nbf: now - 60, exp: now + 600, video: { roomAdmin: true, roomList: true, room } };
  const signed = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${encoded(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}
