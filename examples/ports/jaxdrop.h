/* The masks of jaxdrop.key(seed) in C99, entry by entry, on any machine, without JAX.
 *
 *     jaxdrop_key key = jaxdrop_step_key(jaxdrop_key_of(seed), step);
 *     jaxdrop_words words = jaxdrop_spread(key, 0);
 *     kept = jaxdrop_keeps(words, i, 0.1);                 // the entry of row-major index i
 *
 * Copy this file. docs/randomness.md explains the generator; tests/test_ports.py holds this file
 * against jaxdrop, bit for bit. License: Apache-2.0.
 */
#ifndef JAXDROP_H
#define JAXDROP_H

#include <math.h>
#include <stdint.h>

typedef struct { uint32_t a, b; } jaxdrop_key;
typedef struct { uint32_t first, second; } jaxdrop_words;

/* jaxdrop.key(seed), for seeds of 32 bits (JAX reads no more, unless jax_enable_x64 is set). */
static inline jaxdrop_key jaxdrop_key_of(uint32_t seed) { return (jaxdrop_key){0, seed}; }

static inline uint32_t jaxdrop_rotate(uint32_t x, int r) { return x << r | x >> (32 - r); }

/* Threefry-2x32 with 20 rounds, from which JAX derives keys. */
static inline jaxdrop_key jaxdrop_threefry(jaxdrop_key key, uint32_t high, uint32_t low) {
  static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t schedule[3] = {key.a, key.b, key.a ^ key.b ^ 0x1BD11BDAu};
  uint32_t a = high + schedule[0], b = low + schedule[1];
  for (uint32_t block = 0; block < 5; block++) {
    for (int i = 0; i < 4; i++) {
      a += b;
      b = a ^ jaxdrop_rotate(b, rotations[block % 2][i]);
    }
    a += schedule[(block + 1) % 3];
    b += schedule[(block + 2) % 3] + block + 1;
  }
  return (jaxdrop_key){a, b};
}

/* jax.random.fold_in(key, number). jax.random.split(key, n)[i] is the same as fold_in(key, i). */
static inline jaxdrop_key jaxdrop_fold_in(jaxdrop_key key, uint32_t number) {
  return jaxdrop_threefry(key, 0, number);
}

/* jaxdrop.step_key(key, step): the letters "step" are folded in, then the number. */
static inline jaxdrop_key jaxdrop_step_key(jaxdrop_key key, uint32_t step) {
  return jaxdrop_fold_in(jaxdrop_fold_in(key, 0x73746570u), step);
}

/* Two words from those of a key, which may be as plain as (0, 1): three Feistel rounds. Lane 0 is
 * for the bits of an array. */
static inline jaxdrop_words jaxdrop_spread(jaxdrop_key key, uint32_t lane) {
  uint32_t left = key.a, right = key.b;
  for (uint32_t round = 1; round <= 3; round++) {
    uint32_t x = (right ^ right >> 17) * 0xED5AD4BBu;
    x = (x ^ x >> 11) * 0xAC4C1B51u + (3 * lane + round) * 0x9E3779B9u;
    x = (x ^ x >> 15) * 0x31848BABu;
    x = left ^ x ^ x >> 14;
    left = right;
    right = x;
  }
  return (jaxdrop_words){left, right};
}

/* The first product of the hash, which is fed forward to its result. */
static inline uint32_t jaxdrop_fed(jaxdrop_words words, uint64_t position) {
  const uint32_t x = (uint32_t)position ^ words.first ^ (uint32_t)(position >> 32) * 0x9E3779B1u;
  return (x ^ x >> 17) * 0xED5AD4BBu;
}

/* jaxdrop.random.bits(key, shape) at the entry of row-major index `position`. */
static inline uint32_t jaxdrop_bits(jaxdrop_words words, uint64_t position) {
  const uint32_t high = (uint32_t)(position >> 32);
  const uint32_t first = words.first ^ high * 0x9E3779B1u;
  const uint32_t second = words.second + high * 0x85EBCA77u;
  const uint32_t fed = jaxdrop_fed(words, position);
  uint32_t x = (fed ^ fed >> 11 ^ first) * 0xAC4C1B51u + second;
  x = (x ^ x >> 15) * 0x31848BABu;
  return (x ^ x >> 14) + fed;
}

/* How many of 2^23 equally likely values a mask of this rate keeps. */
static inline uint32_t jaxdrop_threshold(double rate) {
  return (uint32_t)ceil((double)(float)(1.0 - rate) * 8388608.0);
}

/* Whether jaxdrop.dropout(key, x, rate) keeps the entry. Kept ones are divided by 1 - rate, or by
 * threshold / 2^23 at rates above 15/16. */
static inline int jaxdrop_keeps(jaxdrop_words words, uint64_t position, double rate) {
  return jaxdrop_bits(words, position) >> 9 < jaxdrop_threshold(rate);
}

#endif
