// Registers, logs in, renews tokens and ends sessions with matrix-js-sdk. Arguments: the server's URL, a registration token.

import assert from "node:assert/strict";
import { AutoDiscovery, createClient, MatrixError } from "matrix-js-sdk";

const [baseUrl, registrationToken] = process.argv.slice(2);
const password = "correct horse battery staple";
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error: console.error, getChild: () => quiet };

function client(options = {}) {
    return createClient({ baseUrl, logger: quiet, ...options });
}

async function refusal(promise) {
    try {
        await promise;
    } catch (error) {
        assert.ok(error instanceof MatrixError, `${error}`);
        return error;
    }
    assert.fail("should have been refused");
}

// The server is one that this client accepts.
const versions = await client().getVersions();
assert.ok(versions.versions.includes("v1.11"));
const { ["m.homeserver"]: homeserver } = await AutoDiscovery.fromDiscoveryConfig({ "m.homeserver": { base_url: baseUrl } });
assert.equal(homeserver.state, "SUCCESS", homeserver.error);

// Registering takes a token: first the server says so.
const anonymous = client();
const proofWanted = await refusal(anonymous.registerRequest({ username: "jess", password }));
assert.equal(proofWanted.httpStatus, 401);
assert.deepEqual(proofWanted.data.flows, [{ stages: ["m.login.registration_token", "m.login.dummy"] }]);
const authSession = proofWanted.data.session;
const auth = (stage) => ({ username: "jess", password, refresh_token: true, auth: { ...stage, session: authSession } });
const wrongToken = await refusal(anonymous.registerRequest(auth({ type: "m.login.registration_token", token: "wrong" })));
assert.deepEqual(wrongToken.data.completed ?? [], []);
const halfDone = await refusal(
    anonymous.registerRequest(auth({ type: "m.login.registration_token", token: registrationToken })),
);
assert.deepEqual(halfDone.data.completed, ["m.login.registration_token"]);
const registered = await anonymous.registerRequest(auth({ type: "m.login.dummy" }));
assert.equal(registered.user_id, "@jess:localhost:8008");
assert.ok(registered.refresh_token && registered.expires_in_ms > 0);

// An access token that does not live long ends softly, and is renewed.
const login = await client().loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: "jess" },
    password,
    refresh_token: true,
    initial_device_display_name: "browser",
});
const session = client({ accessToken: login.access_token, userId: login.user_id, deviceId: login.device_id });
assert.equal((await session.whoami()).device_id, login.device_id);
await new Promise((resolve) => setTimeout(resolve, login.expires_in_ms + 100));
const expired = await refusal(session.whoami());
assert.equal(expired.errcode, "M_UNKNOWN_TOKEN");
assert.equal(expired.data.soft_logout, true);
const renewed = await anonymous.refreshToken(login.refresh_token);
assert.notEqual(renewed.access_token, login.access_token);
session.setAccessToken(renewed.access_token);
assert.equal((await session.whoami()).device_id, login.device_id);

// The tokens before the renewal are worth nothing.
assert.equal((await refusal(client({ accessToken: login.access_token }).whoami())).errcode, "M_UNKNOWN_TOKEN");
assert.equal((await refusal(anonymous.refreshToken(login.refresh_token))).errcode, "M_UNKNOWN_TOKEN");

// Account data, profile, filters.
const filter = await session.createFilter({ room: { timeline: { limit: 7 } } });
assert.equal((await session.getFilter(login.user_id, filter.filterId, false)).getDefinition().room.timeline.limit, 7);
await session.setAccountDataRaw("org.example.settings", { theme: "dark" });
assert.deepEqual(await session.getAccountDataFromServer("org.example.settings"), { theme: "dark" });
await session.setDisplayName("Jess");
assert.equal((await anonymous.getProfileInfo(login.user_id)).displayname, "Jess");
assert.ok((await session.getOpenIdToken()).access_token);

// Logging out ends the session, and its refresh token with it.
await session.logout(true);
assert.equal((await refusal(session.whoami())).errcode, "M_UNKNOWN_TOKEN");
assert.equal((await refusal(anonymous.refreshToken(renewed.refresh_token))).errcode, "M_UNKNOWN_TOKEN");

// All sessions at once.
const lasting = await client().loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: "jess" },
    password,
});
assert.equal(lasting.expires_in_ms, undefined, "without a refresh token it has no end");
const first = client({ accessToken: lasting.access_token });
await first.http.authedRequest("POST", "/logout/all");
assert.equal((await refusal(first.whoami())).errcode, "M_UNKNOWN_TOKEN");
process.exit(0);
