"""`mc.analytic`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, random
from jaxdrop._in_full import in_full
from jaxdrop._mc_dropout import dependence, examples
from jaxdrop._references import cites
from jaxdrop.mc import _calls, _describe, _execution

# The modules with the rules are imported where a call needs them: they would add 6 % to the time of
# `import jaxdrop` behind JAX.

Precision = Literal["diagonal", "linearized", "enumerated"]


@cites("wang2013fast", "postels2019sampling")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Analytic:
    """Mean and variance of a function's outputs over its dropout masks. The arrays are pytrees of
    the structure and shapes of the outputs.
    """

    mean: Any
    """The mean."""
    variance: Any
    """The variance of each entry; 0 for outputs that do not depend on the key."""
    precision: str = dataclasses.field(metadata={"static": True})
    """How both were computed."""
    linearized: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    """The operations that were approximated by linear functions, and where they stand."""

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.mean)
        shape = f"shape {np.shape(leaves[0])}" if len(leaves) == 1 else f"{len(leaves)} arrays"
        some = f"; linearized: {len(self.linearized)}" if self.linearized else ""
        return _describe.short_line(self, f"{self.precision}, {shape}{some}", ("std",))

    @property
    def std(self) -> Any:
        """The standard deviation of each entry."""
        return jax.tree.map(jnp.sqrt, self.variance)


@cites(Analytic)
@_checks.hinted
def analytic(
    fn: Callable[..., Any],
    *,
    precision: Precision = "diagonal",
    pairs: int = 0,
    in_axes: examples.InAxes = 0,
    out_axes: int = 0,
    allow_deterministic: bool = False,
) -> Callable[..., Analytic]:
    """Mean and variance of `fn(key, *inputs)` over its dropout masks, in one pass without samples.

        result = mc.analytic(jaxdrop.nnx.stochastic(model))(x)
        result.mean, result.std
        mc.analytic(lambda key, x: jax.nn.softmax(fn(key, x)))(x).mean  # of the probabilities

    The traced function runs on (mean, variance) in place of arrays, from each draw on: matrix
    products and sums by `E[Wx] = W E[x]`, `Var[Wx] = W^2 Var[x]`; products of independent values
    exactly; nonlinear functions as if their argument were normal, in closed form for ReLU, GELU,
    max pooling, exponentials and powers, at eight nodes otherwise; softmax and what has no rule by
    its derivative. `linearized` lists the latter.

    ============== =========================================== =====================================
    precision      what covaries                               passes
    ============== =========================================== =====================================
    `diagonal`     nothing: all values are taken to be         2 to 5, by the activations
                   independent, also those of one coin
    `linearized`   what is linear in a mask, or in the rest    those, and one backward for each
                   that a nonlinear function adds; a coin of   output of an example
                   many entries is one coin. Exact where `fn`
                   is linear in each mask
    `enumerated`   what is a sum over the entries of the first one for each entry of the first mask
                   mask; behind it nothing
    ============== =========================================== =====================================

    Choose `linearized` where outputs are few, and `enumerated` where inputs are dropped and are
    few: a dropped input is a jump, not a small change. Where each is wrong: docs/analytic.md.

    Args:
      fn: a function of a key and of any inputs that returns an array or a pytree of arrays, as
        `jaxdrop.nnx.stochastic(model)` and `jaxdrop.linen.stochastic(model, variables)` return. It
        is traced, and draws nothing.
      precision: one of the three names.
      pairs: for `enumerated`, of how many entries each two are dropped together too: those that
        change the outputs of an example most, when dropped alone. What two do beyond the sum of
        both is added. P entries take P (P - 1) / 2 more passes. Inputs that nearly repeat each
        other need it.
      in_axes: the axis of each input along which examples lie, as in `jax.vmap`: a number for all,
        or a sequence with one for each input. `linearized` and `enumerated` run `fn` on one example
        at a time, so examples must not depend on each other. With no inputs, as for a function that
        closes over them, all outputs belong to one example.
      out_axes: the axis of examples in each output.
      allow_deterministic: whether `fn` may return nothing that depends on its key.

    Returns:
      A function of the inputs that returns an `Analytic`. Wrap it in `jax.jit` to run it more than
      once.

    Raises:
      TypeError: `fn` is no function of a key and these inputs.
      ValueError: nothing that `fn` returns depends on its key, the precision is unknown, or
        `in_axes` or `out_axes` do not fit.
      NotImplementedError: mean and variance of something random are not known, such as the place
        where a random number is largest.

    References:
      Wang & Manning, "Fast dropout training", ICML 2013. Postels et al., "Sampling-free epistemic
      uncertainty estimation using approximated variance propagation", ICCV 2019, arXiv:1908.00598.
    """
    _calls.check_function("mc.analytic", fn, "fn")
    _checks.check_one_of(precision, "precision", Precision)
    examples.check_axes(False, in_axes, out_axes)
    allowed = _checks.check_flag(allow_deterministic, "allow_deterministic")
    options = {}
    if _checks.check_count(pairs, "pairs", least=0):
        if precision != "enumerated":
            raise ValueError(
                f'pairs={pairs} belongs to precision="enumerated", not to {precision!r}'
            )
        options["pairs"] = pairs

    def run(*inputs: Any) -> Analytic:
        from jaxdrop.mc._analytic import _precisions

        own = _calls.of_key("mc.analytic", fn, len(inputs))
        alone = precision != "diagonal" and inputs
        batch = _Batch.of(inputs, in_axes if alone else None)
        program, shapes = batch.traced(own, random.key(0), batch.one_example())
        told: list[Any] = []

        def moments(constants: Any, arrays: Any) -> Any:
            found = _precisions.WAYS[precision](program, constants, arrays, **options)
            told[:] = [found.linearized, found.random]
            return found.means, found.variances

        # What the caller allows holds for `fn`, which has been traced. The rules' own arithmetic
        # repeats along axes, and mixes float32 with what the program has.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            means, variances = jax.jit(functools.partial(batch.map, moments, out_axes))(
                program.consts, batch.arrays
            )
        linearized, depends = told
        if not (depends or allowed or dependence.are_empty(jax.tree.leaves(shapes))):
            raise (
                _nothing_left(linearized)
                if linearized
                else _execution.nothing_random("mc.analytic")
            )
        structure = jax.tree.structure(shapes)
        return Analytic(
            jax.tree.unflatten(structure, means),
            jax.tree.unflatten(structure, variances),
            precision,
            linearized,
        )

    return run


@_checks.hinted
def linear_part(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The part of `fn(key, *inputs)` that is linear in its masks: a control variate.

    Its mean over the keys is exactly 0. So `fn(key, x) - coefficient * part(key, x)` has the mean
    of `fn(key, x)`, and varies less: on a digits MLP with independent keys the squared error of the
    mean falls to .07 of what it was, for 1.9 times the time. Stratified keys alone do as much, and
    where the number of samples times the rate is whole, nothing is left to gain: docs/analytic.md.

        part = mc.linear_part(fn)
        y, c = mc.predict(lambda key: (fn(key, x), part(key, x)), pilot_keys)
        coefficient = ((y - y.mean(0)) * c).mean(0) / (c**2).mean(0)
        mc.moments(lambda key: fn(key, x) - coefficient * part(key, x), other_keys).mean

    Fit the coefficient on other keys than those of the mean, which is biased otherwise. With 1 in
    place of it, single outputs got up to 21 times worse.

    Args:
      fn: as in `mc.analytic`.

    Returns:
      A function of a key and the inputs, which returns what `fn` returns: zeros, and what the masks
      of this key change, by the derivative that `mc.analytic` has with `precision="linearized"`.
      Random numbers that are no masks, as Gaussian noise, count with their means. Under `jax.vmap`
      over keys, the pass that yields the derivative runs once.

    Raises:
      TypeError, ValueError, NotImplementedError: as `mc.analytic`.
    """
    _calls.check_function("mc.linear_part", fn, "fn")

    def part(key: jax.Array, *inputs: Any) -> Any:
        from jaxdrop.mc._analytic import _precisions

        key = _checks.check_key(key, "mc.linear_part", always=True)
        own = _calls.of_key("mc.linear_part", fn, len(inputs))
        batch = _Batch.of(inputs, None)
        program, shapes = batch.traced(own, key, batch.arrays)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            found = _precisions.linear_part(program, program.consts, batch.arrays, key)
        if not found.random:
            raise _execution.nothing_random("mc.linear_part")
        return jax.tree.unflatten(jax.tree.structure(shapes), found.means)

    return part


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Inputs, with the axes of their examples."""

    leaves: list[Any]
    structure: Any
    places: list[int]
    """Which leaves are arrays."""
    axes: list[int | None]
    """The axis of examples of each array."""

    @classmethod
    def of(cls, inputs: Any, in_axes: examples.InAxes) -> _Batch:
        leaves, structure = jax.tree.flatten(inputs)
        axes = examples.leaf_axes(in_axes, inputs, {})
        places = [i for i, leaf in enumerate(leaves) if dependence.is_array(leaf)]
        return cls(leaves, structure, places, [axes[i] for i in places])

    @property
    def arrays(self) -> list[Any]:
        return [jnp.asarray(self.leaves[i]) for i in self.places]

    def traced(self, fn: Callable[..., Any], key: jax.Array, arrays: Any) -> Any:
        """The program of `fn(key, *inputs)`, a function of the key and the arrays, and the shapes
        of its results. `arrays` stand for those of the inputs.
        """

        def of_arrays(key: jax.Array, *arrays: Any) -> Any:
            leaves = list(self.leaves)
            for i, array in zip(self.places, arrays, strict=True):
                leaves[i] = array
            return fn(key, *jax.tree.unflatten(self.structure, leaves))

        with in_full(True):
            return jax.make_jaxpr(of_arrays, return_shape=True)(key, *arrays)

    def one_example(self) -> list[Any]:
        """The types of the arrays of one example; the arrays, if none has an axis of examples."""
        return [
            x
            if axis is None
            else jax.eval_shape(lambda x, axis=axis: jnp.take(x, np.array([0]), axis), x)
            for x, axis in zip(self.arrays, self.axes, strict=True)
        ]

    def map(self, run: Callable[..., Any], out_axes: int, constants: Any, arrays: Any) -> Any:
        """`run(constants, arrays)` for each example, or for all if none has an axis of examples."""
        if all(axis is None for axis in self.axes):
            return run(constants, arrays)
        return examples.over_examples(
            lambda constants, *arrays: run(constants, arrays), self.axes, out_axes, _ALONE
        )(constants, *arrays)


def _nothing_left(linearized: tuple[str, ...]) -> ValueError:
    """The error for random values of which nothing is followed, such as the place of a maximum."""
    return ValueError(
        "mc.analytic follows nothing random to what fn returns, since it has no mean and variance"
        f" of places: {'; '.join(linearized)}. Return what they are taken of, such as logits in"
        " place of classes, or sample the function: mc.predict(fn, keys)."
    )


_ALONE = 'mc.analytic with precision="linearized" or "enumerated"'
