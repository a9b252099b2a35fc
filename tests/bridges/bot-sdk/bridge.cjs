// A bridge on `matrix-bot-sdk`: it registers ghosts, lets one into a room that it is invited to, and talks both ways.
//
// node bridge.cjs PROGRAM DIRECTORY
//
// Without encryption: the part of the library that encrypts is a native one that npm does not hold.
'use strict';

const Module = require('node:module');
const load = Module._load;
Module._load = function (request, ...rest) {
  // Whatever is used of it fails then, and nothing here uses it.
  if (request === '@matrix-org/matrix-sdk-crypto-nodejs') return new Proxy({}, { get: () => class {} });
  return load.call(this, request, ...rest);
};

const { spawn } = require('node:child_process');
const { closeSync, openSync, readFileSync, writeFileSync } = require('node:fs');
const { createServer } = require('node:net');
const { join, resolve } = require('node:path');
const { Appservice, LogService, LogLevel, SimpleFsStorageProvider } = require('matrix-bot-sdk');

const [program, directory] = process.argv.slice(2, 4).map((path) => resolve(path));
const DOMAIN = 'localhost:8008';
const SOON = 120_000;

const freePort = () =>
  new Promise((done) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

async function until(what, found) {
  const began = Date.now();
  for (;;) {
    const answer = await found();
    if (answer) {
      console.log('seen:', what);
      return answer;
    }
    if (Date.now() - began > SOON) throw new Error(`never seen: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

function startServer(port) {
  const log = openSync(join(directory, 'entente.log'), 'a');
  const env = { ...process.env, ENTENTE_CONFIG: 'entente.toml', ENTENTE_CALLS__ENABLED: 'false' };
  const server = spawn(program, [], { cwd: directory, env, stdio: ['ignore', log, log] });
  closeSync(log);
  const isReady = () =>
    fetch(`http://127.0.0.1:${port}/_matrix/client/versions`).then((answer) => answer.ok, () => false);
  return until('the server runs', isReady).then(() => server);
}

/** A person at the server, without a library. */
class Person {
  constructor(base) {
    this.base = base;
  }

  async ask(method, path, body) {
    const headers = { 'content-type': 'application/json' };
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    const answer = await fetch(`${this.base}/_matrix/client/v3${path}`, { method, headers, body: JSON.stringify(body) });
    const read = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(read)}`);
    return read;
  }

  async register(username) {
    const auth = { type: 'm.login.dummy' };
    const made = await this.ask('POST', '/register', { username, password: 'correct horse battery staple', auth });
    this.token = made.access_token;
  }

  say(room, id, body) {
    return this.ask('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/${id}`, { msgtype: 'm.text', body });
  }

  async reads(room) {
    const page = await this.ask('GET', `/rooms/${encodeURIComponent(room)}/messages?dir=b&limit=50`);
    return page.chunk.filter((event) => event.type === 'm.room.message').map((event) => [event.sender, event.content.body]);
  }
}

async function main() {
  const [serverPort, bridgePort] = [await freePort(), await freePort()];
  const base = `http://127.0.0.1:${serverPort}`;
  const registration = {
    id: 'network',
    url: `http://127.0.0.1:${bridgePort}`,
    as_token: 'as',
    hs_token: 'hs',
    sender_localpart: 'network',
    namespaces: { users: [{ exclusive: true, regex: '@network_.*' }], aliases: [], rooms: [] },
  };
  // JSON is YAML too.
  writeFileSync(join(directory, 'registration.yaml'), JSON.stringify(registration));
  writeFileSync(
    join(directory, 'entente.toml'),
    `[[listeners]]\naddress = "127.0.0.1:${serverPort}"\n[registration]\nopen = true\n` +
      '[rate_limits]\nenabled = false\n[application_services]\nregistrations = ["registration.yaml"]\n',
  );
  LogService.setLevel(LogLevel.WARN);
  let server = await startServer(serverPort);
  const bridge = new Appservice({
    port: bridgePort,
    bindAddress: '127.0.0.1',
    homeserverName: DOMAIN,
    homeserverUrl: base,
    registration,
    storage: new SimpleFsStorageProvider(join(directory, 'bridge.json')),
    joinStrategy: { onFailedJoin: async () => {} },
  });
  const heard = [];
  bridge.on('room.message', (room, event) => {
    if (!event.sender.startsWith('@network')) heard.push(event.content.body);
  });
  try {
    await bridge.begin();
    const ghost = bridge.getIntentForSuffix('bob');
    await ghost.ensureRegistered();
    await ghost.underlyingClient.setDisplayName('Bob of the network');

    const alice = new Person(base);
    await alice.register('alice');
    const invite = [bridge.botUserId, ghost.userId];
    const { room_id: room } = await alice.ask('POST', '/createRoom', { preset: 'private_chat', invite });
    await bridge.botIntent.joinRoom(room);
    await ghost.joinRoom(room);
    await ghost.sendText(room, 'bonjour');
    await until('the ghost, by its user', async () =>
      (await alice.reads(room)).some(([sender, body]) => sender === ghost.userId && body === 'bonjour'));
    const { joined } = await alice.ask('GET', `/rooms/${encodeURIComponent(room)}/joined_members`);
    if (joined[ghost.userId]?.display_name !== 'Bob of the network') throw new Error(JSON.stringify(joined));

    await alice.say(room, 'a', 'salut');
    await until('the user, by the bridge', async () => heard.includes('salut'));

    // What was said is told after the server was killed, too, and nothing twice.
    await alice.say(room, 'b', 'à bientôt');
    const ended = new Promise((done) => server.once('exit', done));
    server.kill('SIGKILL');
    await ended;
    server = await startServer(serverPort);
    await alice.say(room, 'c', 'me revoilà');
    await until('the user, after a restart', async () => heard.includes('me revoilà'));
    if (heard.join() !== 'salut,à bientôt,me revoilà') throw new Error(`heard ${heard}`);
  } catch (error) {
    console.error(readFileSync(join(directory, 'entente.log'), 'utf8').slice(-4_000));
    throw error;
  } finally {
    bridge.stop();
    server.kill('SIGKILL');
  }
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
