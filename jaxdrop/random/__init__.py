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
impl="jaxdrop")` makes such a key and Orbax restores one. JAX takes only its own generators for the
`jax_default_prng_impl` setting, and as arguments of functions that `jax.export` writes. Formats
that store arrays alone, such as `flax.serialization`, take typed keys of no generator at all. For
exported functions and for such formats, `unwrap_keys(tree)` turns keys into plain arrays, and
`wrap_keys` turns the arrays into keys again.

`scripts/check_random.py` puts the hash through dieharder, in the orders in which dropout uses it.
PractRand (stdin32) finds no failure in all 2**32 words of one key, 16 GiB; in 4 GiB of 8192 keys
that are folded in, interleaved; and in 2 GiB of a walk with stride 2**16.
"""

from jaxdrop.random._drawing import bits, bits_at
from jaxdrop.random._keys import fast, fold_in_axes, key
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
    "step_key",
    "unwrap_keys",
    "wrap_keys",
]
