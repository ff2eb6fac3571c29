"""Pieces of programs, `piece(key, x)` from (4, 6) to (4, 6), each with primitives of a kind of its
own.

Together they use what JAX's own tests of control flow, transformations and effects use. No branch
hangs on a rounded number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.experimental import checkify, io_callback
from jax.sharding import NamedSharding, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx

Array = jax.Array
Piece = Callable[[Array, Array], Array]

SHAPE = (4, 6)
_RANDOM = np.random.default_rng(1)
_W = _RANDOM.normal(size=(6, 6)).astype(np.float32) / 3
W, SPD = jax.device_put((_W, np.eye(6, dtype=np.float32) + _W @ _W.T))
V = jax.device_put(_RANDOM.normal(size=SHAPE).astype(np.float32))
PIECES: dict[str, Piece] = {}
EAGER: dict[str, Piece] = {}
"""What `jax.vmap` allows outside `jax.jit`, and `jax.jit` does not, at least not among others."""


def piece(fn: Piece) -> Piece:
    PIECES[fn.__name__] = fn
    return fn


def _bit(key: Array) -> Array:
    return jax.random.bits(key, (), "uint32") % 2 == 0


def _keys(key: Array, num: int) -> Array:
    """The same key again: to split it takes longest of all to compile."""
    return jnp.broadcast_to(key, (num,))


def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh(
        (2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )


# -- the key, and layers


@piece
def dropout(key, x):
    return jaxdrop.dropout(key, x, 0.5)


@piece
def dropout_of_a_traced_rate(key, x):
    return jaxdrop.dropout(key, x, jnp.float32(0.3) * jnp.ones(()))


@piece
def dense(key, x):
    return x @ W


@piece
def noise(key, x):
    return x + jax.random.normal(key, (6,)) * jax.random.uniform(jaxdrop.key(3), (6,))


@piece
def permuted(key, x):
    return jax.random.permutation(key, x, axis=1) + jax.random.choice(key, V[:, 0], (4, 1))


@piece
def generators(key, x):
    other = jax.random.key_data(jax.random.fold_in(jax.random.key(9), 3)).sum() % 7
    return (
        x * jax.random.uniform(key, (1, 6))
        + other.astype(jnp.float32)
        + jaxdrop.dropout(jax.random.key(5), V, 0.5)
    )


# -- calls


@piece
def jitted(key, x):
    return jax.jit(lambda x, w: jnp.tanh(x @ w))(x, W)


@piece
def jit_without_outputs(key, x):
    jax.jit(lambda x: None)(x * 2)
    jax.jit(lambda x: None)(V)
    return x


@piece
def jit_of_unused_results(key, x):
    first, *_ = jax.jit(lambda k, x: (x + 1, jnp.sin(V), jax.random.uniform(k), 3.0, k))(key, x)
    return first


@piece
def jit_options(key, x):
    x = jax.jit(lambda x, n: x * n, static_argnums=1, inline=True, keep_unused=True)(x, 2)
    return jax.jit(jnp.cos, donate_argnums=0)(x)


@piece
def jit_that_hands_through(key, x):
    known, same, number = jax.jit(lambda k, x: (V, x, 2))(key, x)
    return same + known * number


@piece
def jit_with_layouts(key, x):
    layout = NamedSharding(_mesh(), PartitionSpec("a"))
    return jax.jit(lambda x: x + V, out_shardings=layout)(lax.with_sharding_constraint(x, layout))


@piece
def nested(key, x):
    return jax.jit(
        jax.checkpoint(jax.jit(lambda k, x: jaxdrop.dropout(k, jnp.sin(V @ W), 0.5) + x))
    )(key, x)


@piece
def checkpoints(key, x):
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    x = jax.checkpoint(lambda x: (jnp.sin(x @ W), V * 2)[0], policy=policy)(x)
    return jax.checkpoint(lambda k, x: x * jax.random.uniform(k, (6,)), prevent_cse=False)(key, x)


@piece
def checkpoint_that_hands_through(key, x):
    k, y, z = jax.checkpoint(lambda k, x, v: (k, x, jnp.broadcast_to(v, (3, *SHAPE)) + 1))(
        key, x, V
    )
    return y + jax.random.uniform(k, (6,)) + z.sum(0)


@piece
def named(key, x):
    with jax.named_scope("scope"):
        return jax.named_call(lambda x: jnp.tanh(x), name="call")(x)


@piece
def barrier(key, x):
    x, v, _ = lax.optimization_barrier((x, V, key))
    return x + v


# -- control flow


@piece
def cond_without_results(key, x):
    lax.cond(_bit(key), lambda x: None, lambda x: None, x)
    lax.cond(V[0, 0] > 0, lambda: None, lambda: None)
    return x


@piece
def cond_on_the_key(key, x):
    return lax.cond(_bit(key), lambda x: x @ W, lambda x: x + V, x)


@piece
def cond_on_what_is_known(key, x):
    return lax.cond(
        (V > 0).sum() > 3, lambda k, x: x + jax.random.uniform(k), lambda k, x: x * 2, key, x
    )


@piece
def switched(key, x):
    index = jax.random.bits(key, (), "uint32") % 3
    return lax.switch(index.astype(jnp.int32), [jnp.sin, jnp.cos, lambda x: -x], x)


@piece
def scan_over_keys(key, x):
    return lax.scan(lambda x, k: (jaxdrop.dropout(k, x @ W, 0.2), None), x, _keys(key, 3))[0]


@piece
def scan_with_an_idle_key(key, x):
    """What it returns does not depend on the key, though an input does."""
    _, known = lax.scan(lambda state, k: ((k, state[1] + 1), state[1]), (key, V[0]), _keys(key, 4))
    return x + known


@piece
def scan_backwards(key, x):
    total, rows = lax.scan(
        lambda c, row: (c + row, c * row), jnp.zeros(6), x, reverse=True, unroll=2
    )
    return rows + total


@piece
def scan_of_nothing(key, x):
    lax.scan(lambda c, row: (c, None), (), V)
    return lax.scan(lambda c, _: (c, None), x, None, length=0)[0]


@piece
def fori(key, x):
    known = lax.fori_loop(0, 3, lambda _, v: jnp.sin(v @ W), V)
    return lax.fori_loop(0, 2, lambda i, x: x + i, x) + known


@piece
def while_on_the_key(key, x):
    most = jax.random.bits(key, (), "uint32") % 4
    return lax.while_loop(
        lambda s: s[0] < most, lambda s: (s[0] + 1, jnp.sin(s[1])), (jnp.uint32(0), x)
    )[1]


@piece
def while_on_what_is_known(key, x):
    known = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ W), (0, V))[1]
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + V), (0, x))[1] + known


@piece
def mapped(key, x):
    rows = lax.map(lambda row: jnp.sin(row), x, batch_size=3)
    return rows + lax.associative_scan(jnp.add, V)


@piece
def inner_vmap(key, x):
    summed = jax.vmap(lambda row: row - lax.pmean(row, "i") + lax.axis_index("i"), axis_name="i")(x)
    return jax.vmap(lambda k, row: jaxdrop.dropout(k, row, 0.5))(_keys(key, 4), summed)


# -- derivatives


@jax.custom_jvp
def _jvp(x, y):
    return jnp.tanh(x) + y


@_jvp.defjvp
def _jvp_rule(primals, tangents):
    return _jvp(*primals), tangents[0] * 2 + tangents[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _vjp(scale, x, key):
    return scale * jnp.sin(x) + jax.random.uniform(key, x.shape)


_vjp.defvjp(lambda scale, x, key: (_vjp(scale, x, key), x), lambda scale, x, g: (scale * g, None))


@piece
def custom_derivatives(key, x):
    return _jvp(x, V) + _jvp(V, V) + _vjp(2.0, x, key) + _vjp(3.0, V, jaxdrop.key(4))


@piece
def activations(key, x):
    return (
        jax.nn.relu(x) + jax.nn.gelu(V) + jax.nn.softmax(x) + jax.nn.silu(x) + jax.nn.logsumexp(V)
    )


@jax.custom_gradient
def _clipped(x):
    return jnp.tanh(x), lambda g: jnp.clip(g, -1, 1)


@piece
def gradients(key, x):
    def loss(x):
        return (jaxdrop.dropout(key, jnp.sin(x @ W), 0.5) ** 2).sum() + _clipped(_jvp(x, V)).sum()

    return jnp.tanh(jax.grad(loss)(x)) + jax.jvp(jnp.sin, (V,), (x,))[1]


@piece
def second_derivatives(key, x):
    out, pull = jax.vjp(lambda x: jax.nn.softplus(x @ W), x)
    out2, push = jax.linearize(jnp.sin, V)
    curvature = jax.hessian(lambda row: jnp.sin(row).prod())(V[0])
    return pull(out)[0] + push(x) + out2 + curvature[:4] + lax.stop_gradient(x)


# -- custom rules


@jax.custom_batching.custom_vmap
def _batched(x, y):
    return jnp.sin(x) * y


@_batched.def_vmap
def _batched_rule(size, is_batched, x, y):
    return jnp.sin(x) * y, is_batched[0] or is_batched[1]


@piece
def custom_vmap(key, x):
    return _batched(x, jnp.ones_like(x)) + _batched(V, V)


@piece
def custom_solves(key, x):
    solved = lax.custom_linear_solve(
        lambda v: SPD @ v, V[0], lambda _, b: jnp.linalg.solve(SPD, b), symmetric=True
    )

    def solve(g, y):
        return y / g(jnp.ones_like(y))

    root = lax.custom_root(lambda y: y * 2 - x, jnp.zeros_like(x), lambda f, y: x / 2, solve)
    return root + solved


@piece
def linear_algebra(key, x):
    q, _ = jnp.linalg.qr(SPD + x.T @ x)
    return jnp.linalg.solve(SPD, x.T).T + jnp.linalg.cholesky(SPD)[:4] + jnp.abs(q[:4])


# -- arrays


@piece
def ordering(key, x):
    places = jnp.argsort(jax.random.bits(key, (4,), "uint32"))
    known = jnp.sort(V, axis=1) + lax.top_k(V, 6)[0] + jnp.argsort(V, axis=0)
    return jnp.sort(x, axis=1)[places] + known


@piece
def indexing(key, x):
    place = (jax.random.bits(key, (), "uint32") % 4).astype(jnp.int32)
    x = x.at[place].add(1.0).at[:, 0].set(V[:, 1])
    row = lax.dynamic_slice(x, (place, 0), (1, 6)) + lax.dynamic_index_in_dim(V, place, 0)
    return lax.dynamic_update_slice(x, row, (0, 0)) + jax.ops.segment_sum(
        x, jnp.array([0, 1, 1, 3]), 4
    )


@piece
def signals(key, x):
    spectrum = jnp.fft.rfft(x, axis=1)
    kernel = V[:1, :3][None]
    conv = lax.conv_general_dilated(x[:, None], kernel, (1,), "SAME")[:, 0]
    return (
        jnp.fft.irfft(spectrum * 2, 6, axis=1)
        + conv
        + lax.reduce_window(V, 0.0, lax.add, (1, 3), (1, 1), "SAME")
    )


@piece
def reductions(key, x):
    total = lax.reduce(x, jnp.float32(0), lambda a, b: a + b, (0,))
    return (
        x / 8
        + jnp.cumsum(V, axis=1)
        + total
        + jnp.einsum("ij,kj->ik", x, V)[:, :1]
        + lax.reduce_precision(x, 8, 20)
    )


@piece
def words(key, x):
    bits = lax.bitcast_convert_type(V, jnp.uint32)
    mask = jax.random.bits(key, SHAPE, "uint32") & bits
    empty = jnp.zeros((0, 6)).sum(0) + jnp.zeros((4, 0)).sum(1, keepdims=True)
    return (
        jnp.where(lax.population_count(mask) % 2 == 0, x, -x)
        + empty
        + jnp.asarray(True).astype(jnp.float32)
    )


@piece
def platforms(key, x):
    return lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)


@piece
def references(key, x):
    ref = jax.new_ref(x)
    ref[...] = ref[...] + V
    return ref[...]


# -- effects


@piece
def prints(key, x):
    jax.debug.callback(lambda x: None, x)
    jax.debug.callback(lambda: None)
    return x


@piece
def calls_the_host(key, x):
    shape = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    known = jax.pure_callback(lambda v: np.asarray(v) * 2, shape, V, vmap_method="sequential")
    drawn = jax.pure_callback(lambda v: np.asarray(v) + 1, shape, x, vmap_method="expand_dims")
    return known + drawn


@piece
def calls_the_host_with_effects(key, x):
    shape = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    return io_callback(lambda v: np.asarray(v), shape, x) + io_callback(
        lambda: np.ones(SHAPE, np.float32), shape
    )


@piece
def debug_checks(key, x):
    checkify.debug_check(jnp.isfinite(x).all(), "x is finite")
    return x


@piece
def sharded(key, x):
    rows = PartitionSpec("a")
    shard = functools.partial(jax.shard_map, mesh=_mesh(), in_specs=(rows, rows), out_specs=rows)
    return shard(lambda x, v: jnp.sin(x) + lax.psum(v.sum(0), "a"))(x, V) + shard(
        lambda x, v: x * v
    )(V, V)


# -- layers of others

_linear = functools.partial(nnx.Linear, 6, 6, kernel_init=lambda *_: W)
_NNX = nnx.Sequential(
    _linear(rngs=nnx.Rngs(0)),
    nnx.Dropout(0.5),
    nnx.remat(_linear(rngs=nnx.Rngs(1))),
    nnx.Dropout(0.2),
)


@piece
def flax_nnx(key, x):
    return jnp.tanh(_NNX(x, rngs=nnx.Rngs(dropout=key)))


@piece
def flax_nnx_stochastic(key, x):
    return jnp.tanh(jaxdrop.nnx.stochastic(_NNX)(key, x))


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jaxdrop.linen.Dropout(0.1, deterministic=False)(nn.tanh(nn.Dense(6)(x))), None


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            nn.remat(_Block),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=2,
        )
        return nn.BatchNorm(use_running_average=True)(
            nn.Dropout(0.3, deterministic=False)(stack()(x, None)[0])
        )


@piece
def flax_linen(key, x):
    return _Linen().apply(_VARIABLES, x, rngs={"dropout": key})


@piece
def flax_linen_stochastic(key, x):
    return jaxdrop.linen.stochastic(_Linen(), _VARIABLES)(key, x)


_EQX = eqx.filter_jit(
    lambda: eqx.nn.Sequential(
        [eqx.nn.Linear(6, 6, key=jax.random.key(0)), eqx.nn.Dropout(0.5), eqx.nn.LayerNorm(6)]
    )
)()


@piece
def equinox(key, x):
    return jax.vmap(lambda row, k: _EQX(row, key=k))(x, _keys(key, 4))


_HK = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, jax.nn.elu(hk.Linear(6)(x))))
with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    _HK_PARAMS = jax.jit(_HK.init)(jax.random.key(0), V)
    _VARIABLES = jax.jit(_Linen().init)({"params": jax.random.key(0), "dropout": jaxdrop.key(0)}, V)


@piece
def haiku(key, x):
    return _HK.apply(_HK_PARAMS, key, x)


@piece
def optimizer(key, x):
    """Two steps of training inside."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))

    def loss(w):
        return optax.huber_loss(jaxdrop.dropout(key, V, 0.5) @ w, jnp.tanh(x)).mean()

    def step(state, _):
        w, inner = state
        updates, inner = optimizer.update(jax.grad(loss)(w), inner, w)
        return (optax.apply_updates(w, updates), inner), None

    (w, _), _ = lax.scan(step, (W, optimizer.init(W)), None, length=2)
    return V @ w


# -- outside `jax.jit`


def eager(fn: Piece) -> Piece:
    EAGER[fn.__name__] = fn
    return fn


@eager
def prints_in_order(key, x):
    jax.debug.callback(lambda v: None, V, ordered=True)
    return x


@eager
def branch_on_a_value(key, x):
    return x + V if (V > 0).sum() > 3 else x


@eager
def through_numpy(key, x):
    return x * np.asarray(V * 2).max() + float(W.sum())


@eager
def length_from_a_value(key, x):
    return x + V[jnp.flatnonzero(V[:, 0] > -10)]
