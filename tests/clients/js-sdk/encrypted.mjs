// Talks with matrix-nio in an encrypted room, with matrix-js-sdk. Arguments: the server's URL, the other's user id.
//
// The account is `jess`. Joins the room to which it is invited, waits for "bonjour", and answers "salut".

import assert from "node:assert/strict";
import { ClientEvent, createClient, EventType, KnownMembership, MatrixEventEvent, MsgType, RoomEvent, RoomMemberEvent } from "matrix-js-sdk";

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
client.on(RoomMemberEvent.Membership, (event, member) => {
    if (member.userId === login.user_id && member.membership === KnownMembership.Invite) {
        client.joinRoom(member.roomId).catch((error) => console.error(error));
    }
});
await client.startClient({ initialSyncLimit: 10, lazyLoadMembers: true });
await new Promise((resolve) => client.once(ClientEvent.Sync, resolve));

const bonjour = await heard;
assert.ok(bonjour.isEncrypted());
assert.equal(bonjour.isDecryptionFailure(), false);
const roomId = bonjour.getRoomId();
assert.ok(await client.getCrypto().isEncryptionEnabledInRoom(roomId));
await client.sendEvent(roomId, EventType.RoomMessage, { msgtype: MsgType.Text, body: "salut" });
client.stopClient();
