// A Matrix client with nothing but one room, in which it opens Element Call as a widget. It encrypts as clients do.

import { ClientEvent, Direction, MatrixEventEvent, RoomStateEvent, createClient } from 'matrix-js-sdk';
import { ClientWidgetApi, OpenIDRequestState, Widget, WidgetDriver } from 'matrix-widget-api';

const { base, token, room: roomId, user, device } = Object.fromEntries(new URLSearchParams(location.search));
const client = createClient({ baseUrl: base, accessToken: token, userId: user, deviceId: device, useAuthorizationHeader: true });

/** What the call wants of Matrix, done by the client. */
class Driver extends WidgetDriver {
  // Nobody is there to be asked.
  async validateCapabilities(requested) {
    return requested;
  }

  async sendEvent(type, content, stateKey) {
    const sent =
      stateKey == null ? client.sendEvent(roomId, type, content) : client.sendStateEvent(roomId, type, content, stateKey);
    return { roomId, eventId: (await sent).event_id };
  }

  async sendStickyEvent(duration, type, content) {
    const { event_id: eventId } = await client._unstable_sendStickyEvent(roomId, duration, null, type, content);
    return { roomId, eventId };
  }

  async sendDelayedEvent(delay, type, content, stateKey) {
    const { delay_id: delayId } = await (stateKey == null
      ? client._unstable_sendDelayedEvent(roomId, { delay }, null, type, content)
      : client._unstable_sendDelayedStateEvent(roomId, { delay }, type, content, stateKey));
    return { roomId, delayId };
  }

  async sendDelayedStickyEvent(delay, duration, type, content) {
    const { delay_id: delayId } = await client._unstable_sendStickyDelayedEvent(
      roomId, duration, { delay }, null, type, content);
    return { roomId, delayId };
  }

  async cancelScheduledDelayedEvent(delayId) {
    await client._unstable_cancelScheduledDelayedEvent(delayId);
  }

  async restartScheduledDelayedEvent(delayId) {
    await client._unstable_restartScheduledDelayedEvent(delayId);
  }

  async sendScheduledDelayedEvent(delayId) {
    await client._unstable_sendScheduledDelayedEvent(delayId);
  }

  async sendToDevice(type, encrypted, messages) {
    if (!encrypted) throw new Error('Element Call sends its keys encrypted, or not at all');
    for (const [userId, byDevice] of Object.entries(messages)) {
      for (const [deviceId, content] of Object.entries(byDevice)) {
        await client.encryptAndSendToDevice(type, [{ userId, deviceId }], content);
      }
    }
  }

  async readRoomTimeline(_, type, msgtype, stateKey, limit) {
    const events = client.getRoom(roomId).getLiveTimeline().getEvents().toReversed();
    const wanted = events.filter(
      (event) =>
        event.getType() === type &&
        (msgtype === undefined || event.getContent().msgtype === msgtype) &&
        (stateKey === undefined || event.getStateKey() === stateKey),
    );
    return wanted.slice(0, limit || wanted.length).map((event) => event.getEffectiveEvent());
  }

  async readRoomState(_, type, stateKey) {
    const found = client.getRoom(roomId).currentState.getStateEvents(type, stateKey);
    return [found ?? []].flat().map((event) => event.getEffectiveEvent());
  }

  async readStickyEvents() {
    return [...client.getRoom(roomId)._unstable_getStickyEvents()].map((event) => event.getEffectiveEvent());
  }

  async readEventRelations(eventId, _, relation, type, from, to, limit, direction) {
    const dir = direction === 'f' ? Direction.Forward : Direction.Backward;
    const { events, nextBatch, prevBatch } = await client.relations(roomId, eventId, relation, type, { from, to, limit, dir });
    return { chunk: events.map((event) => event.getEffectiveEvent()), nextBatch, prevBatch };
  }

  askOpenID(observer) {
    client.getOpenIdToken().then(
      (openid) => observer.update({ state: OpenIDRequestState.Allowed, token: openid }),
      () => observer.update({ state: OpenIDRequestState.Blocked }),
    );
  }

  async getRtcTransports() {
    return { rtc_transports: await client._unstable_getRTCTransports() };
  }

  processError(error) {
    return error.asWidgetApiErrorData && { matrix_api_error: error.asWidgetApiErrorData() };
  }
}

/** How many keys for media came to this device, encrypted and otherwise. */
window.keys = { encrypted: 0, clear: 0 };
let api;

client.on(ClientEvent.ReceivedToDeviceMessage, ({ message, encryptionInfo }) => {
  if (message.type === 'io.element.call.encryption_keys') window.keys[encryptionInfo ? 'encrypted' : 'clear'] += 1;
  api?.feedToDevice(message, encryptionInfo !== null);
});
client.on(ClientEvent.Event, async (event) => {
  await client.decryptEventIfNeeded(event);
  if (!event.isDecryptionFailure()) api?.feedEvent(event.getEffectiveEvent());
});
client.on(MatrixEventEvent.Decrypted, (event) => {
  if (!event.isDecryptionFailure()) api?.feedEvent(event.getEffectiveEvent());
});
client.on(RoomStateEvent.Events, (event) => api?.feedStateUpdate(event.getEffectiveEvent()));

/** Who says to be in the call by sticky events, as Element Call's newest mode does. */
window.members = () => {
  const sticky = [...client.getRoom(roomId)._unstable_getStickyEvents()].map((event) => event.getEffectiveEvent());
  const members = sticky.filter(({ type, content }) => type === 'org.matrix.msc4143.rtc.member' && content.member);
  return members.map(({ sender, content }) => ({ user: sender, content }));
};

/** Whether there is a call, if only one that is about to close. */
window.isCallOpen = () => api !== undefined;

/** Opens the call, as who presses "Join" in a client does. It is gone again when its user leaves it. */
window.openCall = () => {
  const parameters = {
    widgetId: 'call',
    parentUrl: location.origin,
    userId: user,
    deviceId: device,
    roomId,
    baseUrl: base,
    perParticipantE2EE: 'true',
    intent: 'join_existing',
    skipLobby: 'true',
    confineToRoom: 'true',
    appPrompt: 'false',
    header: 'none',
    preload: 'false',
  };
  const url = `${location.origin}/element-call/index.html#?${new URLSearchParams(parameters)}`;
  const widget = new Widget({ id: 'call', creatorUserId: user, type: 'm.custom', url, waitForIframeLoad: false });
  const frame = document.createElement('iframe');
  frame.allow = 'camera; microphone; autoplay; display-capture';
  frame.style = 'border: 0; width: 100vw; height: 100vh';
  frame.src = url;
  document.body.append(frame);
  api = new ClientWidgetApi(widget, frame, new Driver());
  api.setViewedRoomId(roomId);
  // What is not of the widget API itself, its client has to answer.
  for (const action of ['io.element.join', 'io.element.device_mute', 'im.vector.hangup', 'set_always_on_screen']) {
    api.on(`action:${action}`, (event) => {
      event.preventDefault();
      api.transport.reply(event.detail, action === 'set_always_on_screen' ? { success: true } : {});
    });
  }
  api.on('action:io.element.close', (event) => {
    event.preventDefault();
    api.transport.reply(event.detail, {});
    api.stop();
    api = undefined;
    frame.remove();
  });
};

await client.initRustCrypto();
const prepared = new Promise((resolve) => {
  client.on(ClientEvent.Sync, (state) => state === 'PREPARED' && resolve());
});
await client.startClient();
await prepared;
window.isReady = true;
