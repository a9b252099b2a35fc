// Talks with matrix-nio in an encrypted room, with matrix-js-sdk. Arguments: the server's URL, the other's user id.
//
// The account is `jess`. Joins the room to which it is invited, waits for "bonjour", and answers "salut".

import assert from "node:assert/strict";
import { ClientEvent, createClient, EventType, KnownMembership, MatrixEventEvent, MsgType, RoomEvent } from "matrix-js-sdk";

// The library takes this for granted; Node.js has it from version 22 on.
Promise.withResolvers ??= function withResolvers() {
    let resolve, reject;
    const promise = new Promise((...functions) => ([resolve, reject] = functions));
    return { promise, resolve, reject };
};

const [baseUrl, other] = process.argv.slice(2);
const patience = 90_000;
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error: console.error, getChild: () => quiet };

const login = await createClient({ baseUrl, logger: quiet }).loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: "jess" },
    password: "correct horse battery staple",
    initial_device_display_name: "browser",
});
const client = createClient({
    baseUrl,
    accessToken: login.access_token,
    userId: login.user_id,
    deviceId: login.device_id,
    logger: quiet,
});
await client.initRustCrypto({ useIndexedDB: false });

const heard = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("never heard bonjour")), patience).unref();
    const listen = (event) => {
        if (event.getSender() === other && event.getContent().body === "bonjour") {
            resolve(event);
        }
    };
    client.on(RoomEvent.Timeline, listen);
    client.on(MatrixEventEvent.Decrypted, listen);
});
// An invite that is there from the start is told by the room alone.
const accept = (room) => {
    if (room.getMyMembership() === KnownMembership.Invite) {
        client.joinRoom(room.roomId).catch((error) => console.error(error));
    }
};
client.on(ClientEvent.Room, accept);
client.on(RoomEvent.MyMembership, accept);
await client.startClient({ initialSyncLimit: 10, lazyLoadMembers: true });
await new Promise((resolve) => client.once(ClientEvent.Sync, resolve));

const bonjour = await heard;
assert.ok(bonjour.isEncrypted());
assert.equal(bonjour.isDecryptionFailure(), false);
const roomId = bonjour.getRoomId();
assert.ok(await client.getCrypto().isEncryptionEnabledInRoom(roomId));
await client.sendEvent(roomId, EventType.RoomMessage, { msgtype: MsgType.Text, body: "salut" });
client.stopClient();
process.exit(0);
