// A LiveKit server that forwards the calls of the program instead of that itself.

import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { KEY, SECRET, freeTcpPort, freeUdpPort } from './server.mjs';
import { pause } from './waiting.mjs';

export class LivekitServer {
  #program;
  #child;
  log = '';

  /** One that does not run yet: whoever hands its address on has to be known to it. */
  static async create(program) {
    const livekit = new LivekitServer();
    livekit.#program = program;
    livekit.port = await freeTcpPort();
    livekit.base = `http://127.0.0.1:${livekit.port}`;
    livekit.url = `ws://127.0.0.1:${livekit.port}`;
    return livekit;
  }

  /** Starts it. It tells the given address who comes and goes. */
  async start(webhook) {
    const settings = {
      port: this.port,
      bind_addresses: ['127.0.0.1'],
      rtc: {
        tcp_port: await freeTcpPort(),
        udp_port: await freeUdpPort(),
        node_ip: '127.0.0.1',
        use_external_ip: false,
        interfaces: { includes: ['lo'] },
        enable_loopback_candidate: true,
      },
      room: { auto_create: false },
      keys: { [KEY]: SECRET },
      webhook: { api_key: KEY, urls: [webhook] },
    };
    // YAML has all of JSON.
    this.#child = spawn(this.#program, ['--config-body', JSON.stringify(settings)]);
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream.on('data', (text) => (this.log += text));
    for (let tries = 0; tries < 200; tries += 1) {
      const answer = await fetch(this.base).catch(() => undefined);
      if (answer?.ok) return;
      if (this.#child.exitCode !== null) break;
      await pause(50);
    }
    throw new Error(`the LiveKit server did not start: ${this.log.slice(-4_000)}`);
  }

  /** Ends it from one moment to the next. */
  async kill() {
    if (!this.#child || this.#child.exitCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}
