"""Keys, and bits as a function of (key, position in the whole array).

Because a bit depends on nothing else, any part of an array's bits can be asked for alone, on any
device, and agrees with the bits of the whole. The type of the key decides the generator:

=============================  =====================================================================
key                            generator
=============================  =====================================================================
`jaxdrop.key(0)`               a keyed hash of the position, 15 integer operations an entry
`jaxdrop.mc.keys(key, S)`      the same hash, stratified (or mirrored) over S samples
`jax.random.key(0)`            threefry: the bits of `jax.random.bits`, computed inline, so that XLA
                               fuses them with the operations that use them
`jax.random.PRNGKey(0)`        legacy raw keys: as JAX takes them, which is as threefry unless
                               `jax_default_prng_impl` is set
rbg, unsafe_rbg, philox, ...   their own `jax.random.bits`; such a stream has no random access, see
                               `fast`
=============================  =====================================================================

`jax.random.uniform`, `normal`, `split`, Flax's `make_rng` and `nnx.Rngs` all take this library's
keys. `import jaxdrop` registers the generators with JAX, so that `jax.random.key(0,
impl="jaxdrop")` makes such a key and Orbax restores one. `jax.random.key_impl(key)` tells the
generator of a key; `key_dtype` is the dtype of `jaxdrop.key(0)`, and `jax.random.key(0,
dtype=key_dtype)` such a key. JAX takes only its own generators for the
`jax_default_prng_impl` setting, and as arguments of functions that `jax.export` writes. Formats
that store arrays alone, such as `flax.serialization`, take typed keys of no generator at all. For
exported functions and for such formats, `unwrap_keys(tree)` turns keys into plain arrays, and
`wrap_keys` turns the arrays into keys again.

`docs/randomness.md` defines the hash, gives the reason for each of its operations, and has the
verdict of PractRand and TestU01 on it, in the orders in which dropout uses it.
`scripts/check_random.py` runs these batteries.
"""

from jaxdrop.random._drawing import bits, bits_at
from jaxdrop.random._keys import fast, fold_in_axes, key, key_dtype
from jaxdrop.random._positions import Coordinate
from jaxdrop.random._saved_keys import unwrap_keys, wrap_keys
from jaxdrop.random._steps import step_key

__all__ = [
    "Coordinate",
    "bits",
    "bits_at",
    "fast",
    "fold_in_axes",
    "key",
    "key_dtype",
    "step_key",
    "unwrap_keys",
    "wrap_keys",
]


def __dir__() -> list[str]:
    return __all__
