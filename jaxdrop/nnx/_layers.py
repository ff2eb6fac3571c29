"""The layers without parameters: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

from typing import Unpack

import jax

from jaxdrop import masks
from jaxdrop.functional.graphs import Kept
from jaxdrop.functional.tokens import Arrays
from jaxdrop.layers import elements, graphs, heads, noise, paths, regions, sequences, tokens
from jaxdrop.nnx._base import Call, Given, Layer, Placed, PlacedCall, PlacedGiven, Plain


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
    def __call__(self, inputs: jax.Array, *, stddev: masks.Rate | None = None,
                 **call: Unpack[PlacedGiven]) -> jax.Array:
        return self._drop((inputs,), rate=stddev, **call)

class UniformDropout(Layer, noise.UniformDropout):
    def __call__(self, inputs: jax.Array, *, beta: masks.Rate | None = None,
                 **call: Unpack[PlacedGiven]) -> jax.Array:
        return self._drop((inputs,), rate=beta, **call)

class NEFTune(Layer, noise.NEFTune):
    def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None,
                 alpha: masks.Rate | None = None, **call: Unpack[Given]) -> jax.Array:
        return self._drop((inputs,), rate=alpha, mask=mask, **call)

class EmbeddingDropout(Layer, sequences.EmbeddingDropout):
    def __call__(self, embedded: jax.Array, *, ids: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((embedded,), ids=ids, **call)

class WordDropout(Layer, sequences.WordDropout):
    def __call__(self, ids: jax.Array, **call: Unpack[PlacedCall]) -> jax.Array:
        return self._drop((ids,), **call)

class Zoneout(Layer, sequences.Zoneout):
    def __call__(self, new: jax.Array, *, previous: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((new,), previous=previous, **call)

class TokenDropout(Layer, tokens.TokenDropout):
    def __call__(self, inputs: jax.Array, **call: Unpack[Call]) -> tuple[jax.Array, jax.Array]:
        return self._drop((inputs,), **call)

class LabelDropout(Layer, tokens.LabelDropout):
    def __call__(self, labels: jax.Array, *, force_drop: jax.Array | None = None,
                 **call: Unpack[Call]) -> jax.Array:
        if force_drop is not None:
            return self._forced(labels, force_drop, call.get("rate"), call.get("spec") or self.spec)
        return self._drop((labels,), **call)

class ModalityDropout(Layer, tokens.ModalityDropout):
    def __call__(self, arrays: Arrays, **call: Unpack[Call]) -> Arrays:
        return self._drop((arrays,), **call)

class DropEdge(Layer, graphs.DropEdge):
    def __call__(self, senders: jax.Array, receivers: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((senders, receivers), **call)

class DropNode(Layer, graphs.DropNode):
    def __call__(self, senders: jax.Array, receivers: jax.Array, num_nodes: int,
                 **call: Unpack[Call]) -> Kept:
        return self._drop((senders, receivers, num_nodes), **call)
