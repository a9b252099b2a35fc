// What happens in calls, one after the other. Each answers how many seconds that took until everyone knew.

const round = (since) => Math.round((performance.now() - since) / 100) / 10;

/** Whoever came is seen and heard by everyone, encrypted. */
export async function everyoneJoins(call) {
  const seconds = await call.everyoneDecodes(120);
  await call.onlyTheseAreIn();
  await call.checkKeys();
  return seconds;
}

export async function mutes(call, participant) {
  await participant.press('mute');
  const muted = await call.othersSee('is muted', 15, participant, (tile) => tile.muted);
  await participant.press('mute');
  const unmuted = await call.othersSee('is unmuted', 15, participant, (tile) => !tile.muted);
  await call.everyoneDecodes(30, { only: [participant], sources: ['MICROPHONE'] });
  return { muted, unmuted };
}

export async function turnsCameraOff(call, participant) {
  await participant.press('videomute');
  const off = await call.othersSee('has no camera', 15, participant, (tile) => !tile.video);
  await participant.press('videomute');
  const on = await call.othersSee('has a camera', 30, participant, (tile) => tile.video);
  await call.everyoneDecodes(30, { only: [participant], sources: ['CAMERA'] });
  return { off, on };
}

export async function sharesScreen(call, participant) {
  await participant.press('screenshare');
  const shared = await call.everyoneDecodes(60, { only: [participant], sources: ['SCREEN_SHARE'] });
  await participant.press('screenshare');
  await call.everyoneDecodes(30);
  const left = (await call.published()).filter(({ source }) => source === 'SCREEN_SHARE');
  if (left.length > 0) throw new Error(`the screen of ${participant.name} is still published`);
  return shared;
}

export async function leavesAndComesBack(call, participant) {
  await participant.press('leave');
  const gone = await call.isGone(15, participant);
  await participant.join();
  const back = await call.everyoneDecodes(90);
  await call.onlyTheseAreIn();
  return { gone, back };
}

export async function reloads(call, participant) {
  await participant.reload();
  const seconds = await call.everyoneDecodes(90);
  await call.onlyTheseAreIn();
  return seconds;
}

/**
 * A server is killed and started again: media flows again some nine seconds from when it serves. Most of that is the clients' own waiting, which
 * grows to seven seconds; a busy machine gets thirty in all.
 */
export async function serverIsKilled(call, server) {
  await server.kill();
  const killed = performance.now();
  await server.restart();
  const started = round(killed);
  const served = performance.now();
  await call.everyoneDecodes(30);
  const flows = round(served);
  await call.onlyTheseAreIn();
  return { started, flows };
}

/** A browser is killed: within 15 seconds, or those that the SFU needs to notice it, nothing is left of its user. */
export async function browserIsKilled(call, participant, limit = 15) {
  participant.kill();
  const seconds = await call.isGone(limit, participant);
  call.participants = call.participants.filter((other) => other !== participant);
  await call.everyoneDecodes(30);
  await call.onlyTheseAreIn();
  return seconds;
}
