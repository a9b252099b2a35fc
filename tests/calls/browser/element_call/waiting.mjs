// Waiting for what has to come about.

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/**
 * Asks again and again until nothing is missing, and answers how many seconds that took. `missing` answers what is still missing, in
 * words, or nothing; for `limit` seconds something may be.
 */
export async function until(what, limit, missing) {
  const began = performance.now();
  for (;;) {
    const problem = await missing();
    const seconds = (performance.now() - began) / 1000;
    if (!problem) return Math.round(seconds * 10) / 10;
    if (seconds > limit) throw new Error(`${what}: after ${limit} s ${problem}`);
    await pause(250);
  }
}
