// Two pages in headless Chromium hold a call through the bridge with livekit-client: pictures and sound both ways, end-to-end encrypted,
// with layers that follow the size at which a video is shown, through cut signalling.
//
// node call.mjs --url ws://127.0.0.1:7880 --key devkey --secret … [--dual] [--mixed] [--plain]
// With --dual both have two peer connections, with --mixed only Bob has.
// Prints one JSON object; exits with 1 if something is not as it should be.

import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { chromium } from 'playwright-core';

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', default: 'ws://127.0.0.1:7880' },
    key: { type: 'string', default: 'devkey' },
    secret: { type: 'string', default: 'a secret of this test, long enough' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
    dual: { type: 'boolean', default: false },
    mixed: { type: 'boolean', default: false },
    plain: { type: 'boolean', default: false },
  },
});
const room = `browser-${Date.now()}`;

function token(identity) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { iss: options.key, sub: identity, nbf: now - 5, exp: now + 600, video: { room, roomJoin: true } };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${signed}.${createHmac('sha256', options.secret).update(signed).digest('base64url')}`;
}

// Pages on localhost may use cameras and workers without TLS.
const files = new URL('node_modules/livekit-client/dist/', import.meta.url);
const served = createServer(async (request, response) => {
  const name = request.url.slice(1).split('?')[0];
  if (name === '') {
    response.setHeader('content-type', 'text/html');
    response.end('<!doctype html><title>call</title><body></body><script src="/livekit-client.umd.js"></script>');
    return;
  }
  try {
    const type = name.endsWith('.wasm') ? 'application/wasm' : 'text/javascript';
    response.setHeader('content-type', type);
    response.end(await readFile(fileURLToPath(new URL(name.replaceAll('/', ''), files))));
  } catch {
    response.statusCode = 404;
    response.end();
  }
});
await new Promise((resolve) => served.listen(0, 'localhost', resolve));
const origin = `http://localhost:${served.address().port}`;

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    '--no-sandbox',
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
    '--autoplay-policy=no-user-gesture-required',
    '--disable-features=WebRtcHideLocalIpsWithMdns',
  ],
});

async function open(identity) {
  const dual = options.dual || (options.mixed && identity === 'bob');
  const page = await (await browser.newContext({ permissions: ['camera', 'microphone'] })).newPage();
  const log = [];
  page.on('console', (message) => log.push(`${identity}: ${message.text()}`));
  page.on('pageerror', (error) => log.push(`${identity}: ${error}`));
  await page.goto(origin);
  await page.evaluate(
    async ({ url, jwt, dual, plain }) => {
      const { LivekitClient: lk } = window;
      const settings = {
        adaptiveStream: true,
        dynacast: true,
        singlePeerConnection: !dual,
        publishDefaults: { simulcast: true, videoCodec: 'vp8', red: false },
        videoCaptureDefaults: { resolution: lk.VideoPresets.h360.resolution },
      };
      if (!plain) {
        const keyProvider = new lk.ExternalE2EEKeyProvider();
        await keyProvider.setKey('the key of this test');
        settings.encryption = { keyProvider, worker: new Worker('/livekit-client.e2ee.worker.js') };
      }
      const call = new lk.Room(settings);
      if (!plain) await call.setE2EEEnabled(true);
      Object.assign(window, { call, events: [] });
      for (const name of ['Reconnecting', 'Reconnected', 'SignalReconnecting', 'Disconnected', 'EncryptionError']) {
        call.on(lk.RoomEvent[name], () => window.events.push(name));
      }
      call.on(lk.RoomEvent.TrackSubscribed, (track) => {
        const element = track.attach();
        if (track.kind === 'video') {
          Object.assign(element.style, { width: '640px', height: '360px' });
          // What is not in view is not sent.
          window.video?.remove();
          window.video = element;
          window.videoTrack = track;
        } else {
          window.audioTrack = track;
        }
        document.body.append(element);
      });
      await call.connect(url, jwt);
      await call.localParticipant.enableCameraAndMicrophone();
    },
    { url: options.url, jwt: token(identity), dual, plain: options.plain },
  );
  return { page, log, identity };
}

// What has been decoded so far.
const seen = ({ page }) =>
  page.evaluate(async () => {
    const figures = { frames: 0, width: 0, samples: 0, energy: 0 };
    for (const track of [window.videoTrack, window.audioTrack]) {
      const report = (await track?.getRTCStatsReport()) ?? new Map();
      for (const stat of report.values()) {
        if (stat.type !== 'inbound-rtp') continue;
        if (stat.kind === 'video') {
          figures.frames += stat.framesDecoded ?? 0;
          figures.width = stat.frameWidth ?? 0;
        } else {
          figures.energy += stat.totalAudioEnergy ?? 0;
        }
      }
    }
    return figures;
  });

async function until(what, seconds, condition) {
  const began = Date.now();
  while (Date.now() - began < seconds * 1000) {
    if (await condition()) return (Date.now() - began) / 1000;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${what}: not within ${seconds} s`);
}

// Pictures and sound that come in from now on.
async function flows(who, what) {
  let before = await seen(who);
  await until(`${what}: media for ${who.identity}`, 20, async () => {
    const now = await seen(who);
    // Another track than before counts anew.
    if (now.frames < before.frames) before = now;
    return now.frames > before.frames + 20 && now.energy > before.energy;
  });
}

const both = (pages, what) => Promise.all(pages.map((who) => flows(who, what)));
const has = (who, event) => who.page.evaluate((name) => window.events.includes(name), event);

// How many encodings a camera sends.
const encodings = ({ page }) =>
  page.evaluate(() => {
    const [publication] = window.call.localParticipant.videoTrackPublications.values();
    return publication.track.sender.getParameters().encodings.filter((encoding) => encoding.active).length;
  });

const show = ({ page }, width) =>
  page.evaluate((pixels) => {
    Object.assign(window.video.style, { width: `${pixels}px`, height: `${(pixels * 9) / 16}px` });
  }, width);

// What a camera sends, for whoever looks into a failure.
const sent = ({ page }) =>
  page.evaluate(async () => {
    const [publication] = window.call.localParticipant.videoTrackPublications.values();
    const report = await publication.track.sender.getStats();
    return [...report.values()]
      .filter((stat) => stat.type === 'outbound-rtp')
      .map(({ rid, active, frameWidth, framesPerSecond, qualityLimitationReason, targetBitrate }) => ({
        rid,
        active,
        frameWidth,
        framesPerSecond,
        qualityLimitationReason,
        targetBitrate,
      }));
  });

const result = { dual: options.dual, mixed: options.mixed, encrypted: !options.plain };
const pages = [];
try {
  for (const identity of ['alice', 'bob']) pages.push(await open(identity));
  const [alice, bob] = pages;
  await both(pages, 'at the beginning');
  result.large_after = await until('the large layer', 30, async () => (await seen(bob)).width === 640);

  await show(bob, 160);
  result.small_after = await until('a small layer', 20, async () => (await seen(bob)).width <= 320);
  result.encodings_when_small = await encodings(alice);
  result.fewer_encodings_after = await until('fewer encodings', 20, async () => (await encodings(alice)) === 1);
  await show(bob, 640);
  result.large_again_after = await until('the large layer again', 30, async () => (await seen(bob)).width === 640);

  for (const [scenario, who] of [
    ['signal-reconnect', alice],
    ['signal-reconnect', bob],
    ['full-reconnect', bob],
  ]) {
    await who.page.evaluate(async (name) => {
      window.events.length = 0;
      await window.call.simulateScenario(name);
    }, scenario);
    const back = scenario === 'signal-reconnect' ? 'SignalReconnecting' : 'Reconnected';
    await until(`${scenario} of ${who.identity}`, 20, () => has(who, back));
    await until('connected', 20, () => who.page.evaluate(() => window.call.state === 'connected'));
    await both(pages, `after ${scenario} of ${who.identity}`);
  }
  for (const who of pages) {
    if (await has(who, 'EncryptionError')) throw new Error(`${who.identity} could not decrypt`);
  }
  await alice.page.evaluate(() => window.call.disconnect());
  await until('leaving', 5, () => bob.page.evaluate(() => window.call.remoteParticipants.size === 0));
  console.log(JSON.stringify(result));
} catch (error) {
  console.log(JSON.stringify({ ...result, problem: String(error) }));
  for (const who of pages) {
    console.error(who.log.slice(-60).join('\n'));
    console.error(JSON.stringify({ sent: await sent(who), seen: await seen(who) }));
  }
  process.exitCode = 1;
} finally {
  await browser.close();
  served.close();
}
