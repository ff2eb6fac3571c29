"""Faults that people reported in issues and pull requests, rebuilt in JAX, each with its address.

Some were found in PyTorch or TensorFlow; the fault is the same in every framework. All were written
when the rules stood, and before any of them was audited. The rules then missed one of 28, whose
rate is called `dropout_output`, and found nothing in the twins.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.example_libraries import stax
from jax.sharding import Mesh, PartitionSpec

from tests.audit.gallery import KEY, STEP, Call, array, call, case
from tests.audit.gallery._linen import applied, variables
from tests.audit.gallery._nnx import abstract, forward, loss_step

X = array(4, 8)
TOKENS = array(2, 6, 8)


def attend(weights: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.einsum("bts,bsd->btd", weights, value)


def scores(query: jax.Array, key: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.einsum("btd,bsd->bts", query, key))


def drop(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


# -- never drawn


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    attention_dropout: float = 0.1
    resid_pdrop: float = 0.1


@case("JD101", "linen", "huggingface/transformers#28059")
def flax_llama_makes_no_key_for_attention(broken: bool) -> Call:
    class FlaxLlamaAttention(nn.Module):
        config: LlamaConfig

        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            key = None
            if not broken and not deterministic:
                key = self.make_rng("dropout")
            weights = scores(nn.Dense(8)(x), nn.Dense(8)(x))
            if key is not None:
                weights = drop(key, weights, self.config.attention_dropout)
            x = nn.Dense(8)(attend(weights, nn.Dense(8)(x)))
            return nn.Dropout(self.config.resid_pdrop)(x, deterministic=deterministic)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            x = x + FlaxLlamaAttention(LlamaConfig())(x, deterministic)
            return nn.Dense(4)(x)

    return applied(Model(), TOKENS, audited=True, deterministic=False)


@case("JD101", "linen", "jenkspt/gpt-jax#1")
def gpt_jax_overwrites_what_it_dropped(broken: bool) -> Call:
    class Attention(nn.Module):
        dropout_rate: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            weights = scores(nn.Dense(8)(x), nn.Dense(8)(x))
            dropped = nn.Dropout(self.dropout_rate)(weights, deterministic=False)
            x = attend(weights if broken else dropped, nn.Dense(8)(x))
            x = nn.Dense(8, name="c_proj")(x)
            return nn.Dropout(self.dropout_rate)(x, deterministic=False)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(4)(x + Attention()(x))

    return applied(Model(), TOKENS, audited=True)


@case("JD101", "nnx", "zhouhaoyi/Informer2020#97")
def informer_prob_attention_makes_a_layer_and_never_uses_it(broken: bool) -> Call:
    class ProbAttention(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            weights = scores(x, x)
            return attend(weights if broken else self.dropout(weights), x)

    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.attention, self.last = ProbAttention(rngs), nnx.Linear(8, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(x + self.dropout(self.attention(x)))

    return call(loss_step, abstract(Layer), TOKENS, training=True)


@case("JD103", "jax", "kuanghuei/clean-net#2")
def clean_net_drops_a_value_that_nobody_reads(broken: bool) -> Call:
    def step(w: Any, key: jax.Array, x: jax.Array) -> Any:
        def loss(w: Any) -> jax.Array:
            h0 = jax.nn.relu(x @ w["w1"])
            h = drop(key, h0, 0.1)
            return jnp.square((h0 if broken else h) @ w["w2"]).mean()

        return jax.grad(loss)(w)

    return call(step, {"w1": array(8, 16), "w2": array(16, 4)}, KEY, X, training=True)


@case("JD101", "nnx", "ageron/handson-ml#304", also=("JD103",))
def handson_ml_reads_the_layer_before_dropout(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.fc1, self.output = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
            self.fc1_drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            fc1 = nnx.relu(self.fc1(x))
            dropped = self.fc1_drop(fc1)
            return self.output(fc1 if broken else dropped)

    return call(loss_step, abstract(Net), X, training=True)


@case("JD101", "linen", "kanyun-inc/commonsense-rc#4")
def commonsense_rc_guards_one_rate_by_another(broken: bool) -> Call:
    class StackedRNN(nn.Module):
        dropout_rate: float = 0.0
        dropout_output: float = 0.4
        dropout_emb: float = 0.3

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dropout(self.dropout_emb)(nn.Dense(8)(x), deterministic=False)
            x = nn.relu(nn.Dense(16)(x))
            rate = self.dropout_rate if broken else self.dropout_output
            return nn.Dense(4)(nn.Dropout(rate)(x, deterministic=False))

    return applied(StackedRNN(), X, audited=True)


@case("JD101", "linen", "huggingface/diffusers#522", also=("JD103",))
def flax_unet_was_written_for_inference(broken: bool) -> Call:
    class FlaxResnetBlock2D(nn.Module):
        dropout_prob: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            y = nn.Conv(8, (3, 3))(nn.swish(nn.GroupNorm(2)(x)))
            y = nn.swish(nn.GroupNorm(2)(y))
            if not broken:
                y = nn.Dropout(self.dropout_prob)(y, deterministic=deterministic)
            return nn.Conv(8, (3, 3))(x + nn.Conv(8, (3, 3))(y))

    return applied(FlaxResnetBlock2D(), array(2, 4, 4, 8), audited=True, deterministic=False)


# -- drawn in evaluation


class FlashAttention(nnx.Module):
    """Calls a function of attention, which has no mode of its own."""

    def __init__(self, broken: bool, rngs: nnx.Rngs) -> None:
        self.project, self.broken = nnx.Linear(8, 8, rngs=rngs), broken
        self.rngs, self.deterministic, self.dropout = rngs.fork(), True, 0.1

    def __call__(self, x: jax.Array) -> jax.Array:
        rate = self.dropout if self.broken or not self.deterministic else 0.0
        weights = scores(x, x)
        weights = drop(self.rngs.dropout(), weights, rate) if rate else weights
        return self.project(attend(weights, x))


@case("JD102", "nnx", "karpathy/nanoGPT#240")
def nano_gpt_flash_attention_drops_in_evaluation(broken: bool) -> Call:
    return call(forward, abstract(FlashAttention, broken), TOKENS, training=False)


@case("JD102", "linen", "colehurwitz/IBL_MtM_model#13")
def ibl_mtm_flash_attention_drops_in_evaluation(broken: bool) -> Call:
    class Attention(nn.Module):
        dropout: float = 0.2

        @nn.compact
        def __call__(self, x: jax.Array, training: bool) -> jax.Array:
            out = nn.dot_product_attention(
                x[:, :, None],
                x[:, :, None],
                x[:, :, None],
                dropout_rng=self.make_rng("dropout"),
                dropout_rate=self.dropout if broken or training else 0.0,
                broadcast_dropout=False,
                deterministic=False,
            )
            return nn.Dense(4)(out[:, :, 0])

    return applied(Attention(), TOKENS, audited=False, training=False)


@case("JD102", "nnx", "ipolharvard/ethos-ares#20", also=("JD105",))
def ethos_never_calls_eval(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.last = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.dropout(nnx.gelu(self.first(x))))

    model = abstract(Net)
    if not broken:
        model.eval()

    def estimate_loss(model: Any, x: jax.Array) -> jax.Array:
        return jnp.square(jax.lax.stop_gradient(model(x))).mean()

    return call(estimate_loss, model, X, training=False)


@case("JD102", "jax", "jax-ml/jax#16218")
def stax_fixes_the_mode_when_it_is_built(broken: bool) -> Call:
    mode = "train" if broken else "test"
    _, apply = stax.serial(stax.Dense(8), stax.Relu, stax.Dropout(0.9, mode=mode), stax.Dense(2))
    weights = [(array(8, 8), array(1, 8)), (), (), (array(8, 2), array(1, 2))]

    def predict(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return apply(w, x, rng=key)

    return call(predict, weights, KEY, X, training=False)


# -- one key for ever


@case("JD205", "nnx", "google/flax#4539")
def jitting_a_module_makes_its_state_a_constant(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.last, self.dropout = nnx.Linear(8, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.dropout(nnx.relu(x)))

    if not broken:
        return call(forward, abstract(Net), X)
    graph, state = nnx.split(Net(rngs=nnx.Rngs(0)))

    @jax.jit
    def apply(x: jax.Array) -> jax.Array:
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))(x)

    return call(lambda x: apply(x), X)


@case("JD202", "jax", "patrick-kidger/equinox#498")
def a_key_as_an_attribute_of_the_model(broken: bool) -> Call:
    def step(model: Any, number: jax.Array, x: jax.Array) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            key = model["key"] if broken else jax.random.fold_in(model["key"], number)
            return jnp.square(drop(key, jax.nn.relu(x @ w), 0.1) @ w.T).mean()

        return {**model, "w": model["w"] - 0.1 * jax.grad(loss)(model["w"])}

    return call(step, {"w": array(8, 16), "key": KEY}, STEP, X, training=True, step="number")


@case("JD205", "jax", "jax-ml/jax#170")
def a_key_made_in_the_layer(broken: bool) -> Call:
    def apply_fun(w: Any, x: jax.Array, rng: jax.Array) -> jax.Array:
        rng = jax.random.PRNGKey(3) if broken else rng
        keep = jax.random.bernoulli(rng, 0.9, x.shape)
        return jnp.where(keep, x / 0.9, 0) @ w

    def run(w: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return apply_fun(w["w2"], jax.nn.relu(x @ w["w1"]), key)

    return call(run, {"w1": array(8, 16), "w2": array(16, 4)}, X, KEY)


@case("JD205", "jax", "elixir-nx/axon#423")
def keys_built_with_the_model(broken: bool) -> Call:
    built = jax.random.split(jax.random.key(7), 2)

    def predict(w: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        keys = built if broken else jax.random.split(key)
        x = drop(keys[0], jax.nn.relu(x @ w["w1"]), 0.1)
        return drop(keys[1], jax.nn.relu(x @ w["w2"]), 0.1) @ w["w3"]

    weights = {"w1": array(8, 16), "w2": array(16, 16), "w3": array(16, 4)}
    return call(predict, weights, X, KEY)


class MLP(nn.Module):
    rate: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(4)(nn.Dropout(self.rate)(x, deterministic=False))


@case("JD203", "linen", "google-research/vision_transformer#286")
def accumulate_gradient_passes_one_key(broken: bool) -> Call:
    model = MLP()

    def loss_and_grad(weights: Any, images: jax.Array, key: jax.Array) -> Any:
        def loss(weights: Any) -> jax.Array:
            return jnp.square(model.apply(weights, images, rngs={"dropout": key})).mean()

        return jax.value_and_grad(loss)(weights)

    def accumulate_gradient(weights: Any, images: jax.Array, key: jax.Array) -> Any:
        def own(index: Any) -> jax.Array:
            return key if broken else jax.random.fold_in(key, index)

        def acc_grad_and_loss(index: jax.Array, carry: Any) -> Any:
            part = jax.lax.dynamic_slice(images, (index * 4, 0), (4, 8))
            return jax.tree.map(jnp.add, carry, loss_and_grad(weights, part, own(index)))

        first = loss_and_grad(weights, images[:4], own(0))
        return jax.lax.fori_loop(1, 3, acc_grad_and_loss, first)

    return call(accumulate_gradient, variables(model, X), array(12, 8), KEY, training=True)


@case("JD301", "jax", "patrick-kidger/equinox#306")
def bert_example_shares_over_batch_and_sequence(broken: bool) -> Call:
    def token(w: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return drop(key, jax.nn.gelu(x @ w["w1"]), 0.1) @ w["w2"]

    def run(w: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        if broken:
            rows = jax.vmap(token, in_axes=(None, 0, None))
            return jax.vmap(rows, in_axes=(None, 0, None))(w, x, key)
        keys = jax.random.split(key, x.shape[:2])
        return jax.vmap(jax.vmap(token, in_axes=(None, 0, 0)), in_axes=(None, 0, 0))(w, x, keys)

    return call(run, {"w1": array(8, 16), "w2": array(16, 4)}, TOKENS, KEY)


@case("JD204", "jax", "awslabs/slapo#67")
def a_tensor_parallel_region_needs_keys_of_its_own(broken: bool) -> Call:
    def body(w1: jax.Array, w2: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        if not broken:
            key = jax.random.fold_in(key, jax.lax.axis_index("tensor"))
        return jax.lax.psum(drop(key, jax.nn.gelu(x @ w1), 0.1) @ w2, "tensor")

    columns, rows = PartitionSpec(None, "tensor"), PartitionSpec("tensor", None)
    mesh = Mesh(np.array(jax.devices()[:2]), ("tensor",))
    run = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(columns, rows, PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return call(run, array(8, 16), array(16, 8), X, KEY)


# -- a keep probability


@case("JD304", "linen", "hunkim/DeepLearningZeroToAll#204")
def zero_to_all_gives_a_keep_probability(broken: bool) -> Call:
    return applied(MLP(rate=0.7 if broken else 0.3), X)


@case("JD304", "nnx", "aymericdamien/TensorFlow-Examples#205")
def tensorflow_examples_give_a_keep_probability(broken: bool) -> Call:
    class ConvNet(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv, self.out = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.fc1 = nnx.Linear(64, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.75 if broken else 0.25, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.conv(x)).reshape(x.shape[0], -1)
            return self.out(self.dropout(self.fc1(x)))

    return call(loss_step, abstract(ConvNet), array(2, 4, 4, 3), training=True)


@case("JD304", "linen", "macanv/BERT-BiLSTM-CRF-NER#193")
def a_rate_that_is_a_keep_probability_in_an_rnn(broken: bool) -> Call:
    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.RNN(nn.SimpleCell(8))(x)
            return nn.Dense(4)(nn.Dropout(0.9 if broken else 0.1)(x, deterministic=False))

    return applied(Tagger(), TOKENS)


@case("JD304", "jax", "google-research/google-research#369")
def demogen_drops_whole_channels_at_the_keep_probability(broken: bool) -> Call:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ w["w1"])
        keep = jax.random.bernoulli(key, 0.2 if broken else 0.8, (x.shape[0], 1, x.shape[2]))
        return (x * keep / (0.2 if broken else 0.8)) @ w["w2"]

    return call(run, {"w1": array(8, 16), "w2": array(16, 4)}, KEY, TOKENS, ignore=("JD302",))


@case("JD304", "linen", "pudae/tensorflow-densenet#22")
def densenet_confuses_rate_and_keep_prob(broken: bool) -> Call:
    class DenseBlock(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            y = nn.Conv(4, (3, 3))(nn.relu(x))
            y = nn.Dropout(0.8 if broken else 0.2)(y, deterministic=False)
            return nn.Conv(2, (1, 1))(jnp.concatenate([x, y], -1))

    return applied(DenseBlock(), array(2, 4, 4, 3))


@case("JD304", "linen", "tensorforce/tensorforce#111", also=("JD101",))
def tensorforce_gives_dropout_as_output_keep_prob(broken: bool) -> Call:
    class Policy(nn.Module):
        dropout: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.RNN(nn.LSTMCell(8))(x)
            keep = self.dropout if broken else 1 - self.dropout
            return nn.Dense(4)(nn.Dropout(1 - keep)(x[:, -1], deterministic=False))

    return applied(Policy(), TOKENS)


# -- at the wrong place


@case("JD303", "nnx", "luigibonati/mlcolvar#205")
def mlcolvar_normalizes_behind_dropout(broken: bool) -> Call:
    class FeedForward(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.last = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
            self.dropout, self.norm = nnx.Dropout(0.1, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.first(x))
            x = self.norm(self.dropout(x)) if broken else self.dropout(self.norm(x))
            return self.last(x)

    return call(loss_step, abstract(FeedForward), X, training=True)


@case("JD303", "linen", "luigibonati/mlcolvar#267")
def mlcolvar_normalizes_behind_activation_and_dropout(broken: bool) -> Call:
    class FeedForward(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(1):
                x = nn.Dense(16)(x)
                if not broken:
                    x = nn.BatchNorm(use_running_average=False)(x)
                x = nn.Dropout(0.25)(nn.tanh(x), deterministic=False)
                if broken:
                    x = nn.BatchNorm(use_running_average=False)(x)
            return nn.Dense(2)(x)

    return applied(FeedForward(), X)


@case("JD305", "jax", "maddin79/darch#12")
def darch_drops_the_output_layer(broken: bool) -> Call:
    def step(w: Any, key: jax.Array, x: jax.Array, labels: jax.Array) -> Any:
        def loss(w: Any) -> jax.Array:
            first, second = jax.random.split(key)
            hidden = drop(first, jax.nn.sigmoid(x @ w["w1"]), 0.2)
            logits = hidden @ w["w2"] + w["b"]
            logits = drop(second, logits, 0.2) if broken else logits
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            return -chosen.mean()

        return jax.value_and_grad(loss)(w)

    weights = {"w1": array(8, 16), "w2": array(16, 4), "b": array(4)}
    return call(step, weights, KEY, X, array(4, dtype=jnp.int32), training=True)


@case("JD305", "linen", "yue-sun/generative-art#67")
def generative_art_adds_dropout_in_the_output_layer(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.Conv(4, (3, 3))(x)).reshape(x.shape[0], -1)
            x = nn.Dense(3)(x)
            return nn.Dropout(0.25)(x, deterministic=False) if broken else x

    return applied(Net(), array(2, 4, 4, 3))
