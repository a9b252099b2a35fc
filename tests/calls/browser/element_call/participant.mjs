// A user in a browser of their own, and what can be seen there of a call.

import { chromium } from 'playwright-core';

const ARGUMENTS = [
  '--no-sandbox',
  // Few frames, since encoders of all users share a machine.
  '--use-fake-device-for-media-stream=fps=5',
  '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
];

// Runs in each page before anything else: notes the peer connections that it makes.
function noteConnections() {
  window.connections = [];
  const Original = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Original {
    constructor(...settings) {
      super(...settings);
      window.connections.push(this);
    }
  };
}

// Runs in a page: what it decoded until now, by the id of the track.
async function decoded() {
  const found = {};
  for (const connection of window.connections) {
    if (connection.connectionState !== 'connected') continue;
    const tracks = new Map();
    for (const section of connection.remoteDescription.sdp.split('\r\nm=').slice(1)) {
      const [, mid] = /^a=mid:(\S+)/m.exec(section) ?? [];
      const [, track] = /^a=msid:\S+ (\S+)/m.exec(section) ?? [];
      if (track) tracks.set(mid, track);
    }
    for (const one of (await connection.getStats()).values()) {
      if (one.type !== 'inbound-rtp' || !tracks.has(one.mid)) continue;
      // What could not be decrypted never comes to a decoder: it is no frame, and its sound is concealed.
      const { packetsReceived: packets, framesDecoded: frames, totalAudioEnergy: energy } = one;
      const samples = one.totalSamplesReceived - one.concealedSamples;
      found[tracks.get(one.mid)] = one.kind === 'video' ? { packets, frames } : { packets, samples, energy };
    }
  }
  return found;
}

// Runs in a page: the tiles that it shows.
function tiles() {
  return [...document.querySelectorAll('[data-testid=videoTile]')].map((tile) => ({
    name: tile.querySelector('[data-testid=name_tag]')?.textContent,
    muted: tile.querySelector('[data-muted]')?.dataset.muted === 'true',
    video: tile.dataset.videoEnabled === 'true',
  }));
}

export class Participant {
  #process;
  #browser;
  #page;
  log = [];

  /** Opens a browser with a client of a user, which can join the call of a room: in one of Element Call's modes, if not in the usual one. */
  static async open(executablePath, origin, user, room, mode) {
    const one = new Participant();
    one.user = user;
    one.name = user.name;
    const launched = await chromium.launchServer({ executablePath, args: ARGUMENTS });
    one.#process = launched.process();
    one.#browser = await chromium.connect(launched.wsEndpoint());
    const context = await one.#browser.newContext({
      permissions: ['camera', 'microphone'],
      // Anything lower hides the buttons.
      viewport: { width: 900, height: 680 },
    });
    await context.addInitScript(noteConnections);
    if (mode) await context.addInitScript((value) => localStorage.setItem('matrix-setting-matrix-rtc-mode', JSON.stringify(value)), mode);
    one.#page = await context.newPage();
    const note = (text) => one.log.push(`${new Date().toISOString()} ${text.slice(0, 300)}`);
    one.#page.on('console', (message) => note(message.text()));
    one.#page.on('pageerror', (error) => note(String(error)));
    one.#page.on('response', (answer) => {
      if (answer.status() >= 400) note(`${answer.status()} to ${answer.request().method()} ${answer.url()}`);
    });
    const settings = { base: user.server.base, room, token: user.token, user: user.id, device: user.device };
    await one.#page.goto(`${origin}/?${new URLSearchParams(settings)}`);
    await one.#isReady();
    return one;
  }

  /** Waits until others can encrypt for the client. */
  async #isReady() {
    await this.#page.waitForFunction(() => window.isReady, undefined, { timeout: 60_000 });
  }

  // Runs a function in Element Call. Answers nothing while there is no call, or its page is just coming or going.
  async #inCall(run) {
    const call = this.#page.frames().find((frame) => frame.url().includes('/element-call/'));
    return call?.evaluate(run).catch(() => undefined);
  }

  /** What was received and decoded of each track: { packets, frames } or { packets, samples, energy }. */
  async decoded() {
    return (await this.#inCall(decoded)) ?? {};
  }

  /** The tiles that are shown: whose, and whether they are muted and show video. */
  async tiles() {
    return (await this.#inCall(tiles)) ?? [];
  }

  /** How many keys for media came from others' devices, encrypted and in the clear. */
  keys() {
    return this.#page.evaluate(() => window.keys);
  }

  /** Who says to be in the call, as this user's client knows it: see the host page. */
  members() {
    return this.#page.evaluate(() => window.members());
  }

  /** Presses a button of the call: "mute", "videomute", "screenshare" or "leave". */
  async press(button) {
    const buttons = this.#page.frameLocator('iframe').getByTestId(`incall_${button}`);
    await buttons.filter({ visible: true }).first().click({ timeout: 15_000 });
  }

  /** Opens the call, also again after having left it: as soon as the one before has closed itself, some seconds after its user left. */
  async join() {
    await this.#page.waitForFunction(() => !window.isCallOpen(), undefined, { timeout: 60_000 });
    await this.#page.evaluate(() => window.openCall());
  }

  /** Loads the page anew, without leaving first, and joins again. */
  async reload() {
    await this.#page.reload();
    await this.#isReady();
    await this.join();
  }

  async screenshot(path) {
    await this.#page.screenshot({ path });
  }

  /** Ends the browser, with all its processes, from one moment to the next. */
  kill() {
    process.kill(-this.#process.pid, 'SIGKILL');
  }

  async close() {
    await this.#browser.close();
    if (this.#process.exitCode === null && this.#process.signalCode === null) this.kill();
  }
}
