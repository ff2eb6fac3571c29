/* The words of jaxdrop's generator in the orders in which dropout uses it, for batteries of tests.
 *
 * An order is a sequence of words, in blocks of 2^16, each of which is a function of its number: a
 * test may begin anywhere. scripts/check_random.py holds each order against jaxdrop.random.bits.
 */
#ifndef ORDERS_H
#define ORDERS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../examples/ports/jaxdrop.h"
#include "peers.h"

enum { BLOCK = 1 << 16, SITE = 4096, FOLDED = 8192, ROW = 768 };

static jaxdrop_key root;
static uint32_t seed_number;

static jaxdrop_words fresh(uint64_t number) {
  return jaxdrop_spread(jaxdrop_fold_in(root, (uint32_t)number), 0);
}

/* `count` entries from `position` on, which lie under one high word. */
static void entries(jaxdrop_words words, uint64_t position, int count, uint32_t *out) {
  for (int i = 0; i < count; i++) out[i] = jaxdrop_bits(words, position + (uint32_t)i);
}

/* One long stream, past 2^32 entries. */
static void stream(uint64_t block, uint32_t *out) {
  entries(jaxdrop_spread(root, 0), block * BLOCK, BLOCK, out);
}

/* A fresh derived key every 4096 entries. */
static void short_keys(uint64_t block, uint32_t *out) {
  for (int site = 0; site < BLOCK / SITE; site++)
    entries(fresh(block * (BLOCK / SITE) + site), 0, SITE, out + site * SITE);
}

/* Entry by entry over many keys, whose words stand in a table. */
static void interleaved(const uint32_t *first, const uint32_t *second, int keys, uint64_t position,
                        uint32_t *out) {
  for (int i = 0; i < keys; i++)
    out[i] = jaxdrop_bits((jaxdrop_words){first[i], second[i]}, position);
}

/* Entry by entry over the keys fold_in(key, 0), ..., fold_in(key, 8191). */
static void fold_in(uint64_t block, uint32_t *out) {
  static uint32_t first[FOLDED], second[FOLDED], ready;
  for (; ready < FOLDED; ready++) {
    const jaxdrop_words words = fresh(ready);
    first[ready] = words.first, second[ready] = words.second;
  }
  for (int i = 0; i < BLOCK / FOLDED; i++)
    interleaved(first, second, FOLDED, block * (BLOCK / FOLDED) + i, out + i * FOLDED);
}

/* Entry by entry over the seeds 0, ..., 65535. */
static void seeds(uint64_t block, uint32_t *out) {
  static uint32_t first[BLOCK], second[BLOCK], ready;
  for (; ready < BLOCK; ready++) {
    const jaxdrop_words words = jaxdrop_spread(jaxdrop_key_of(seed_number * BLOCK + ready), 0);
    first[ready] = words.first, second[ready] = words.second;
  }
  interleaved(first, second, BLOCK, block, out);
}

/* Down the columns of arrays of 65536 x 65536, a key for each array. */
static void transposed(uint64_t block, uint32_t *out) {
  const jaxdrop_words words = fresh(block >> 16);
  for (uint32_t row = 0; row < BLOCK; row++) out[row] = jaxdrop_bits(words, row << 16 | (block & 65535));
}

/* Rows of 768 entries, each of the key of a training step. */
static void rows(uint64_t block, uint32_t *out) {
  for (uint64_t word = block * BLOCK, end = word + BLOCK; word < end;) {
    const uint64_t step = word / ROW, column = word % ROW;
    const uint64_t count = ROW - column < end - word ? ROW - column : end - word;
    entries(jaxdrop_spread(jaxdrop_step_key(root, (uint32_t)step), 0), column, (int)count, out);
    word += count, out += count;
  }
}

/* The low (or high) 8 of each entry's 32 bits, as bytes. */
static void eight_bits(uint64_t block, int shift, uint32_t *out) {
  const jaxdrop_words words = jaxdrop_spread(root, 0);
  uint8_t *bytes = (uint8_t *)out;
  for (uint32_t i = 0; i < 4 * BLOCK; i++)
    bytes[i] = (uint8_t)(jaxdrop_bits(words, block * 4 * BLOCK + i) >> shift);
}

static void low_bits(uint64_t block, uint32_t *out) { eight_bits(block, 0, out); }
static void high_bits(uint64_t block, uint32_t *out) { eight_bits(block, 24, out); }

/* The keep masks of rate 0.5 of sites of 4096 entries, a key for each, an entry a bit. */
static void masks(uint64_t block, uint32_t *out) {
  const uint32_t threshold = jaxdrop_threshold(0.5);
  for (int site = 0; site < 32 * BLOCK / SITE; site++) {
    uint32_t bits[SITE];
    entries(fresh(block * (32 * BLOCK / SITE) + site), 0, SITE, bits);
    for (int i = 0; i < SITE / 32; i++, out++) {
      *out = 0;
      for (int bit = 0; bit < 32; bit++)
        *out |= (uint32_t)(bits[32 * i + bit] >> 9 < threshold) << bit;
    }
  }
}

/* A sample's place among those of jaxdrop.mc.keys(key, S): point `index` of a lattice of `size`
 * points. */
typedef struct { uint32_t size, inverse, high, low; } point;

static point point_of(uint32_t size, uint32_t index) {
  uint32_t inverse = size; /* of size modulo 2^32, by Newton's iteration */
  for (int i = 0; i < 5; i++) inverse *= 2 - size * inverse;
  const uint64_t fraction = ((uint64_t)index << 48) / size;
  return (point){size, inverse, (uint32_t)(fraction >> 16), (uint32_t)(fraction & 65535)};
}

/* The bits of a sample of the first lattice, which is not mirrored. */
static inline uint32_t lattice_bits(jaxdrop_words words, uint32_t salt, point at, uint64_t position) {
  const uint32_t offset = jaxdrop_bits(words, position);
  const uint32_t mixed = offset - jaxdrop_fed(words, position);
  uint32_t draw = (mixed ^ offset >> 15) * 0x2C1B3C6Du + salt;
  draw = (draw ^ draw >> 12) * 0x297A2D39u >> 16;
  const uint32_t a = 1 + (draw * (at.size - 1) >> 16);
  return offset * at.inverse + a * at.high + (a * at.low >> 16);
}

/* Sample 3 of 10, a stratified set, as one stream: point 3 of the lattice of 7. */
static void stratified(uint64_t block, uint32_t *out) {
  const jaxdrop_words words = jaxdrop_spread(root, 1);
  const uint32_t salt = jaxdrop_spread(root, 2).first;
  const point at = point_of(7, 3);
  for (uint32_t i = 0; i < BLOCK; i++) out[i] = lattice_bits(words, salt, at, block * BLOCK + i);
}

/* Samples 3 and 11 of 17, a fresh key every 4096 entries. Which of the 17 intervals of length 1/17
 * the one falls into, and which of the other 16 the other falls into, makes 272 equally likely
 * numbers: those below 256, as bytes. A block has the entries of 69 keys, more than it needs. */
static void pairs(uint64_t block, uint32_t *out) {
  const point one = point_of(17, 3), other = point_of(17, 11);
  uint8_t *bytes = (uint8_t *)out;
  uint32_t count = 0, spare[SITE];
  for (uint32_t key = 0; key < 69 && count < 4 * BLOCK; key++) {
    const jaxdrop_key own = jaxdrop_fold_in(root, (uint32_t)(block * 69 + key));
    const jaxdrop_words words = jaxdrop_spread(own, 1);
    const uint32_t salt = jaxdrop_spread(own, 2).first;
    for (uint32_t i = 0; i < SITE; i++) {
      const uint32_t x = (uint32_t)((uint64_t)lattice_bits(words, salt, one, i) * 17 >> 32);
      const uint32_t y = (uint32_t)((uint64_t)lattice_bits(words, salt, other, i) * 17 >> 32);
      spare[i] = 16 * x + y - (y > x);
    }
    for (uint32_t i = 0; i < SITE && count < 4 * BLOCK; i++)
      if (spare[i] < 256) bytes[count++] = (uint8_t)spare[i];
  }
  if (count < 4 * BLOCK) abort();
}

/* The same of a generator of JAX's. */
static const peer *other;

static void peer_stream(uint64_t block, uint32_t *out) {
  other->entries(other->key(seed_number), block * BLOCK, BLOCK, out);
}

static void peer_short_keys(uint64_t block, uint32_t *out) {
  const jaxdrop_key key = other->key(seed_number);
  for (uint32_t site = 0; site < BLOCK / SITE; site++) {
    const uint64_t number = block * (BLOCK / SITE) + site;
    other->entries(other->fold_in(key, (uint32_t)number), 0, SITE, out + site * SITE);
  }
}

static void peer_fold_in(uint64_t block, uint32_t *out) {
  const int each = BLOCK / FOLDED;
  const jaxdrop_key key = other->key(seed_number);
  for (uint32_t number = 0; number < FOLDED; number++) {
    uint32_t column[BLOCK / FOLDED];
    other->entries(other->fold_in(key, number), block * each, each, column);
    for (int i = 0; i < each; i++) out[i * FOLDED + number] = column[i];
  }
}

typedef void fill(uint64_t block, uint32_t *out);

typedef struct { const char *name; fill *own, *peer; } order;

static const order orders[] = {
    {"stream", stream, peer_stream},
    {"short-keys", short_keys, peer_short_keys},
    {"fold-in", fold_in, peer_fold_in},
    {"seeds", seeds, NULL},
    {"transposed", transposed, NULL},
    {"rows", rows, NULL},
    {"low-bits", low_bits, NULL},
    {"high-bits", high_bits, NULL},
    {"masks", masks, NULL},
    {"stratified", stratified, NULL},
    {"pairs", pairs, NULL},
};

/* The function that fills the blocks of ORDER, or of PEER/ORDER. */
static fill *order_of(const char *name, uint32_t seed) {
  seed_number = seed;
  root = jaxdrop_key_of(seed);
  const char *slash = strchr(name, '/'), *wanted = slash ? slash + 1 : name;
  for (size_t i = 0; slash && i < sizeof peers / sizeof *peers; i++)
    if (!strncmp(peers[i].name, name, (size_t)(slash - name))) other = &peers[i];
  for (size_t i = 0; (other || !slash) && i < sizeof orders / sizeof *orders; i++)
    if (!strcmp(orders[i].name, wanted) && (!other || orders[i].peer))
      return other ? orders[i].peer : orders[i].own;
  fprintf(stderr, "no such order: %s\n", name);
  exit(2);
}

#endif
