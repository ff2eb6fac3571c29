"""The layers without parameters: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

from typing import Unpack

import jax
from flax import linen as nn

from jaxdrop import masks
from jaxdrop.functional.graphs import Kept
from jaxdrop.functional.tokens import Arrays
from jaxdrop.layers import elements, graphs, heads, noise, paths, regions, sequences, tokens
from jaxdrop.linen._base import (
    Call,
    Flag,
    Given,
    Key,
    Layer,
    Placed,
    PlacedCall,
    PlacedGiven,
    Plain,
)


# fmt: off
class Dropout(Placed, elements.Dropout): ...
class ClassicDropout(Placed, elements.ClassicDropout): ...
class AlphaDropout(Placed, elements.AlphaDropout): ...
class FeatureAlphaDropout(Plain, elements.FeatureAlphaDropout): ...
class SpatialDropout(Plain, regions.SpatialDropout): ...
class Dropout1d(Plain, regions.Dropout1d): ...
class Dropout2d(Plain, regions.Dropout2d): ...
class Dropout3d(Plain, regions.Dropout3d): ...
class DropBlock(Plain, regions.DropBlock): ...
class DropPath(Plain, paths.DropPath): ...
class ShakeDrop(Plain, paths.ShakeDrop): ...
class AttentionDropout(Placed, heads.AttentionDropout): ...
class DropKey(Placed, heads.DropKey): ...
class DropHead(Plain, heads.DropHead): ...
class LockedDropout(Plain, sequences.LockedDropout): ...
class GaussianDropout(Placed, noise.GaussianDropout): ...

class GaussianNoise(Layer, noise.GaussianNoise):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 stddev: masks.Rate | None = None, **call: Unpack[PlacedGiven]) -> jax.Array:
        return self._drop((inputs,), deterministic, rng, rate=stddev, **call)

class UniformDropout(Layer, noise.UniformDropout):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 beta: masks.Rate | None = None, **call: Unpack[PlacedGiven]) -> jax.Array:
        return self._drop((inputs,), deterministic, rng, rate=beta, **call)

class NEFTune(Layer, noise.NEFTune):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 mask: jax.Array | None = None, alpha: masks.Rate | None = None,
                 **call: Unpack[Given]) -> jax.Array:
        return self._drop((inputs,), deterministic, rng, rate=alpha, mask=mask, **call)

class EmbeddingDropout(Layer, sequences.EmbeddingDropout):
    @nn.compact
    def __call__(self, embedded: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 ids: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((embedded,), deterministic, rng, ids=ids, **call)

class WordDropout(Layer, sequences.WordDropout):
    @nn.compact
    def __call__(self, ids: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[PlacedCall]) -> jax.Array:
        return self._drop((ids,), deterministic, rng, **call)

class Zoneout(Layer, sequences.Zoneout):
    @nn.compact
    def __call__(self, new: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 previous: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((new,), deterministic, rng, previous=previous, **call)

class TokenDropout(Layer, tokens.TokenDropout):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[Call]) -> tuple[jax.Array, jax.Array]:
        return self._drop((inputs,), deterministic, rng, **call)

class LabelDropout(Layer, tokens.LabelDropout):
    @nn.compact
    def __call__(self, labels: jax.Array, deterministic: Flag = None, rng: Key = None, *,
                 force_drop: jax.Array | None = None, **call: Unpack[Call]) -> jax.Array:
        if force_drop is not None:
            return self._forced(labels, force_drop, call.get("rate"), call.get("spec") or self.spec)
        return self._drop((labels,), deterministic, rng, **call)

class ModalityDropout(Layer, tokens.ModalityDropout):
    @nn.compact
    def __call__(self, arrays: Arrays, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[Call]) -> Arrays:
        return self._drop((arrays,), deterministic, rng, **call)

class DropEdge(Layer, graphs.DropEdge):
    @nn.compact
    def __call__(self, senders: jax.Array, receivers: jax.Array, deterministic: Flag = None,
                 rng: Key = None, **call: Unpack[Call]) -> jax.Array:
        return self._drop((senders, receivers), deterministic, rng, **call)

class DropNode(Layer, graphs.DropNode):
    @nn.compact
    def __call__(self, senders: jax.Array, receivers: jax.Array, num_nodes: int,
                 deterministic: Flag = None, rng: Key = None, **call: Unpack[Call]) -> Kept:
        return self._drop((senders, receivers, num_nodes), deterministic, rng, **call)
