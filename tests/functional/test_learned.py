"""Learned rates against closed forms, and against the published formulas in PyTorch and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop.functional import learned
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE
from tests.oracles import require

THREEFRY = KEYS["threefry"]
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
LOGIT = float(special.logit(RATE))


def exact_kl(alpha: float) -> float:
    """KL(N(1, alpha) || log-uniform), 0 at infinity: a Poisson mixture of digammas, from E log of a
    noncentral chi-square.
    """
    mean = 1 / (2 * alpha)
    counts = np.arange(stats.poisson.ppf(1 - 1e-14, mean) + 50)
    expected = stats.poisson.pmf(counts, mean) @ special.digamma(0.5 + counts)
    return (np.log(2) + expected) / 2 + (np.euler_gamma + np.log(2)) / 2


def test_the_exact_divergence_is_that_of_the_table() -> None:
    table = {0.01: 2.93269, 0.1: 1.72414, 0.5: 0.73944, 1: 0.42669, 10: 0.04918}
    np.testing.assert_allclose([exact_kl(alpha) for alpha in table], [*table.values()], atol=1e-5)


# -- concrete dropout


def concrete_mean(p: float, temperature: float) -> float:
    """`E[1 - z] / (1 - p)`, by quadrature."""
    u = (np.arange(2**20) + 0.5) / 2**20
    return float(
        special.expit(-(special.logit(p) + special.logit(u)) / temperature).mean() / (1 - p)
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
@pytest.mark.parametrize("per_feature", [False, True])
def test_concrete_dropout_is_the_published_formula(temperature: float, per_feature: bool) -> None:
    """In value, and in the gradients of input and logit."""
    torch = require("torch")
    logit = jnp.linspace(-3, 1, 8) if per_feature else jnp.float32(LOGIT)
    u = np.float64(jax.random.uniform(THREEFRY, X.shape)) + 2.0**-24
    x, l, u = (  # noqa: E741
        torch.tensor(np.float64(a), requires_grad=index < 2)
        for index, a in enumerate((X, logit, u))
    )
    p = torch.sigmoid(l)
    drop = torch.sigmoid(
        (torch.log(p) - torch.log(1 - p) + torch.log(u) - torch.log(1 - u)) / temperature
    )
    y = x * (1 - drop) / (1 - p)
    y.square().sum().backward()

    ours, vjp = jax.vjp(
        lambda x, logit: learned.concrete_dropout(THREEFRY, x, logit, temperature=temperature),
        X,
        logit,
    )
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-4, atol=1e-5)
    for found, expected in zip(vjp(2 * ours), (x.grad, l.grad), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("temperature", "bias"), [(0.1, 0.9986), (2 / 3, 0.9496)])
def test_relaxation_costs_what_the_docstring_says(temperature: float, bias: float) -> None:
    """Right code fails with a probability of 1e-6."""
    expected = concrete_mean(0.1, temperature)
    assert expected == pytest.approx(bias, abs=1e-4)
    y = np.asarray(
        learned.concrete_dropout(KEY, jnp.ones(2**20), special.logit(0.1), temperature=temperature),
        np.float64,
    )
    assert statistics.normal((y.mean() - expected) / (y.std() / 2**10)) > 1e-6


def test_low_temperature_drops_at_the_rate() -> None:
    """Right code fails with a probability of 1e-6."""
    y = learned.concrete_dropout(KEY, jnp.ones(2**16), LOGIT, temperature=1e-3)
    dropped = np.count_nonzero(np.asarray(y) < 0.5 / (1 - RATE))
    assert statistics.normal((dropped - 2**16 * RATE) / np.sqrt(2**16 * RATE * (1 - RATE))) > 1e-6


def test_spatial_form_shares_its_mask_over_space() -> None:
    y = learned.concrete_dropout(
        KEY, jnp.ones((4, 5, 6, 8)), LOGIT, temperature=2 / 3, broadcast_dims=(1, 2)
    )
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert len(np.unique(y)) == 32


@pytest.mark.parametrize("shape", [(8, 3), (3, 3, 8, 4)], ids=["dense", "convolution"])
def test_concrete_kl_is_half_of_gals_regularizers(shape: tuple[int, ...]) -> None:
    """In his convention for squared errors, at `tau = 1`."""
    w, points, lengthscale, p = RNG.normal(size=shape), 50, 0.3, RATE
    weight_regularizer, dropout_regularizer = lengthscale**2 / points, 2 / points
    expected = weight_regularizer * (w**2).sum() / (1 - p) + dropout_regularizer * 8 * (
        p * np.log(p) + (1 - p) * np.log(1 - p)
    )
    kl = learned.concrete_kl(LOGIT, jnp.asarray(w, jnp.float32), lengthscale=lengthscale)
    np.testing.assert_allclose(2 / points * kl, expected, rtol=1e-5)
    same = learned.concrete_kl(
        jnp.full(8, LOGIT), jnp.asarray(w, jnp.float32), lengthscale=lengthscale
    )
    np.testing.assert_allclose(same, kl, rtol=1e-6)
    usual = (learned.concrete_kl(LOGIT, X, **options) for options in ({}, {"lengthscale": 0.01}))
    assert len({float(value) for value in usual}) == 1
    turned = learned.concrete_kl(LOGIT, jnp.asarray(1j * w, jnp.complex64), lengthscale=lengthscale)
    np.testing.assert_allclose(turned, kl, rtol=1e-6)


def test_concrete_kl_is_finite_at_the_edges() -> None:
    """Where `p log p` of a rounded p is not."""
    for logit in (-100.0, -30.0, 0.0, 30.0, 60.0):
        chex.assert_tree_all_finite(jax.value_and_grad(learned.concrete_kl)(logit, W))
    assert (
        jax.grad(learned.concrete_kl)(0.0, jnp.zeros_like(W)) == 0
    )  # without data the rate is one half


# -- Gaussian variational dropout


def test_noise_on_the_inputs_is_the_published_formula() -> None:
    log_alpha = jnp.linspace(-3, 0, 8)
    n = np.asarray(jax.random.normal(THREEFRY, X.shape), np.float64)
    x, deviation = np.asarray(X, np.float64), np.exp(np.asarray(log_alpha, np.float64) / 2)
    y, vjp = jax.vjp(
        lambda x, log_alpha: learned.variational_dropout(THREEFRY, x, log_alpha), X, log_alpha
    )
    np.testing.assert_allclose(y, x * (1 + deviation * n), rtol=1e-5, atol=1e-6)
    dx, dlog = vjp(jnp.ones_like(y))
    np.testing.assert_allclose(dx, 1 + deviation * n, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dlog, (x * deviation * n / 2).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("shape", [(), (8, 1), (8, 3)], ids=["layer", "feature", "weight"])
def test_noise_on_the_weights_is_the_published_formula(shape: tuple[int, ...]) -> None:
    """With the gradients of autograd."""
    torch = require("torch")
    log_alpha = jnp.asarray(RNG.normal(size=shape) - 2, jnp.float32)
    noise = torch.tensor(np.float64(jax.random.normal(THREEFRY, (5, 3))))
    x, w, a = (torch.tensor(np.float64(value), requires_grad=True) for value in (X, W, log_alpha))
    y = x @ w + torch.sqrt((x * x) @ (torch.exp(a) * w * w)) * noise
    y.square().sum().backward()
    ours, vjp = jax.vjp(
        lambda x, w, a: learned.variational_dense(THREEFRY, x, w, a), X, W, log_alpha
    )
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-4, atol=1e-5)
    for found, expected in zip(vjp(2 * ours), (x.grad, w.grad, a.grad), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_noise_on_the_weights_has_their_moments() -> None:
    """Right code fails with a probability of 2e-6."""
    samples = 2**14
    draw = jax.vmap(lambda key: learned.variational_dense(key, X, W, -1.0))
    y = np.asarray(draw(jax.random.split(KEY, samples)), np.float64)
    x, w = np.asarray(X, np.float64), np.asarray(W, np.float64)
    variance = np.exp(-1) * (x * x) @ (w * w)
    assert statistics.normal((y.mean(0) - x @ w) / np.sqrt(variance / samples)) > 1e-6
    assert statistics.normal((y.var(0) / variance - 1) * np.sqrt(samples / 2)) > 1e-6


@pytest.mark.sweep
def test_variational_kl_is_right_in_its_range_and_stops_there() -> None:
    alphas = np.geomspace(1e-3, 1, 40)
    np.testing.assert_allclose(
        learned.variational_kl(jnp.log(alphas)), [exact_kl(alpha) for alpha in alphas], atol=0.035
    )
    value, slope = jax.vmap(jax.value_and_grad(learned.variational_kl))(
        jnp.asarray([0.1, 1.0, 5.0])
    )
    np.testing.assert_array_equal(value, learned.variational_kl(jnp.zeros(3)))
    assert not slope.any()
    assert (jax.vmap(jax.grad(learned.variational_kl))(jnp.linspace(-50, -0.1, 100)) < 0).all()


# -- sparse variational dropout


def test_sparse_kl_is_right_everywhere() -> None:
    """To the 0.0094 nats of the published fit."""
    log_alphas = np.linspace(-8, 8, 65)
    found = learned.sparse_kl(jnp.asarray(log_alphas, jnp.float32))
    np.testing.assert_allclose(
        found, [exact_kl(np.exp(value)) for value in log_alphas], atol=0.0095
    )
    chex.assert_tree_all_finite(
        jax.vmap(jax.value_and_grad(learned.sparse_kl))(
            jnp.asarray([-300.0, -100.0, 0.0, 100.0, 300.0])
        )
    )


def test_sparse_variational_dense_is_the_published_formula() -> None:
    """The authors' layer: noise from the clipped alpha in training, weights with a large one set to
    0 in evaluation.
    """
    log_sigma2 = jnp.asarray(RNG.normal(size=W.shape) * 4, jnp.float32)
    x, w, s = (np.asarray(a, np.float64) for a in (X, W, log_sigma2))
    log_alpha = np.clip(s - np.log(w**2 + 1e-8), -8, 8)
    np.testing.assert_allclose(
        learned.sparse_log_alpha(W, log_sigma2), log_alpha, rtol=1e-4, atol=1e-5
    )
    noise = np.asarray(jax.random.normal(THREEFRY, (5, 3)), np.float64)
    expected = x @ w + np.sqrt((x * x) @ (np.exp(log_alpha) * w * w)) * noise
    np.testing.assert_allclose(
        learned.sparse_variational_dense(THREEFRY, X, W, log_sigma2), expected, rtol=1e-4, atol=1e-4
    )

    off = learned.sparse_variational_dense(None, X, W, log_sigma2, deterministic=True)
    assert 0 < (log_alpha >= 3).sum() < w.size
    np.testing.assert_allclose(off, x @ np.where(log_alpha >= 3, 0, w), rtol=1e-4, atol=1e-5)


def test_sparse_variational_dense_has_finite_gradients_at_weights_of_zero() -> None:
    def loss(x: jax.Array, w: jax.Array, log_sigma2: jax.Array) -> jax.Array:
        log_alpha = learned.sparse_log_alpha(w, log_sigma2)
        return (
            learned.sparse_variational_dense(KEY, x, w, log_sigma2).sum()
            + learned.sparse_kl(log_alpha).sum()
        )

    for x, w in [(X, jnp.zeros_like(W)), (jnp.zeros_like(X), W)]:
        chex.assert_tree_all_finite(jax.grad(loss, (0, 1, 2))(x, w, jnp.full_like(W, -10.0)))


# -- modules

MODULES = {
    "ConcreteDropout": ({}, learned.concrete_dropout, "logit"),
    "VariationalDropout": ({"features": 8}, learned.variational_dropout, "log_alpha"),
    "VariationalDense": ({"features": 3}, learned.variational_dense, "log_alpha"),
    "SparseVariationalDense": ({"features": 3}, learned.sparse_variational_dense, "log_sigma2"),
}
PER = [
    ("VariationalDropout", "layer"),
    ("VariationalDense", "feature"),
    ("VariationalDense", "layer"),
]
CASES = [(name, {}) for name in MODULES] + [(name, {"per": per}) for name, per in PER]

each_module = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def expected_call(name: str, params: dict[str, jax.Array], **options: Any) -> jax.Array:
    function, amount = MODULES[name][1:]
    if "kernel" not in params:
        return function(KEY, X, params[amount], **options)
    return function(KEY, X, params["kernel"], params[amount], **options) + jnp.broadcast_to(
        params["bias"], (5, 3)
    )


def expected_kl(name: str, params: dict[str, jax.Array]) -> jax.Array:
    if name == "ConcreteDropout":
        return learned.concrete_kl(params["logit"], W)
    if name == "SparseVariationalDense":
        return learned.sparse_kl(
            learned.sparse_log_alpha(params["kernel"], params["log_sigma2"])
        ).sum()
    shape = (8, 3) if name == "VariationalDense" else (8,)
    return learned.variational_kl(jnp.broadcast_to(params["log_alpha"], shape)).sum()


@pytest.mark.sweep(keep=2)
@each_module
def test_nnx_modules(name: str, options: dict[str, Any]) -> None:
    sizes = {"ConcreteDropout": (), "VariationalDropout": (8,)}.get(name, (8, 3))
    layer = getattr(jaxdrop.nnx, name)(*sizes, rngs=nnx.Rngs(0), **options)
    params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    arguments = (W,) if name == "ConcreteDropout" else ()

    def loss(layer: Any) -> jax.Array:
        return (layer(X, rngs=KEY) ** 2).sum() + layer.kl(*arguments)

    @nnx.jit
    def found(layer: Any) -> Any:
        with_key, own, next_own, kl = layer(X, rngs=KEY), layer(X), layer(X), layer.kl(*arguments)
        grads = nnx.to_pure_dict(nnx.grad(loss)(layer))
        return with_key, own, next_own, kl, grads

    @jax.jit
    def expected(params: dict[str, jax.Array]) -> Any:
        return (
            expected_call(name, params),
            expected_kl(name, params),
            expected_call(name, params, deterministic=True),
        )

    with_key, own, next_own, kl, grads = found(layer)
    drawn, divergence, mean = expected(params)
    np.testing.assert_allclose(with_key, drawn, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(with_key == 0, drawn == 0)
    assert not np.array_equal(own, next_own)
    np.testing.assert_allclose(kl, divergence, rtol=1e-6)
    assert (grads[MODULES[name][2]] != 0).any()  # a clipped log alpha gets none
    layer.eval()
    np.testing.assert_allclose(nnx.jit(type(layer).__call__)(layer, X), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.sweep(keep=2)
@each_module
def test_linen_modules(name: str, options: dict[str, Any]) -> None:
    module = getattr(jaxdrop.linen, name)(**MODULES[name][0], **options)
    variables = module.init({"params": jax.random.key(0), "dropout": KEY}, X, deterministic=False)
    arguments = (W,) if name == "ConcreteDropout" else ()

    @jax.jit
    def found_and_expected(variables: Any) -> Any:
        params = variables["params"]
        return [
            (module.apply(variables, X, deterministic=False, rng=KEY), expected_call(name, params)),
            (
                module.apply(variables, X, deterministic=True),
                expected_call(name, params, deterministic=True),
            ),
            (module.apply(variables, *arguments, method="kl"), expected_kl(name, params)),
            # with a key of its own, which Linen derives
            (
                module.apply(variables, X, deterministic=False, rngs={"dropout": KEY}),
                expected_call(name, params),
            ),
        ]

    *pairs, (other, drawn) = found_and_expected(variables)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert other.shape == drawn.shape
    assert not np.array_equal(other, drawn)


def test_modules_tell_what_they_have_learned() -> None:
    concrete = jaxdrop.nnx.ConcreteDropout(RATE)
    assert concrete.learned_rate() == pytest.approx(RATE)
    module = jaxdrop.linen.ConcreteDropout(RATE, deterministic=True)
    assert module.apply(module.init(KEY, X), method="learned_rate") == pytest.approx(RATE)
    sparse = jaxdrop.nnx.SparseVariationalDense(8, 3, rngs=nnx.Rngs(0))
    assert sparse.sparsity() == 0
    sparse.log_sigma2[...] = sparse.log_sigma2[...].at[0].set(20.0)
    assert sparse.sparsity() == pytest.approx(1 / 8)


@pytest.mark.sweep
def test_a_rate_that_helps_is_learned() -> None:
    """Noise only harms a linear map of exact data: without a divergence the rate falls."""
    logit = 0.0
    for step in range(200):
        loss = jax.grad(
            lambda logit, key: (learned.concrete_dropout(key, X, logit).sum(-1) - X.sum(-1)).var()
        )
        logit -= 0.3 * loss(logit, jax.random.fold_in(KEY, step))
    assert jax.nn.sigmoid(logit) < 0.1


# -- errors


@pytest.mark.parametrize(
    "call",
    [
        learned.concrete_dropout,
        learned.variational_dropout,
        lambda key, x, value: learned.variational_dense(key, x, W, value),
        lambda key, x, value: learned.sparse_variational_dense(key, x, W, value),
    ],
    ids=["concrete", "inputs", "weights", "sparse"],
)
def test_learned_rejects(call: Callable[..., jax.Array]) -> None:
    for value in (None, "0", [0.0], jnp.int32(0)):
        with pytest.raises(TypeError, match="must be a real number"):
            call(KEY, X, value)
    with pytest.raises(ValueError, match="must be finite, got nan"):
        call(KEY, X, float("nan"))
    with pytest.raises(ValueError, match="does not broadcast"):
        call(KEY, X, jnp.zeros(7))
    with pytest.raises(ValueError, match="key is None"):
        call(None, X, 0.0)
    with pytest.raises(TypeError, match="int32"):
        call(KEY, X.astype(jnp.int32), 0.0)


def test_other_bad_input() -> None:
    with pytest.raises(
        ValueError, match=r"temperature must lie in \(0, infinity\), got 0\.0\. At 0 the noise"
    ):
        learned.concrete_dropout(KEY, X, 0.0, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must lie in"):
        learned.concrete_dropout(KEY, X, 0.0, temperature=-1.0)
    with pytest.raises(TypeError, match="takes real x, got dtype complex64"):
        learned.variational_dense(KEY, X.astype(jnp.complex64), W, 0.0)
    with pytest.raises(
        ValueError, match=r"w must be a kernel of shape \(\.\.\., in, out\), got shape \(8,\)"
    ):
        learned.concrete_kl(0.0, W[:, 0])
    for kl in (learned.variational_kl, learned.sparse_kl):
        with pytest.raises(
            TypeError, match=r"log_alpha must be a real number or an array of them, .* got None"
        ):
            kl(None)
    with pytest.raises(ValueError, match="lengthscale must lie in"):
        learned.concrete_kl(0.0, W, lengthscale=-1.0)
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
            jaxdrop.nnx.ConcreteDropout(rate)
    with pytest.raises(ValueError, match="per must be one of 'feature', 'layer'"):
        jaxdrop.nnx.VariationalDropout(8, per="weight")  # type: ignore[arg-type]
