"""What this library has drawn since the masks of a key were promised not to change.

`python -m tests.golden` writes `masks.json`. It is written anew with a major version only;
`tests/test_golden.py` compares. Which entries are kept is compared bit by bit. Values may differ by
the rounding of the operations that form them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdrop
from jaxdrop import random
from tests.catalogue import RATE, VARIANTS, Variant

FILE = Path(__file__).with_name("masks.json")
SEED = 20261126
VALUES = 6

GENERATORS = {
    "hash": jaxdrop.key(SEED),
    "stratified": jaxdrop.mc.keys(jaxdrop.key(SEED), 10)[3],
    "antithetic": jaxdrop.mc.keys(jaxdrop.key(SEED), 10, strategy="antithetic")[3],
    "threefry": jax.random.key(SEED),
}

Record = dict[str, Any]


def bits_of(key: jax.Array) -> Record:
    """Three words of a key, and checksums of its bits: of every width, past 2**32, of a child."""
    with jax.enable_x64(True):
        drawn = {
            f"{width} bits": random.bits(key, (37, 101), bit_width=width)
            for width in (8, 16, 32, 64)
        }
    last = random.bits(key, (1, 4096), origin=(2**21, 0), global_shape=(2**21 + 1, 4096))
    child = random.bits(jax.random.fold_in(jax.random.split(key)[1], 7), (4096,))
    checksums = {**drawn, "past 2**32": last, "child": child}
    return {
        "words": [hex(word) for word in np.asarray(random.bits(key, (3,)))],
        **{name: checksum(bits) for name, bits in checksums.items()},
    }


def output_of(variant: Variant) -> Record:
    """A checksum of the entries that are 0, and some values, of a row of the catalogue."""
    x = variant.example()
    y = np.asarray(jax.jit(variant.at(GENERATORS["hash"], RATE))(x))
    values = y.ravel()[:: max(1, y.size // VALUES)][:VALUES]
    return {"zeros": checksum(y == 0), "values": [float(value) for value in values]}


def checksum(array: Any) -> str:
    """Of the bytes of an array, booleans packed, in little-endian order."""
    array = np.asarray(array)
    array = (
        np.packbits(array) if array.dtype == bool else array.astype(array.dtype.newbyteorder("<"))
    )
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def main() -> None:
    """Writes the file."""
    record = {
        "seed": SEED,
        "rate": RATE,
        "bits": {name: bits_of(key) for name, key in GENERATORS.items()},
        "outputs": {variant.name: output_of(variant) for variant in VARIANTS},
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n")
