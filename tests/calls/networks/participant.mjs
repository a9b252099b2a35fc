// livekit-client in headless Chromium in a call, which tells of what it sees in lines of JSON, as participant.py does. Leaves when its
// input ends.
//
// TOKEN=… node participant.mjs --url wss://…

import { createRequire } from 'node:module';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

const require = createRequire(new URL('../browser/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const { values: options } = parseArgs({
  options: { url: { type: 'string' }, chromium: { type: 'string', default: '/usr/bin/chromium' } },
});
// The machine's steady clock, in seconds.
const now = () => Number(process.hrtime.bigint()) / 1e9;
const tell = (what, figures = {}) => console.log(JSON.stringify({ at: now(), what, ...figures }));

// Pages on localhost may use cameras without TLS.
const script = await readFile(new URL('../browser/node_modules/livekit-client/dist/livekit-client.umd.js', import.meta.url));
const served = createServer((request, response) => {
  const isPage = request.url === '/';
  response.setHeader('content-type', isPage ? 'text/html' : 'text/javascript');
  response.end(isPage ? '<!doctype html><title>call</title><script src="/livekit-client.js"></script>' : script);
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
  async ({ url, jwt }) => {
    const { LivekitClient: lk } = window;
    const call = new lk.Room({
      publishDefaults: { simulcast: false, videoCodec: 'vp8' },
      videoCaptureDefaults: { resolution: lk.VideoPresets.h180.resolution },
    });
    Object.assign(window, { call, tracks: [] });
    call.on(lk.RoomEvent.TrackSubscribed, (track) => {
      document.body.append(track.attach());
      window.tracks.push(track);
    });
    await call.connect(url, jwt);
    window.tell('connected');
    await call.localParticipant.enableCameraAndMicrophone();
    window.tell('published');
  },
  { url: options.url, jwt: process.env.TOKEN },
);

// What has been decoded so far, and which way it came.
const seen = () =>
  page.evaluate(async () => {
    const figures = { pictures: 0, loud: 0, width: 0, remote: [], ways: [] };
    for (const track of window.tracks) {
      const report = (await track.getRTCStatsReport()) ?? new Map();
      for (const stat of report.values()) {
        if (stat.type === 'inbound-rtp' && stat.kind === 'video') {
          figures.pictures += stat.framesDecoded ?? 0;
          figures.width = stat.frameWidth ?? 0;
        } else if (stat.type === 'inbound-rtp' && stat.totalAudioEnergy > 0) {
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
  await new Promise((resolve) => setTimeout(resolve, 100));
}
await page.evaluate(() => window.call.disconnect());
await browser.close();
served.close();
