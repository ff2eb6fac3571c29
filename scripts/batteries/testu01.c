/* testu01 BATTERY ORDER [SEED [PART PARTS]]: runs TestU01's SmallCrush or Crush over an order.
 *
 * Only the tests whose number modulo PARTS is PART, so that processes can share a battery. Every
 * test begins at a place of the order of its own, 3 * 2^30 words behind that of the test before,
 * which is more than any test reads. One line a p-value: BATTERY NUMBER P NAME. */
#include "orders.h"

#include <unistd.h>

#include "bbattery.h"
#include "swrite.h"
#include "unif01.h"

static uint32_t words[BLOCK];
static int place;
static uint64_t block;
static fill *words_of;

static unsigned int next(void) {
  if (place == BLOCK) {
    words_of(block++, words);
    place = 0;
  }
  return words[place++];
}

int main(int count, char **arguments) {
  if (count < 3) return fprintf(stderr, "testu01 BATTERY ORDER [SEED [PART PARTS]]\n"), 2;
  const char *name = arguments[1];
  const int small = !strcmp(name, "SmallCrush"), tests = small ? 10 : 96;
  if (!small && strcmp(name, "Crush")) return fprintf(stderr, "no such battery: %s\n", name), 2;
  words_of = order_of(arguments[2], count > 3 ? (uint32_t)strtoul(arguments[3], NULL, 10) : 0);
  const int part = count > 5 ? atoi(arguments[4]) : 0, parts = count > 5 ? atoi(arguments[5]) : 1;
  swrite_Basic = FALSE;
  FILE *results = fdopen(dup(STDOUT_FILENO), "w");
  if (!results || !freopen("/dev/null", "w", stdout)) return 1; /* for TestU01's own summaries */
  for (int test = 1; test <= tests; test++) {
    if (test % parts != part % parts) continue;
    int repetitions[201] = {0};
    repetitions[test] = 1;
    place = BLOCK;
    block = (uint64_t)test * 3 << 14;
    unif01_Gen *generator = unif01_CreateExternGenBits(arguments[2], next);
    (small ? bbattery_RepeatSmallCrush : bbattery_RepeatCrush)(generator, repetitions);
    unif01_DeleteExternGenBits(generator);
    for (int i = 0; i < bbattery_NTests; i++)
      fprintf(results, "%s %d %.9g %s\n", name, test, bbattery_pVal[i], bbattery_TestNames[i]);
    fflush(results);
  }
  return 0;
}
