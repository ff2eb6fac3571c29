"""Faults that stand in public code, rebuilt in small, each with its address.

The class names are those of the source, so that a reader who follows the address finds them.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from tests.audit.gallery import KEY, Call, array, call, case
from tests.audit.gallery._linen import applied
from tests.audit.gallery._nnx import abstract, forward, loss_step

X = array(4, 8)
TOKENS = array(2, 6, 8)
IMAGES = array(2, 4, 4, 8)


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration as the large code bases have it."""

    dropout_rate: float = 0.0
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    resid_pdrop: float = 0.0


# -- configured and never drawn


class AttentionOp(nn.Module):
    """`dot_product` and `flash` take `dropout_rate` into a field, and no line reads it."""

    config: Config
    dropout_rate: float
    reads: bool

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", query, key))
        if self.reads:
            weights = nn.Dropout(self.dropout_rate)(weights, deterministic=False)
        return jnp.einsum("bts,bsd->btd", weights, value)


@case(
    "JD101",
    "linen",
    "AI-Hypercomputer/maxtext@e591f30 attention_op.py:2327 (dot_product)",
    both=("JD302",),
)
def maxtext_dot_product_attention(broken: bool) -> Call:
    class Decoder(nn.Module):
        config: Config

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            query, key, value = (nn.Dense(8)(x) for _ in range(3))
            rate = self.config.dropout_rate
            x = nn.Dense(8)(AttentionOp(self.config, rate, not broken)(query, key, value))
            x = nn.Dropout(rate, broadcast_dims=(-2,))(x, deterministic=False)
            return nn.Dense(4)(x)

    return applied(Decoder(Config(dropout_rate=0.1)), TOKENS, audited=True)


def flash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dropout_prob: float = 0.0,
    dropout_seed: jax.Array | None = None,
    reads: bool = True,
) -> jax.Array:
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", query, key))
    if not reads:
        del dropout_prob, dropout_seed
    elif dropout_prob and dropout_seed is not None:
        keep = jax.random.bernoulli(dropout_seed, 1 - dropout_prob, weights.shape)
        weights = jnp.where(keep, weights / (1 - dropout_prob), 0)
    return jnp.einsum("bts,bsd->btd", weights, value)


@case(
    "JD101",
    "jax",
    "erfanzar/ejkernel@2107406 _pallas/tpu/flash_attention/_interface.py:76",
    ("JD103",),
)
def ejkernel_deletes_the_argument(broken: bool) -> Call:
    fn = partial(flash, reads=not broken)
    return call(fn, TOKENS, TOKENS, TOKENS, 0.1, KEY, training=True)


class FlexibleAttention(nnx.Module):
    """`dropout_prob_final` is the constant 0.0, and the rate of the configuration goes nowhere."""

    def __init__(self, config: Config, reads: bool, rngs: nnx.Rngs) -> None:
        self.config, self.reads = config, reads
        self.query = nnx.Linear(8, 8, rngs=rngs)
        self.attention_dropout = config.attention_dropout
        self.rngs = rngs.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        final = self.attention_dropout if self.reads else 0.0
        key = self.rngs.dropout() if final else None
        query = self.query(x)
        return flash(query, x, x, final, key)


@case("JD101", "nnx", "erfanzar/EasyDeL@090a03b layers/attention/_flexible.py:475,543")
def easydel_attention_rate_is_the_constant_zero(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
            self.attention = FlexibleAttention(config, not broken, rngs=rngs)
            self.resid_dropout = nnx.Dropout(config.resid_pdrop, rngs=rngs)
            self.last = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(x + self.resid_dropout(self.attention(x)))

    config = Config(attention_dropout=0.1, resid_pdrop=0.1)
    return call(forward, abstract(Block, config), TOKENS, training=True)


class DropPath(nnx.Module):
    """One coin for each example."""

    def __init__(self, rate: float, rngs: nnx.Rngs | None = None) -> None:
        self.dropout = nnx.Dropout(rate, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(x)


@case("JD101", "nnx", "facebookresearch/dinov2 dinov2/layers/block.py (FIXME: drop_path2)")
def dinov2_one_drop_path_for_both_branches(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.second, self.last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
            self.drop_path1 = DropPath(0.1, rngs=rngs)
            self.drop_path2 = DropPath(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.drop_path1(nnx.relu(self.first(x)))
            second = self.drop_path1 if broken else self.drop_path2
            return self.last(x + second(nnx.relu(self.second(x))))

    return call(forward, abstract(Block), IMAGES, training=True)


# -- a constant seed


def cudnn_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, rate: float, seed: Any = 42
) -> jax.Array:
    """The default of JAX's private function: without `seed=`, one mask for ever."""
    return flash(query, key, value, rate, jax.random.key(seed) if isinstance(seed, int) else seed)


@case("JD205", "linen", "AI-Hypercomputer/maxtext@e591f30 attention_op.py:2385-2405", ("JD201",))
def maxtext_cudnn_attention_without_a_seed(broken: bool) -> Call:
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(2):
                seed = {} if broken else {"seed": self.make_rng("dropout")}
                x = x + nn.Dense(8)(cudnn_attention(x, x, x, 0.1, **seed))
            return nn.Dense(4)(x)

    return applied(Layers(), TOKENS, audited=True)


# -- layers of NNX that raise as soon as they are switched on


def transformer(rngs_at: str, deterministic: bool = True) -> Any:
    """The encoder block of these models, with `rngs` in the constructor, the call, or nowhere."""

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            own = {"rngs": rngs} if rngs_at == "constructor" else {}
            self.attention = nnx.Linear(8, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, deterministic=deterministic, **own)
            self.mlp = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x: jax.Array, rngs: Any = None) -> jax.Array:
            if rngs_at == "call":
                return self.mlp(x + self.dropout(nnx.gelu(self.attention(x)), rngs=rngs))
            return self.mlp(x + self.dropout(nnx.gelu(self.attention(x))))

    return abstract(Block)


@case("JD104", "nnx", "google/tunix@c7d8950 gemma3/vision.py:176,252,335,518")
def tunix_vision_dropout_without_rngs(broken: bool) -> Call:
    return call(forward, transformer("nowhere" if broken else "constructor"), TOKENS)


@case("JD104", "nnx", "jax-ml/bonsai@3628425 sam2 model_utils.py:141,151")
def bonsai_drop_path_without_rngs(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.branch, self.last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(2))
            self.drop_path = DropPath(0.1, rngs=None if broken else rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(x + self.drop_path(nnx.relu(self.branch(x))))

    return call(loss_step, abstract(Block), IMAGES, training=True)


@case("JD104", "nnx", "erfanzar/EasyDeL@090a03b falcon:398/461, phi:336/397, qwen2:445/544")
def easydel_dropout_without_rngs(broken: bool) -> Call:
    return call(loss_step, transformer("nowhere" if broken else "constructor", False), TOKENS)


@case("JD104", "nnx", "google/flax@18f8f31 examples/gemma/modules.py:170,259 (the twin)")
def gemma_gets_its_rngs_in_the_call(broken: bool) -> Call:
    fn = forward if broken else lambda model, x, key: model(x, rngs=nnx.Rngs(dropout=key))
    return call(fn, transformer("call", False), TOKENS, *(() if broken else (KEY,)), training=True)


@case("JD104", "nnx", "google/flax@18f8f31 examples/mnist/train.py:45,54 (the twin)")
def mnist_gets_its_rngs_in_the_call(broken: bool) -> Call:
    class CNN(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(8, 4, (3, 3), rngs=rngs)
            self.dropout1 = nnx.Dropout(0.025)
            self.linear1, self.linear2 = nnx.Linear(64, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
            self.dropout2 = nnx.Dropout(0.025)

        def __call__(self, x: jax.Array, rngs: Any = None) -> jax.Array:
            x = nnx.relu(self.dropout1(self.conv(x), rngs=rngs)).reshape(x.shape[0], -1)
            return self.linear2(nnx.relu(self.dropout2(self.linear1(x), rngs=rngs)))

    def train(model: Any, rngs: nnx.Rngs, x: jax.Array) -> Any:
        def loss(model: Any, rngs: nnx.Rngs) -> jax.Array:
            return model(x, None if broken else rngs).sum()

        return nnx.grad(loss)(model, rngs)

    rngs = nnx.eval_shape(lambda: nnx.Rngs(dropout=0))
    return call(train, abstract(CNN), rngs, IMAGES, training=True)


@case("JD201", "nnx", "jax-ml/bonsai@3628425 llada:292,301 (the twin: a split in between)")
def llada_splits_the_key_between_layers(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.attention, self.mlp, self.last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
            self.dropout = nnx.Dropout(0.1)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            first, second = (key, key) if broken else jax.random.split(key)
            x = x + self.dropout(nnx.gelu(self.attention(x)), rngs=first)
            return self.last(x + self.dropout(nnx.gelu(self.mlp(x)), rngs=second))

    return call(lambda model, x, key: model(x, key), abstract(Block), TOKENS, KEY, training=True)


# -- frozen


def frozen(broken: bool, *, hard: bool) -> Call:
    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.wi, self.wo = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, deterministic=False, rngs=rngs)

        def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
            x = nnx.gelu(self.wi(x))
            x = self.dropout(x) if broken else self.dropout(x, deterministic=deterministic)
            return self.wo(x)

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([Layer(rngs) for _ in range(2 if hard else 1)])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers:
                x = x + layer(x)
            return x

    return call(forward, abstract(Model), TOKENS, training=False)


@case("JD105", "nnx", "jax-ml/bonsai@3628425 umt5 modeling (153ff)", also=("JD102",))
def umt5_is_on_until_eval_is_called(broken: bool) -> Call:
    return frozen(broken, hard=True)


@case("JD105", "nnx", "jax-ml/bonsai@3628425 sam2 model_utils.py", also=("JD102",))
def sam2_is_on_until_eval_is_called(broken: bool) -> Call:
    return frozen(broken, hard=False)


# -- keys


@case(
    "JD207",
    "linen",
    "AI-Hypercomputer/maxtext@e591f30 utils/maxtext_utils.py:2054,2084",
    both=("JD302",),
)
def maxtext_one_key_for_params_dropout_and_aqt(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dropout(0.1, broadcast_dims=(-2,))(nn.Dense(8)(x), deterministic=False)
            return nn.Dense(4)(x)

    def init_initial_state(key: jax.Array, x: jax.Array) -> Any:
        keys = (key, key, key) if broken else tuple(jax.random.split(key, 3))
        return Net().init(dict(zip(("params", "dropout", "aqt"), keys, strict=True)), x)

    return call(init_initial_state, KEY, TOKENS)


@case("JD206", "linen", "AI-Hypercomputer/maxtext@e591f30 train.py:1075, grpo_trainer:1269")
def maxtext_unsafe_rbg_under_vmap(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(4)(nn.Dropout(0.1)(nn.Dense(8)(x), deterministic=False))

    inner = applied(Net(), TOKENS)
    impl = "unsafe_rbg" if broken else "threefry2x32"
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=impl), 3))
    stages = jax.vmap(inner.fn, in_axes=(None, 0, 0))
    return call(stages, inner.args[0], keys, array(3, 2, 6, 8))


# -- shared masks


@case("JD302", "linen", "google/flaxformer@399ea3a t5_common_layers.py:86")
def flaxformer_broadcasts_over_the_length(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            axes = (-2,) if broken else ()
            x = nn.Dropout(0.1, broadcast_dims=axes)(nn.Dense(8)(x), deterministic=False)
            return nn.Dense(4)(x)

    return applied(Net(), TOKENS)


@case("JD302", "linen", "google-research/t5x@cc342d4 examples/t5/network.py")
def t5x_broadcasts_in_the_mlp(broken: bool) -> Call:
    class MlpBlock(nn.Module):
        intermediate_dropout_rate: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.gelu(nn.Dense(16)(x)) * nn.Dense(16)(x)
            axes = (-2,) if broken else ()
            x = nn.Dropout(self.intermediate_dropout_rate, axes)(x, deterministic=False)
            return nn.Dense(8)(x)

    return applied(MlpBlock(), TOKENS)


@case("JD301", "linen", "NVIDIA/TransformerEngine@d0067d0 docs tutorials: broadcast_dropout=True")
def transformer_engine_shares_over_batch_and_heads(broken: bool) -> Call:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            layer = nn.MultiHeadDotProductAttention(
                2, dropout_rate=0.1, broadcast_dropout=broken, deterministic=False
            )
            return nn.Dense(4)(layer(x))

    return applied(Block(), TOKENS)


@case("JD304", "jax", "jax-ml/jax jax/example_libraries/stax.py:261 (rate = keep probability)")
def stax_takes_a_keep_probability(broken: bool) -> Call:
    from jax.example_libraries import stax

    _, apply = stax.serial(
        stax.Dense(8), stax.Relu, stax.Dropout(0.1 if broken else 0.9), stax.Dense(2)
    )

    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return apply(w, x, rng=key)

    weights = [(array(8, 8), array(1, 8)), (), (), (array(8, 2), array(1, 2))]
    return call(run, weights, KEY, X)
