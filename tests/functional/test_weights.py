"""Dropped weights against closed forms, PyTorch, and fairseq's formula."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from jax.tree_util import DictKey, KeyPath
from scipy import stats

import jaxdrop
from jaxdrop.functional import weights
from tests import statistics
from tests.catalogue import KEY, RATE
from tests.oracles import require

P = PartitionSpec
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)

each_convention = pytest.mark.parametrize("scale_by_keep", [True, False], ids=["scaled", "wan"])


def moments(scale_by_keep: bool, rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Of a pre-activation: variants.md's closed form, and the same over (1 - rate)."""
    x, w = np.asarray(X, np.float64), np.asarray(W, np.float64)
    scale = 1 / (1 - rate) if scale_by_keep else 1
    return scale * (1 - rate) * x @ w, scale**2 * rate * (1 - rate) * (x * x) @ (w * w)


def draws(fn: Callable[..., jax.Array], samples: int, **options: Any) -> np.ndarray:
    keys = jax.random.split(KEY, samples)
    return np.asarray(jax.vmap(lambda key: fn(key, X, W, RATE, **options))(keys), np.float64)


def kept(connect: Callable[..., jax.Array], examples: int = 5) -> np.ndarray:
    """The masks of all examples, shape (examples, in, out), seen one input feature at a time."""

    def one(feature: jax.Array) -> jax.Array:
        return connect(KEY, jnp.broadcast_to(feature, (examples, 8)), jnp.ones_like(W), RATE)

    return np.asarray(jax.vmap(one, out_axes=1)(jnp.eye(8)) > 0)


# -- DropConnect


@pytest.mark.sweep
@each_convention
@pytest.mark.parametrize(
    "fn",
    [
        weights.drop_connect,
        functools.partial(weights.drop_connect, per="example"),
        weights.drop_connect_gaussian,
    ],
    ids=["shared", "per_example", "gaussian"],
)
def test_drop_connect_moments(fn: Callable[..., jax.Array], scale_by_keep: bool) -> None:
    """Mean and variance of each output. Right code fails with a probability of 2e-6."""
    samples = 2**14
    y = draws(fn, samples, scale_by_keep=scale_by_keep)
    mean, variance = moments(scale_by_keep)
    assert statistics.normal((y.mean(0) - mean) / np.sqrt(variance / samples)) > 1e-6
    squares = (y - mean) ** 2
    assert (
        statistics.normal((squares.mean(0) - variance) / (squares.std(0) / np.sqrt(samples))) > 1e-6
    )


@each_convention
def test_moment_matched_pre_activations_are_normal_and_independent(scale_by_keep: bool) -> None:
    """Right code fails with a probability of 2e-6."""
    mean, variance = moments(scale_by_keep)
    z = (
        (draws(weights.drop_connect_gaussian, 2**13, scale_by_keep=scale_by_keep) - mean)
        / np.sqrt(variance)
    ).reshape(2**13, -1)
    assert stats.kstest(z[:, 0], "norm").pvalue > 1e-6
    pairs = (z.T @ z)[np.triu_indices(z.shape[1], 1)] / np.sqrt(len(z))
    assert statistics.normal(pairs) > 1e-6


def test_inference_of_the_paper_averages_the_activation() -> None:
    """E relu(u) of u ~ N(mean, s^2) is mean Phi(mean / s) + s phi(mean / s). Right code fails with
    a probability of 1e-6.
    """
    mean, variance = moments(scale_by_keep=False)
    s = np.sqrt(variance)
    expected = mean * stats.norm.cdf(mean / s) + s * stats.norm.pdf(mean / s)
    active = np.maximum(draws(weights.drop_connect_gaussian, 2**14, scale_by_keep=False), 0)
    assert statistics.normal((active.mean(0) - expected) / (active.std(0) / 2**7)) > 1e-6


@each_convention
def test_evaluation_uses_the_mean_weights(scale_by_keep: bool) -> None:
    for fn in (weights.drop_connect, weights.drop_connect_gaussian):
        off = functools.partial(fn, deterministic=True, scale_by_keep=scale_by_keep)
        np.testing.assert_allclose(
            off(None, X, W, RATE), moments(scale_by_keep)[0], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            jax.jit(off)(None, X, W, RATE), moments(scale_by_keep)[0], rtol=1e-5, atol=1e-6
        )
        at_zero = jax.make_jaxpr(
            lambda x, w, fn=fn: fn(None, x, w, 0, scale_by_keep=scale_by_keep)
        )(X, W)
        assert str(at_zero) == str(jax.make_jaxpr(lambda x, w: x @ w)(X, W))


def test_shared_mask_is_that_of_dropout() -> None:
    np.testing.assert_array_equal(
        weights.drop_connect(KEY, X, W, RATE), X @ jaxdrop.dropout(KEY, W, RATE)
    )


@each_convention
@pytest.mark.parametrize("per", ["batch", "example"])
def test_drop_connect_is_pytorch_with_the_same_mask(per: str, scale_by_keep: bool) -> None:
    torch = require("torch")
    connect = functools.partial(weights.drop_connect, per=per, scale_by_keep=scale_by_keep)
    mask = kept(connect)
    x, w = (torch.tensor(np.asarray(a), requires_grad=True) for a in (X, W))
    y = torch.einsum("bi,bio->bo", x, w * torch.tensor(mask)) / ((1 - RATE) if scale_by_keep else 1)
    y.square().sum().backward()
    ours, vjp = jax.vjp(lambda x, w: connect(KEY, x, w, RATE), X, W)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-5, atol=1e-6)
    for found, expected in zip(vjp(2 * ours), (x.grad, w.grad), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_dropped_weights_do_not_leak(per: str) -> None:
    connect = functools.partial(weights.drop_connect, per=per)
    x = X[:1]  # of one example, so that a dropped weight counts nowhere
    dropped = ~kept(connect, len(x))[0]
    poison = jnp.where(dropped, jnp.nan, W)
    value, vjp = jax.vjp(lambda x, w: connect(KEY, x, w, RATE), x, poison)
    dx, dw = vjp(jnp.ones_like(value))
    chex.assert_tree_all_finite((value, dx, dw))
    np.testing.assert_array_equal(dw == 0, dropped)


@pytest.mark.usefixtures("relaxed")
def test_gaussian_draws_have_the_digits_of_the_weights() -> None:
    """Whatever the dtype of `x`. The noise is too small to be seen."""
    with jax.enable_x64(True):
        w = np.random.default_rng(0).normal(size=W.shape)
        y = weights.drop_connect_gaussian(KEY, X, w, 1e-30)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, np.asarray(X, np.float64) @ w, rtol=1e-12)


def test_gaussian_draws_have_finite_gradients_without_variance() -> None:
    for x, rate in [(jnp.zeros_like(X), RATE), (X, jnp.float32(0)), (X, jnp.float32(1))]:
        chex.assert_tree_all_finite(
            jax.grad(lambda x, rate=rate: weights.drop_connect_gaussian(KEY, x, W, rate).sum())(x)
        )


def test_nothing_but_the_arguments_is_stored() -> None:
    for fn in (
        weights.drop_connect,
        functools.partial(weights.drop_connect, per="example"),
        weights.drop_connect_gaussian,
    ):
        stored = jax.eval_shape(
            lambda x, w, fn=fn: jax.vjp(lambda x, w: fn(KEY, x, w, RATE), x, w)[1], X, W
        )
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(stored) if leaf.shape)
        assert shapes == sorted([X.shape, W.shape])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    "rate", [np.linspace(0.1, 0.9, 3), np.linspace(0.1, 0.9, 8).reshape(8, 1)], ids=["out", "in"]
)
def test_rates_per_feature(rate: np.ndarray) -> None:
    rate = jnp.asarray(rate, jnp.float32)
    np.testing.assert_array_equal(
        weights.drop_connect(KEY, X, W, rate), X @ jaxdrop.dropout(KEY, W, rate)
    )
    drawn = jax.vmap(lambda key: weights.drop_connect_gaussian(key, X, W, rate))(
        jax.random.split(KEY, 4096)
    )
    rate, x, w = (np.asarray(a, np.float64) for a in (rate, X, W))
    s = np.sqrt((x * x) @ (rate / (1 - rate) * w * w) / len(drawn))
    assert statistics.normal((np.asarray(drawn, np.float64).mean(0) - x @ w) / s) > 1e-6


def test_shared_masks_under_a_mesh() -> None:
    expected = weights.drop_connect(KEY, X[:4], W[:, :2], RATE)
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = (P("a"), P(None, "b"))
    placed = [
        jax.device_put(array, jax.NamedSharding(mesh, spec))
        for array, spec in zip((X[:4], W[:, :2]), specs, strict=True)
    ]
    np.testing.assert_allclose(
        jax.jit(lambda x, w: weights.drop_connect(KEY, x, w, RATE))(*placed),
        expected,
        rtol=1e-6,
        atol=1e-6,
    )
    for per_example, fn, spec in [
        (False, functools.partial(weights.drop_connect, spec=specs[1]), P("a", "b")),
        (
            True,
            functools.partial(weights.drop_connect, per="example", spec=P("a", None, "b")),
            P("a", "b"),
        ),
        (False, functools.partial(weights.drop_connect_gaussian, spec=P("a", "b")), P("a", "b")),
    ]:
        local = jax.shard_map(
            lambda x, w, fn=fn: fn(KEY, x, w, RATE), mesh=mesh, in_specs=specs, out_specs=spec
        )
        whole = functools.partial(fn.func, per="example") if per_example else fn.func
        np.testing.assert_allclose(
            jax.jit(local)(X[:4], W[:, :2]), whole(KEY, X[:4], W[:, :2], RATE), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("fn", [weights.drop_connect, weights.drop_connect_gaussian])
def test_drop_connect_rejects(fn: Callable[..., jax.Array]) -> None:
    with pytest.raises(ValueError, match=r"shape \(\.\.\., in\)"):
        fn(KEY, X, W.T, RATE)
    with pytest.raises(TypeError, match="int32"):
        fn(KEY, X, jnp.ones((8, 3), jnp.int32), RATE)
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        fn(KEY, X, W, 1.5)
    with pytest.raises(ValueError, match="does not broadcast"):
        fn(KEY, X, W, jnp.full(4, 0.5))
    with pytest.raises(ValueError, match="key is None"):
        fn(None, X, W, RATE)
    np.testing.assert_array_equal(fn(None, X, W, 1), jnp.zeros((5, 3)))


# -- weight drop

TREE = {
    "cell": {
        "hi": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
        "ii": {"kernel": jnp.ones((4, 4))},
    },
    "head": [jnp.ones((4, 4))],
}


def dropped_names(tree: Any) -> set[str]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in flat
        if (leaf == 0).any()
    }


def recurrent(path: KeyPath) -> bool:
    return DictKey("hi") in path and path[-1] == DictKey("kernel")


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("kernel$", {"cell/hi/kernel", "cell/ii/kernel"}),
        (r"^cell/h[ifgo]/kernel$", {"cell/hi/kernel"}),
        ("head/0", {"head/0"}),
        (recurrent, {"cell/hi/kernel"}),
    ],
)
def test_only_the_chosen_leaves_are_dropped(match: weights.Match, expected: set[str]) -> None:
    dropped = weights.weight_drop(KEY, TREE, 0.5, match=match)
    chex.assert_trees_all_equal_shapes_and_dtypes(dropped, TREE)
    assert dropped_names(dropped) == expected
    assert dropped["cell"]["hi"]["bias"] is TREE["cell"]["hi"]["bias"]


def test_leaves_have_masks_of_their_own_that_do_not_depend_on_other_leaves() -> None:
    everything = weights.weight_drop(KEY, TREE, 0.5, match="kernel|head")
    leaves = [
        everything["cell"]["hi"]["kernel"],
        everything["cell"]["ii"]["kernel"],
        everything["head"][0],
    ]
    assert len({leaf.tobytes() for leaf in map(np.asarray, leaves)}) == 3
    alone = weights.weight_drop(KEY, {"cell": {"ii": TREE["cell"]["ii"]}}, 0.5, match="kernel")
    np.testing.assert_array_equal(alone["cell"]["ii"]["kernel"], leaves[1])


def test_a_state_has_the_masks_of_the_dict_with_the_same_names() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(0))])

    state = nnx.state(Net(), nnx.Param)
    dropped = weights.weight_drop(KEY, state, 0.5, match="kernel$")
    assert isinstance(dropped, nnx.State)
    expected = weights.weight_drop(KEY, nnx.to_pure_dict(state), 0.5, match="kernel$")
    chex.assert_trees_all_equal(nnx.to_pure_dict(dropped), expected)


def test_weight_drop_in_evaluation_is_the_tree_itself() -> None:
    assert weights.weight_drop(None, TREE, 0.5, match="kernel", deterministic=True) is TREE
    assert weights.weight_drop(None, TREE, 0, match="kernel") is TREE
    assert not weights.weight_drop(None, TREE, 1, match="head")["head"][0].any()


def test_one_mask_along_the_inputs_is_the_variational_branch_of_awd_lstm() -> None:
    drop = functools.partial(jaxdrop.dropout, broadcast_dims=(0,))
    kernel = np.asarray(
        weights.weight_drop(KEY, {"kernel": jnp.ones((64, 256))}, 0.5, match="kernel", drop=drop)[
            "kernel"
        ]
    )
    np.testing.assert_array_equal(kernel, np.broadcast_to(kernel[:1], kernel.shape))
    assert statistics.normal((np.count_nonzero(kernel[0]) - 128) / 8) > 1e-6


def test_weight_drop_under_shard_map() -> None:
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"one": P("a", "b"), "two": P(None, "a"), "three": P()}
    params = {name: jnp.ones((4, 8)) for name in specs}
    expected = weights.weight_drop(KEY, params, RATE, match="one|two")
    local = jax.shard_map(
        lambda params: weights.weight_drop(KEY, params, RATE, match="one|two", spec=specs),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=specs,
    )
    chex.assert_trees_all_equal(jax.jit(local)(params), expected)


def test_weight_drop_rejects() -> None:
    with pytest.raises(
        ValueError, match=r"no leaf of params\. The leaves are: cell/hi/bias, cell/hi/kernel"
    ):
        weights.weight_drop(KEY, TREE, 0.5, match="kernle", deterministic=True)
    with pytest.raises(ValueError, match="none at all"):
        weights.weight_drop(KEY, {}, 0.5, match="kernel")
    with pytest.raises(TypeError, match="regular expression or a function"):
        weights.weight_drop(KEY, TREE, 0.5, match=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight_drop is stochastic here"):
        weights.weight_drop(None, TREE, 0.5, match="kernel")


# -- quantization noise


def fairseq(weight: np.ndarray, blocks: np.ndarray, block_size: int) -> np.ndarray:
    """`weight` of shape (out, in) or (out, in, 1, 1), `blocks` the drawn block mask (True: dropped)
    in its order.
    """
    mask = np.repeat(blocks.ravel(), block_size).reshape(weight.shape)
    return np.where(mask, 0, weight / (1 - RATE)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((12, 5), -2), ((1, 1, 12, 5), -2), ((5, 12), -1)],
    ids=["dense", "1x1", "embedding"],
)
def test_blocks_are_those_of_fairseq(shape: tuple[int, ...], axis: int) -> None:
    w = jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)
    noisy = weights.quant_noise(KEY, w, RATE, block_size=4, axis=axis)
    rows = [
        np.moveaxis(np.asarray(a), axis, -1).reshape(5, 12) for a in (w, noisy)
    ]  # (out, in), as in PyTorch
    blocks = (rows[1].reshape(5, 3, 4) == 0).all(-1)
    assert 0 < blocks.sum() < blocks.size
    np.testing.assert_array_max_ulp(rows[1], fairseq(rows[0], blocks, 4), maxulp=1)


def test_kernels_of_more_points_are_dropped_whole() -> None:
    w = jnp.ones((3, 3, 8, 16))
    noisy = np.asarray(weights.quant_noise(KEY, w, RATE, block_size=9))
    np.testing.assert_array_equal(noisy, np.broadcast_to(noisy[:1, :1], noisy.shape))
    assert len(np.unique(noisy)) == 2


def test_quant_noise_under_shard_map() -> None:
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    for shape, options, spec in [
        ((8, 4), {"block_size": 4}, P("a", "b")),
        ((8, 4), {"block_size": 4}, P(None, "b")),
        ((4, 8), {"block_size": 4, "axis": -1}, P("a", "b")),
        ((2, 2, 4, 4), {"block_size": 2}, P(None, None, "a", "b")),
    ]:
        w = jnp.ones(shape)
        local = jax.shard_map(
            lambda w, options=options, spec=spec: weights.quant_noise(
                KEY, w, RATE, spec=spec, **options
            ),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
        )
        np.testing.assert_array_equal(
            jax.jit(local)(w), weights.quant_noise(KEY, w, RATE, **options)
        )


def test_quant_noise_rejects() -> None:
    with pytest.raises(
        ValueError, match=r"must divide the length 12 of axis 0 of w of shape \(12, 5\), got 8"
    ):
        weights.quant_noise(KEY, jnp.ones((12, 5)), RATE, deterministic=True)
    with pytest.raises(ValueError, match="must divide the 9 points"):
        weights.quant_noise(KEY, jnp.ones((3, 3, 8, 8)), RATE)
    with pytest.raises(ValueError, match="got 0"):
        weights.quant_noise(KEY, jnp.ones((12, 5)), RATE, block_size=0)
    with pytest.raises(TypeError, match=r"block_size must be an integer, got 1\.5"):
        weights.quant_noise(KEY, jnp.ones((12, 5)), RATE, block_size=1.5)
    with pytest.raises(ValueError, match="axis=2 is out of range"):
        weights.quant_noise(KEY, jnp.ones((12, 5)), RATE, axis=2)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_traced_rate_in_either_convention(deterministic: bool) -> None:
    """Gives what the number gives, and NaN where it is impossible."""

    def products(rate: Any) -> list[jax.Array]:
        options = {"scale_by_keep": False, "deterministic": deterministic}
        return [
            *(weights.drop_connect(KEY, X, W, rate, per=per, **options) for per in PER),
            weights.drop_connect_gaussian(KEY, X, W, rate, **options),
        ]

    traced = jax.jit(products)
    for found, expected in zip(traced(0.25), products(0.25), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert all(np.isnan(found).any() for found in traced(1.5))


PER: tuple[weights.Per, ...] = ("batch", "example")


def test_some_leaves_may_have_no_layout() -> None:
    params = {"one": W, "two": W, "three": X}
    specs = {"one": None, "two": P(), "three": None}
    found = weights.weight_drop(KEY, params, RATE, match="one|two", spec=specs)
    expected = weights.weight_drop(KEY, params, RATE, match="one|two")
    chex.assert_trees_all_equal(found, expected)
    for wrong in ({"one": None, "two": P()}, {**specs, "three": "a"}, 3):
        with pytest.raises(TypeError, match=r"spec must be a jax\.sharding\.Part.*, or a tree"):
            weights.weight_drop(KEY, params, RATE, match="one|two", spec=wrong)
