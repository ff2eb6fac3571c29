"""The models there are, each as functions of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from models.cnn import CNN
from models.layout import ATTENTION_SAVEABLE
from models.mlp import MLP
from models.rnn import LanguageModel
from models.transformer import Skip, Transformer

from training.config import Config, Experiment, Model
from training.data import Array, Data, Examples, Kind
from training.layouts import within
from training.local import localize
from training.probe import Probe, checksum

Strength: TypeAlias = float | jax.Array
Loss: TypeAlias = Callable[[jax.Array, Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: Array) -> jax.Array:
    """In nats, of each label."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def correct(logits: jax.Array, labels: Array) -> jax.Array:
    """1 where the likeliest class is the label, else 0."""
    return jnp.float32(jnp.argmax(logits, axis=-1) == labels)


class Entry(NamedTuple):
    """A model by name: the data it takes, how to make it, and its loss."""

    kind: Kind
    make: Callable[[Experiment, Data, nnx.Rngs], nnx.Module]
    loss: Loss = cross_entropy


def _mlp(options: Experiment, data: Data, rngs: nnx.Rngs) -> nnx.Module:
    return MLP(
        data.training[0].inputs.size,
        data.classes,
        width=options.width,
        layers=options.layers,
        rate=options.rate,
        remat=options.remat,
        rngs=rngs,
    )


def _cnn(options: Experiment, data: Data, rngs: nnx.Rngs) -> nnx.Module:
    return CNN(
        data.training[0].inputs.shape[-1],
        data.classes,
        channels=options.width,
        layers=options.layers,
        rate=options.rate,
        block_rate=options.block_rate,
        path_rate=options.path_rate,
        remat=options.remat,
        rngs=rngs,
    )


def _transformer(options: Experiment, data: Data, rngs: nnx.Rngs) -> nnx.Module:
    """Its layers run under `lax.scan`, always with remat."""
    return Transformer(
        data.classes,
        length=options.length,
        width=options.width,
        heads=options.heads,
        layers=options.layers,
        rate=options.rate,
        path_rate=options.path_rate,
        skip=Skip(
            options.skip_units,
            options.skip_pattern,
            options.skip_examples,
            options.skip_tokens,
            options.skip_groups,
        ),
        remat_policy=(
            ATTENTION_SAVEABLE
            if options.remat_policy == "attention_saveable"
            else getattr(jax.checkpoint_policies, options.remat_policy)
        ),
        rngs=rngs,
    )


class _Recurrent(nnx.Module):
    """The language model, over windows that each begin a text of their own."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def __call__(
        self, tokens: jax.Array, rngs: nnx.Rngs | None = None, *, strength: Strength = 1.0
    ) -> jax.Array:
        return self.model(tokens, rngs=rngs, strength=strength).logits


def _rnn(options: Experiment, data: Data, rngs: nnx.Rngs) -> nnx.Module:
    model = LanguageModel(
        data.classes,
        width=options.width,
        layers=options.layers,
        embedding_rate=options.rate,
        output_rate=options.rate,
        weight_rate=options.rate,
        dropout=options.rate if options.layers > 1 else 0.0,
        rngs=rngs,
    )
    return _Recurrent(model)


MODELS: dict[Model, Entry] = {
    "mlp": Entry("images", _mlp),
    "cnn": Entry("images", _cnn),
    "transformer": Entry("text", _transformer),
    "rnn": Entry("text", _rnn),
    "masks": Entry("images", lambda options, data, rngs: Probe(), checksum),
}


class Network(NamedTuple):
    """A model as functions."""

    init: Callable[[], tuple[Any, Any]]
    """Makes the parameters and the running statistics."""
    apply: Callable[..., tuple[jax.Array, Any]]
    loss: Loss


def build(options: Config, data: Data) -> Network:
    """The model that `options.model` names. No stream of random numbers is part of it."""
    entry = MODELS[options.model]

    def split(model: nnx.Module) -> tuple[Any, Any, Any]:
        return nnx.split(model, nnx.Param, ...)

    def make() -> nnx.Module:
        model = entry.make(options, data, nnx.Rngs(options.seed))
        nnx.pop(model, nnx.RngState)
        return model

    graph = nnx.graphdef(nnx.eval_shape(make))

    def apply(
        params: Any,
        stats: Any,
        inputs: jax.Array,
        key: jax.Array | None = None,
        strength: Strength = 1.0,
        axis: str | None = None,
    ) -> tuple[jax.Array, Any]:
        """The logits, and the new statistics. Without a key nothing is dropped; `strength`
        multiplies the rates.

        `axis` is the mapped axis that divides the batch, inside `shard_map` or `pmap`.
        """
        params, inputs = (_cast(tree, options.dtype) for tree in (params, inputs))
        model: Any = nnx.merge(graph, params, stats, copy=True)
        if key is None:
            model.eval()
        else:
            model.train()
        if axis is not None:
            localize(model, axis)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        with linen.logical_axis_rules(within(options.parallel, axis)):
            logits = model(inputs, rngs, strength=strength)
        return logits.astype(jnp.float32), split(model)[2]

    return Network(lambda: split(make())[1:], apply, entry.loss)


def _cast(tree: Any, dtype: str) -> Any:
    """Floating-point arrays in the dtype of the computation. Parameters stay what they are where
    they are kept.
    """
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def measure(network: Network, logits: jax.Array, examples: Examples) -> dict[str, jax.Array]:
    """Means over the labels."""
    each = network.loss(logits, examples.labels), correct(logits, examples.labels)
    return {"loss": each[0].mean(), "accuracy": each[1].mean()}
