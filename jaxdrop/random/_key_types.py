"""The key types of this library: JAX PRNG implementations around the generators.

Checkpoints hold the name of a type, and `jax.random.key(0, impl=name)` takes it: a name must never
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl

from jaxdrop.random import _generators, _registration
from jaxdrop.random._positions import Positions, grid

Bits32 = Callable[[jax.Array, Positions], jax.Array]

DTYPES = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


def _hash32(data: jax.Array, positions: Positions, lane: int = 0) -> jax.Array:
    return _generators.hash_bits(_generators.spread((data[0], data[1]), lane), positions)


def _stratified32(data: jax.Array, positions: Positions) -> jax.Array:
    base = data[0], data[1]
    words, (salt, _) = (_generators.spread(base, lane) for lane in (1, 2))
    return _generators.lattice_bits(words, salt, _generators.LatticePoint(*data[2:]), positions)


def _antithetic32(data: jax.Array, positions: Positions) -> jax.Array:
    return _hash32(data, positions) ^ data[2]


@dataclasses.dataclass(frozen=True)
class KeyType:
    """A PRNG implementation. A key is two words, from which `split` and `fold_in` derive those of
    other keys as threefry does, and constants, which derived keys inherit.
    """

    name: str
    bits32: Bits32
    rest: tuple[int, ...] = ()

    def bits(self, data: jax.Array, positions: Positions, bit_width: int) -> jax.Array:
        """Bits of any width. Narrow words are the top bits of 32, because stratification orders
        samples by the top bits.
        """
        bits = self.bits32(data, positions)
        if bit_width == 64:
            low = _hash32(data, positions, lane=3).astype(jnp.uint64)
            return (bits.astype(jnp.uint64) << np.uint64(32)) | low
        return (
            bits
            if bit_width == 32
            else (bits >> np.uint32(32 - bit_width)).astype(DTYPES[bit_width])
        )

    def seed(self, value: jax.Array) -> jax.Array:
        """The words of a key from an integer: those of `jax.random.key`."""
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.integer):  # JAX itself looks at the shape
            raise TypeError(f"a seed must be an integer, got {value.dtype}")
        high = value >> 32 if value.dtype.itemsize > 4 else jnp.zeros_like(value)
        return jnp.stack(
            [high.astype(jnp.uint32), value.astype(jnp.uint32), *map(jnp.uint32, self.rest)]
        )

    def split(self, data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The words of so many keys from those of one."""
        return self._derived(threefry_prng_impl.split, data, shape)

    def fold_in(self, data: jax.Array, value: int | jax.Array) -> jax.Array:
        """The words of the key with a number folded in."""
        return self._derived(threefry_prng_impl.fold_in, data, value)

    def random_bits(self, data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
        """The bits of a whole array."""
        return self.bits(data, grid(shape, key_word=data[0]), bit_width)

    def _derived(self, derive: Callable[..., jax.Array], data: jax.Array, by: Any) -> jax.Array:
        """The words that `derive` makes of the first two, and for each key the constants."""
        if not self.rest:  # slices and a concatenation take as long as threefry, outside of jit
            return derive(data, by)
        words = derive(data[:2], by)
        return jnp.concatenate(
            [words, jnp.broadcast_to(data[2:], (*words.shape[:-1], len(self.rest)))], axis=-1
        )

    def implementation(self) -> Hashable:
        """The implementation, as the functions of `jax.random` take it for `impl`."""
        made = define_prng_impl(
            key_shape=(2 + len(self.rest),),
            seed=self.seed,
            split=self.split,
            random_bits=self.random_bits,
            fold_in=self.fold_in,
            name=self.name,
            tag=self.name,  # Orbax writes the tag of a generator that is not registered
        )
        _registration.register(made)
        return made

    def __reduce__(self) -> tuple[Callable[[str], KeyType], tuple[str]]:
        return _by_name, (self.name,)  # an unpickled key has the one instance of its type


def _by_name(name: str) -> KeyType:
    return _TYPES[name]


# Pickled keys name the function by the module that first held it. Files hold that name.
_by_name.__module__ = "jaxdrop._key_types"


_TYPES = {
    kind.name: kind
    for kind in (
        KeyType("jaxdrop", _hash32),
        KeyType("jaxdrop-s", _stratified32, rest=(1, 1, 0, 0, 0)),
        KeyType("jaxdrop-a", _antithetic32, rest=(0,)),
    )
}
HASH, STRATIFIED, ANTITHETIC = (kind.implementation() for kind in _TYPES.values())


def of(key: jax.Array) -> KeyType | None:
    """The type of a typed key, or of an array of keys, if it is of this library."""
    # JAX describes an implementation by its name if that is registered, and otherwise by an object
    # that prints as its tag.
    return _TYPES.get(str(jax.random.key_impl(key)))


def is_sample(key: jax.Array) -> bool:
    """Whether a typed key is that of one Monte Carlo sample of several."""
    return str(jax.random.key_impl(key)) in (str(STRATIFIED), str(ANTITHETIC))
