"""A model with every module at rate 0 is the model without them: the same jaxpr, the same compiled
program, no key consumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxdrop
from tests.catalogue import VARIANTS, AdaptedLinen, AdaptedNNX

Loss = Callable[[list[jax.Array], jax.Array], jax.Array]

IDS = jnp.arange(2 * 3 * 4).reshape(2, 3, 4) % 13
EXEMPT = {
    "DropConnect": "it is a dense layer, whose product remains; see test_weights.py",
    "DropoutMLP": "it computes, and the products remain",
    "DropPathAdd": "it adds, and the sum remains",
    "RandomLTD": "it runs a layer, and the layer remains",
    "DropEdge": "it returns a mask, and the choice by it remains; see test_graphs.py",
    "DropNode": "it returns a mask, and the choice by it remains; see test_graphs.py",
    "BiasDropoutAdd": "it adds, and the sum remains",
    "DropoutAddLayerNorm": "it normalizes, and the norm remains",
    "MultiHeadAttention": "it attends, and the attention remains",
    "MultiHeadDotProductAttention": "it attends, and the attention remains",
    "RNN": "it runs a cell, and the cell remains; see test_recurrent_layers_are_those_of_flax",
    "StackedRNN": "it runs cells, and they remain; see test_recurrent_layers_are_those_of_flax",
    "ConcreteDropout": "a learned rate of 0 has no finite logit",
    "VariationalDropout": "a learned rate of 0 has no finite logit",
    "VariationalDense": "a learned rate of 0 has no finite logit",
    "SparseVariationalDense": "a learned rate of 0 has no finite logit",
}


def same(x: jax.Array) -> jax.Array:
    return x


def of_rank_3(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return layer(x.reshape(-1, *x.shape[2:])).reshape(x.shape)


def kind(link: Any) -> str:
    return type(getattr(link, "layer", link)).__name__


def links(
    name: str,
    adapted: Any,
    embed: Any,
    dense: Callable[[], Any],
    block: Callable[[], Any],
    **options: Any,
) -> tuple[list[Any], list[Any]]:
    """The layers of the model with dropout, one after the other, and of that without."""
    modules = getattr(jaxdrop, name)
    exempt = {"test_rate_zero_is_no_operation", f"test_{name}_module_makes_the_same_call"}
    sites = [
        getattr(variant, name)(0.0, **options)
        for variant in VARIANTS
        if not variant.exempt.keys() & exempt
    ]
    sites = [site for site in sites if kind(site) not in EXEMPT]
    sites += [
        getattr(modules, other)(0.0, **options) for other in ("Dropout2d", "Dropout3d", "DropKey")
    ]
    pairs = [
        (modules.WordDropout(0.0, replacement=0, **options), same),
        (modules.LabelDropout(0.0, null_id=0, **options), same),
        (embed, embed),
        *(pair for site in sites for pair in ([dense()] * 2, (site, same))),
        (adapted(modules.Dropout1d(0.0, **options), of_rank_3), lambda x: of_rank_3(same, x)),
        (adapted(modules.LayerDrop(0.0, **options), lambda layer, x: layer(x, block())), jnp.tanh),
        *(
            (wrapper(inner := dense(), 0.0, match="kernel", **options), inner)
            for wrapper in (modules.WeightDrop, modules.QuantNoise)
        ),
    ]
    dropping, plain = (list(side) for side in zip(*pairs, strict=True))
    used = {kind(link) for link in dropping}
    assert used | EXEMPT.keys() >= {
        listed
        for listed in modules.__all__
        if isinstance(class_ := getattr(modules, listed), type)
        and issubclass(class_, nnx.Module | nn.Module)
    }
    return dropping, plain


def programs(loss: Loss, params: Any) -> Iterator[str]:
    """Forward and backward: the jaxpr, and the compiled program without what only says where it
    comes from.
    """
    for f in (loss, jax.value_and_grad(loss)):
        leaves = jax.tree.leaves(params)
        yield str(jax.make_jaxpr(f)(leaves, IDS))
        text = jax.jit(f).lower(leaves, IDS).compile().as_text()
        computations = re.search(
            r"^(?:%|ENTRY).*", text, re.MULTILINE | re.DOTALL
        )  # behind a list of source files
        yield re.sub(r", metadata=\{[^}]*\}", "", computations[0])


def test_nnx_model() -> None:
    rngs = nnx.Rngs(0)

    def loss_of(model: nnx.Module) -> tuple[Loss, nnx.State]:
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(leaves: list[jax.Array], ids: jax.Array) -> jax.Array:
            state = jax.tree.unflatten(jax.tree.structure(params), leaves)
            return (nnx.merge(graph, state, rest)(ids) ** 2).sum()

        return loss, params

    dropping, plain = (
        nnx.Sequential(*side)
        for side in links(
            "nnx",
            AdaptedNNX,
            nnx.Embed(13, 16, rngs=rngs),
            lambda: nnx.Linear(16, 16, rngs=rngs),
            lambda: nnx.Sequential(jnp.tanh),
            rngs=rngs,
        )
    )
    assert list(programs(*loss_of(dropping))) == list(programs(*loss_of(plain)))
    dropping(IDS)
    counts = jax.tree.leaves(nnx.state(dropping, nnx.RngCount))
    assert counts
    assert not any(counts)


def test_linen_model() -> None:
    """It is given no key that it could consume."""

    def loss_of(model: nn.Module) -> tuple[Loss, Any]:
        params = jax.eval_shape(model.init, {"params": jax.random.key(0)}, IDS)

        def loss(leaves: list[jax.Array], ids: jax.Array) -> jax.Array:
            return (
                model.apply(jax.tree.unflatten(jax.tree.structure(params), leaves), ids) ** 2
            ).sum()

        return loss, params

    dropping, plain = (
        nn.Sequential(side)
        for side in links(
            "linen",
            AdaptedLinen,
            nn.Embed(13, 16),
            lambda: nn.Dense(16),
            lambda: nn.Sequential([jnp.tanh]),
            deterministic=False,
        )
    )
    assert list(programs(*loss_of(dropping))) == list(programs(*loss_of(plain)))


def test_recurrent_layers_are_those_of_flax() -> None:
    """The same jaxpr, forward and backward: the loop of Flax, in training and in evaluation."""
    x = jnp.ones((2, 3, 4))
    rates = {
        "input_rate": 0.5,
        "recurrent_rate": 0.5,
        "weight_rate": 0.5,
        "per_gate": True,
        "deterministic": True,
    }

    def of_nnx(module: nnx.Module, run: Callable[[Any], jax.Array]) -> str:
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        leaves, tree = jax.tree.flatten(params)

        def loss(leaves: list[jax.Array]) -> jax.Array:
            own = nnx.merge(
                graph, jax.tree.unflatten(tree, leaves), jax.tree.map(lambda leaf: leaf, rest)
            )
            return (run(own) ** 2).sum()

        return str(jax.make_jaxpr(jax.value_and_grad(loss))(leaves))

    cell = nnx.OptimizedLSTMCell(4, 4, rngs=nnx.Rngs(0))
    expected = of_nnx(cell, lambda cell: nnx.RNN(cell)(x))
    for options in ({}, rates):
        assert (
            of_nnx(cell, lambda cell, options=options: jaxdrop.nnx.RNN(cell, **options)(x))
            == expected
        )
    stack = jaxdrop.nnx.StackedRNN(
        nnx.OptimizedLSTMCell, 4, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0)
    )
    start = (jnp.zeros((2, 4)),) * 2

    def plain(stack: Any) -> jax.Array:
        below, above = (nnx.RNN(layer[0].cell, rngs=False) for layer in stack.layers)
        return above(below(x, initial_carry=start), initial_carry=start)

    expected = of_nnx(stack, plain)
    for options in ({"rates": {"dropout": 0.0}}, {"deterministic": True}):
        found = of_nnx(
            stack, lambda stack, options=options: stack(x, initial_carry=((start,),) * 2, **options)
        )
        assert found == expected

    def of_linen(model: nn.Module) -> str:
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        return str(
            jax.make_jaxpr(jax.value_and_grad(lambda v: (model.apply(v, x) ** 2).sum()))(variables)
        )

    expected = of_linen(nn.RNN(nn.OptimizedLSTMCell(4)))
    for options in ({}, {"deterministic": False}, rates):
        assert of_linen(jaxdrop.linen.RNN(nn.OptimizedLSTMCell(4), **options)) == expected
