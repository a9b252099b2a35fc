// livekit-client in headless Chromium in a call, which tells of what it sees in lines of JSON, as participant.py does. Leaves when its
// input ends.
//
// TOKEN=… node participant.mjs --url wss://… [--silent] [--encrypted]

import { createRequire } from 'node:module';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

const require = createRequire(new URL('../browser/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
    // Nothing is sent.
    silent: { type: 'boolean', default: false },
    encrypted: { type: 'boolean', default: false },
  },
});
// The machine's steady clock, in seconds.
const now = () => Number(process.hrtime.bigint()) / 1e9;
const tell = (what, figures = {}) => console.log(JSON.stringify({ at: now(), what, ...figures }));

// Pages on localhost may use cameras without TLS.
const library = new URL('../browser/node_modules/livekit-client/dist/', import.meta.url);
const scripts = new Map();
for (const name of ['livekit-client.umd.js', 'livekit-client.e2ee.worker.js']) {
  scripts.set(`/${name}`, await readFile(new URL(name, library)));
}
const served = createServer((request, response) => {
  const script = scripts.get(request.url);
  response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
  response.end(script ?? '<!doctype html><title>call</title><script src="/livekit-client.umd.js"></script>');
});
await new Promise((resolve) => served.listen(0, '127.0.0.1', resolve));

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    '--no-sandbox',
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
    '--autoplay-policy=no-user-gesture-required',
    '--disable-features=WebRtcHideLocalIpsWithMdns',
    // The authority of the test is nobody's.
    '--ignore-certificate-errors',
  ],
});
const page = await (await browser.newContext({ permissions: ['camera', 'microphone'] })).newPage();
page.on('console', (message) => console.error(message.text()));
page.on('pageerror', (error) => console.error(String(error)));
await page.goto(`http://127.0.0.1:${served.address().port}/`);
await page.exposeFunction('tell', tell);

tell('begins');
await page.evaluate(
  async ({ url, jwt, silent, encrypted }) => {
    const { LivekitClient: lk } = window;
    const settings = {
      publishDefaults: { simulcast: false, videoCodec: 'vp8' },
      videoCaptureDefaults: { resolution: lk.VideoPresets.h180.resolution },
    };
    if (encrypted) {
      const keyProvider = new lk.ExternalE2EEKeyProvider();
      // That of call.py.
      await keyProvider.setKey('the shared key of this test......');
      settings.encryption = { keyProvider, worker: new Worker('/livekit-client.e2ee.worker.js') };
    }
    const call = new lk.Room(settings);
    if (encrypted) await call.setE2EEEnabled(true);
    // Seconds: when the newest picture came, the longest gap since figures were told, and how long pictures stood still in all.
    const shown = { newest: undefined, longest: 0, still: 0 };
    Object.assign(window, { call, tracks: [], shown });
    const follow = (video) => {
      video.requestVideoFrameCallback((at) => {
        if (shown.newest !== undefined) {
          const gap = (at - shown.newest) / 1000;
          shown.longest = Math.max(shown.longest, gap);
          if (gap > 0.5) shown.still += gap;
        }
        shown.newest = at;
        follow(video);
      });
    };
    call.on(lk.RoomEvent.TrackSubscribed, (track) => {
      const element = track.attach();
      document.body.append(element);
      window.tracks.push(track);
      if (track.kind === 'video') follow(element);
    });
    await call.connect(url, jwt);
    window.tell('connected');
    if (!silent) await call.localParticipant.enableCameraAndMicrophone();
    window.tell('published');
  },
  { url: options.url, jwt: process.env.TOKEN, silent: options.silent, encrypted: options.encrypted },
);

// What has been decoded so far, and which way it came.
const seen = () =>
  page.evaluate(async () => {
    const figures = { pictures: 0, loud: 0, width: 0, samples: 0, concealed: 0, gap: 0, still: 0, remote: [], ways: [] };
    const { shown } = window;
    const present = shown.newest === undefined ? 0 : (performance.now() - shown.newest) / 1000;
    figures.gap = Math.max(shown.longest, present);
    figures.still = shown.still + (present > 0.5 ? present : 0);
    shown.longest = 0;
    for (const track of window.tracks) {
      const report = (await track.getRTCStatsReport()) ?? new Map();
      for (const stat of report.values()) {
        if (stat.type === 'inbound-rtp' && stat.kind === 'video') {
          figures.pictures += stat.framesDecoded ?? 0;
          figures.width = stat.frameWidth ?? 0;
        } else if (stat.type === 'inbound-rtp') {
          figures.samples += stat.totalSamplesReceived ?? 0;
          figures.concealed += stat.concealedSamples ?? 0;
        }
        if (stat.type === 'inbound-rtp' && stat.kind === 'audio' && stat.totalAudioEnergy > 0) {
          // In frames of 10 ms, as the native client has them.
          figures.loud += Math.floor((stat.totalSamplesReceived - stat.concealedSamples) / 480);
        }
      }
    }
    const manager = window.call.engine.pcManager;
    for (const transport of [manager.publisher, manager.subscriber]) {
      const report = (await transport?.getStats()) ?? new Map();
      for (const stat of report.values()) {
        if (stat.type === 'remote-candidate') figures.remote.push(`${stat.address} ${stat.port}/${stat.protocol}`);
        if (stat.type !== 'transport' || !stat.selectedCandidatePairId) continue;
        const local = report.get(report.get(stat.selectedCandidatePairId).localCandidateId);
        figures.ways.push(local.candidateType === 'relay' ? `relay over ${local.relayProtocol}` : local.protocol);
      }
    }
    return { ...figures, remote: [...new Set(figures.remote)].sort(), ways: [...new Set(figures.ways)].sort() };
  });

let ended = false;
process.stdin.on('end', () => (ended = true)).resume();
const told = new Set();
while (!ended) {
  const figures = await seen();
  for (const [what, came] of [['picture', figures.pictures > 0], ['sound', figures.loud > 0]]) {
    if (came && !told.has(what)) tell(what);
    if (came) told.add(what);
  }
  tell('figures', figures);
  await new Promise((resolve) => setTimeout(resolve, options.silent ? 250 : 100));
}
await page.evaluate(() => window.call.disconnect());
await browser.close();
served.close();
