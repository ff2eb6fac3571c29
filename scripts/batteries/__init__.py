"""Batteries of tests of randomness, for `scripts/check_random.py`.

`orders` draws words in JAX, `programs` in C; `dieharder`, `practrand` and `testu01` each run a
battery, and read its report; `verdicts` keeps what they found, and writes the table of the docs.
"""
