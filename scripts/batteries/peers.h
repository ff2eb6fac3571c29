/* The words of JAX's own generators, in some of the same orders: jax.random.bits(key, (n,)), with
 * the keys of jax.random.key(seed, impl="...") and of fold_in. */
#ifndef PEERS_H
#define PEERS_H

/* Philox-4x32 with 10 rounds. */
static inline void philox(const uint32_t *key, const uint32_t *counter, uint32_t *out) {
  uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
  for (uint32_t round = 0; round < 10; round++) {
    const uint64_t left = (uint64_t)a * 0xD2511F53u, right = (uint64_t)c * 0xCD9E8D57u;
    a = (uint32_t)(right >> 32) ^ b ^ (key[0] + round * 0x9E3779B9u);
    c = (uint32_t)(left >> 32) ^ d ^ (key[1] + round * 0xBB67AE85u);
    b = (uint32_t)right;
    d = (uint32_t)left;
  }
  out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

static jaxdrop_key philox_key(uint32_t seed) {
  uint32_t out[4];
  philox((uint32_t[]){0, 0}, (uint32_t[]){0, seed, 0, 0}, out);
  return (jaxdrop_key){out[0], out[1]};
}

static jaxdrop_key philox_fold_in(jaxdrop_key key, uint32_t number) {
  uint32_t out[4];
  philox((uint32_t[]){key.a, key.b}, (uint32_t[]){0, 0, 0, number}, out);
  return (jaxdrop_key){out[0], out[1]};
}

static void threefry_entries(jaxdrop_key key, uint64_t position, int count, uint32_t *out) {
  const uint32_t high = (uint32_t)(position >> 32), low = (uint32_t)position;
  for (int i = 0; i < count; i++) {
    const jaxdrop_key pair = jaxdrop_threefry(key, high, low + (uint32_t)i);
    out[i] = pair.a ^ pair.b;
  }
}

/* All four words of a block make one of the result. */
static void philox_entries(jaxdrop_key key, uint64_t position, int count, uint32_t *out) {
  for (int i = 0; i < count; i++) {
    uint32_t four[4];
    const uint64_t place = position + (uint64_t)i;
    philox((uint32_t[]){key.a, key.b},
           (uint32_t[]){(uint32_t)(place >> 32), (uint32_t)place, 0, 0}, four);
    out[i] = four[0] ^ four[1] ^ four[2] ^ four[3];
  }
}

/* XLA's RngBitGenerator on CPUs, of the key (a, b, a, b): Philox too, all of a block's words in
 * turn. Its counter of 128 bits starts at the key. */
static void rbg_entries(jaxdrop_key key, uint64_t position, int count, uint32_t *out) {
  uint32_t four[4];
  for (int i = 0; i < count; i++) {
    if (i == 0 || (position + (uint64_t)i) % 4 == 0) {
      const uint64_t start = (uint64_t)key.b << 32 | key.a;
      const uint64_t low = start + (position + (uint64_t)i) / 4, high = start + (low < start);
      philox((uint32_t[]){key.a, key.b},
             (uint32_t[]){(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high,
                          (uint32_t)(high >> 32)},
             four);
    }
    out[i] = four[(position + (uint64_t)i) % 4];
  }
}

typedef struct {
  const char *name;
  jaxdrop_key (*key)(uint32_t);
  jaxdrop_key (*fold_in)(jaxdrop_key, uint32_t);
  void (*entries)(jaxdrop_key, uint64_t, int, uint32_t *);
} peer;

static const peer peers[] = {
    {"threefry", jaxdrop_key_of, jaxdrop_fold_in, threefry_entries},
    {"philox", philox_key, philox_fold_in, philox_entries},
    {"rbg", jaxdrop_key_of, jaxdrop_fold_in, rbg_entries},
};

#endif
