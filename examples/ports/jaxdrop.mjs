/* The masks of jaxdrop.key(seed) in JavaScript, entry by entry, in a browser or elsewhere.
 *
 *     import { dropoutKey, stepKey, spread, keeps } from "./jaxdrop.mjs";
 *     const words = spread(stepKey(dropoutKey(seed), step));
 *     const kept = keeps(words, i, 0.1);               // the entry of row-major index i
 *
 * Copy this file. docs/randomness.md explains the generator; tests/test_ports.py holds this file
 * against jaxdrop, bit for bit. License: Apache-2.0.
 */

const { imul, fround, ceil } = Math;

/** jaxdrop.key(seed), for seeds of 32 bits (JAX reads no more, unless jax_enable_x64 is set). */
export const dropoutKey = (seed) => [0, seed >>> 0];

/** jax.random.fold_in(key, number), by Threefry-2x32 with 20 rounds.
 *  jax.random.split(key, n)[i] is the same as fold_in(key, i). */
export function foldIn([k0, k1], number) {
  const rotations = [[13, 15, 26, 6], [17, 29, 16, 24]];
  const schedule = [k0, k1, k0 ^ k1 ^ 0x1bd11bda];
  let a = schedule[0] | 0;
  let b = (number + schedule[1]) | 0;
  for (let block = 0; block < 5; block++) {
    for (const r of rotations[block % 2]) {
      a = (a + b) | 0;
      b = a ^ ((b << r) | (b >>> (32 - r)));
    }
    a = (a + schedule[(block + 1) % 3]) | 0;
    b = (b + schedule[(block + 2) % 3] + block + 1) | 0;
  }
  return [a >>> 0, b >>> 0];
}

/** jaxdrop.step_key(key, step): the letters "step" are folded in, then the number. */
export const stepKey = (key, step) => foldIn(foldIn(key, 0x73746570), step);

/** Two words from those of a key, which may be as plain as (0, 1): three Feistel rounds. */
export function spread([left, right]) {
  for (let round = 1; round <= 3; round++) {
    let x = imul(right ^ (right >>> 17), 0xed5ad4bb);
    x = (imul(x ^ (x >>> 11), 0xac4c1b51) + imul(round, 0x9e3779b9)) | 0;
    x = imul(x ^ (x >>> 15), 0x31848bab);
    [left, right] = [right, left ^ x ^ (x >>> 14)];
  }
  return [left >>> 0, right >>> 0];
}

/** jaxdrop.random.bits(key, shape) at the entry of row-major index `position`, below 2^53. */
export function bits([first, second], position) {
  const high = Math.floor(position / 2 ** 32);
  first ^= imul(high, 0x9e3779b1);
  second = (second + imul(high, 0x85ebca77)) | 0;
  let x = (position >>> 0) ^ first;
  const fed = imul(x ^ (x >>> 17), 0xed5ad4bb);
  x = (imul(fed ^ (fed >>> 11) ^ first, 0xac4c1b51) + second) | 0;
  x = imul(x ^ (x >>> 15), 0x31848bab);
  return ((x ^ (x >>> 14)) + fed) >>> 0;
}

/** How many of 2^23 equally likely values a mask of this rate keeps. */
export const threshold = (rate) => ceil(fround(1 - rate) * 2 ** 23);

/** Whether jaxdrop.dropout(key, x, rate) keeps the entry. Kept ones are divided by 1 - rate, or by
 * threshold / 2^23 at rates above 15/16. */
export const keeps = (words, position, rate) => bits(words, position) >>> 9 < threshold(rate);
