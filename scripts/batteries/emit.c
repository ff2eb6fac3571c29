/* emit ORDER [SEED [BLOCK]]: writes the words of an order, from a block of 2^16 words on, until the
 * reader has had enough. */
#include "orders.h"

int main(int count, char **arguments) {
  if (count < 2) return fprintf(stderr, "emit ORDER [SEED [BLOCK]]\n"), 2;
  static uint32_t words[BLOCK];
  const uint32_t seed = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : 0;
  fill *words_of = order_of(arguments[1], seed);
  for (uint64_t block = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;; block++) {
    words_of(block, words);
    if (fwrite(words, sizeof *words, BLOCK, stdout) != BLOCK) return 0;
  }
}
