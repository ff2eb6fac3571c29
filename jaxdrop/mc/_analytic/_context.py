"""What the rules share: names of equal values, sources of variance, and a list of what was
linearized.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _source_lines
from jaxdrop.mc._analytic import _activations, _operations, _values
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Coin, Hidden, Moments, Nodes, Points, Tag, Uniform

Array = Any
Shift = Callable[[Array], Array]


class Context:
    """One pass over a program.

    Attributes:
      linearized: the operations that were approximated by linear functions, and where they stand.
      coins: the coins in the order in which the program draws them.
      where: the place of the current operation.
      unrolled: whether each turn of a loop is a program of its own, as sources of variance need it.
      draws: whether masks are drawn.
    """

    def __init__(
        self, shift: Callable[..., Array] | None = None, given: Any = None, draws: bool = False
    ) -> None:
        """
        Args:
          shift: takes the mean and variance of a source, and returns the mean with what is added to
            it; None if no source is followed. For coins it takes their values too, if masks are
            drawn.
          given: a function from a `Coin`, just drawn, to an array in its place, or None.
          draws: whether keys and words have values, and masks are drawn from them.
        """
        self.linearized: dict[str, None] = {}
        self.coins: list[Coin] = []
        self.where = "?"
        self.unrolled = shift is not None
        self.draws = draws
        self._shift = shift
        self._given = given
        self._names: dict[Any, int] = {}
        self._kept: list[Any] = []  # arrays whose addresses stand in the tables
        self._filled: dict[int, int | None] = {}

    def note(self, text: str) -> None:
        """Adds a line to the list of what was linearized."""
        self.linearized[f"{text} at {self.where}"] = None

    @contextlib.contextmanager
    def at(self, eqn: Any) -> Iterator[None]:
        """Names the place of an equation in messages."""
        before = self.where
        line = _source_lines.user_line(eqn.source_info)
        scopes = [part for part in str(eqn.source_info.name_stack).split("/") if part]
        self.where = " ".join([*(["/".join(scopes)] if scopes else []), *([line] if line else [])])
        self.where = self.where or before
        try:
            yield
        finally:
            self.where = before

    def name(self, *parts: Any) -> int:
        """The number of a value, equal for equal parts: texts, numbers, values, arrays."""
        key = tuple(self._part(part) for part in parts)
        return self._names.setdefault(key, len(self._names))

    def fresh(self) -> int:
        """The number of a value that is equal to no other."""
        return self._names.setdefault(object(), len(self._names))

    def _part(self, part: Any) -> Any:
        if isinstance(part, Hidden | Uniform | Coin):
            return ("value", part.name)
        if isinstance(part, Points | Moments):
            self._kept.append(part)
            return ("value", id(part))
        if isinstance(part, np.ndarray | jax.Array) or hasattr(part, "aval"):
            known = not isinstance(part, jax.core.Tracer) and np.size(part) == 1
            if known and not _operations.is_key(part.dtype):
                return ("number", str(part.dtype), np.asarray(part).item())
            self._kept.append(part)
            return ("array", id(part))
        return part

    def remember(self, eqn: Any, operands: Sequence[Any], found: Sequence[Any]) -> None:
        """Notes arrays that are 0, 1, 2... along an axis, or one number."""
        name = eqn.primitive.name
        if name == "iota" or (name == "broadcast_in_dim" and np.ndim(operands[0]) == 0):
            self._kept.append(found[0])
            self._filled[id(found[0])] = eqn.params["dimension"] if name == "iota" else None

    def is_counted(self, x: Any, axis: int) -> bool:
        """Whether an array is known to be 0, 1, 2... along an axis."""
        return self._filled.get(id(x)) == axis

    def is_one_number(self, x: Any) -> bool:
        """Whether all entries of an array are known to be equal."""
        return np.size(x) == 1 or self._filled.get(id(x), 0) is None

    def drawn_by(self, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        """The results of an equation on keys and words for one key; None where none are drawn."""
        if not self.draws:
            return [None] * len(eqn.outvars)
        return _operations.bind(eqn, [self._value(value) for value in values])

    def _value(self, x: Any) -> Any:
        if isinstance(x, Points) and isinstance(x.base, Coin):
            value = None if x.base.value is None else jnp.where(x.base.value, *x.values[::-1])
        else:
            value = x.value if isinstance(x, Hidden | Uniform) else x
        if value is None or isinstance(value, Points | Moments):
            raise unknown("random words that are made of random numbers", self.where)
        return value

    # -- sources of variance

    def coin(
        self, shape: Sequence[int], true: Array, value: Array, *parts: Any, fixed: int | None = None
    ) -> Any:
        """Coins, as booleans: equal ones for equal parts."""
        name = self.name("coin", *parts)
        for known in self.coins:
            if known.name == name:
                return _booleans(known)
        true = jnp.broadcast_to(_values.real(true), tuple(shape))
        coin = Coin(name, true, number=len(self.coins), value=value, fixed=fixed)
        self.coins.append(coin)
        given = self._given(coin) if self._given else None
        if given is not None:
            coin.true = given
        elif self._shift:
            own: tuple[Array, ...] = ()
            if self.draws:  # `apart` gives the coin's value again
                own = (true + (_values.real(coin.value) - true) / coin.spread,)
            moved = self._shift(true, true * (1 - true), *own)
            coin.true = true + coin.apart(moved - true)
        return _booleans(coin)

    def event(self, true: Array) -> Points:
        """Booleans that are true with these probabilities, which earlier values determine."""
        return _booleans(Coin(self.fresh(), true))

    def moved(self, coin: Coin, true: Array, *parts: Any) -> Coin:
        """The coins of an array whose entries are those of another one, at other places."""
        return Coin(self.name("moved", coin, *parts), true, coin.root or coin)

    def drawn(self, mean: Array, variance: Array) -> Moments:
        """Independent random numbers."""
        mean = self._shift(mean, variance) if self._shift else mean
        return Moments(mean, variance)

    def made(self, result: Result, tag: Tag | None = None, of: Moments | None = None) -> Moments:
        """The value of a function. What is not explained by its arguments is a source of its own:
        the variance of one entry that no other entry shares.

        Args:
          result: its moments.
          tag: where it comes from.
          of: the only argument, if `result` has the slope in its mean. Derivatives take this slope,
            in place of differentiating the formula of the mean.
        """
        mean, variance, explained, slope = result
        if self._shift is None:
            return Moments(mean, variance, tag=tag)
        if of is not None:
            change = of.mean - lax.stop_gradient(of.mean)
            mean = lax.stop_gradient(mean) + lax.stop_gradient(slope) * change
        rest = jnp.maximum(lax.stop_gradient(variance - explained), 0)
        return Moments(self._shift(mean, rest), lax.stop_gradient(variance), tag=tag)

    def linear(self, mean: Array, variance: Array, tag: Tag | None = None) -> Moments:
        """The value of a linear function of values with these sources."""
        return Moments(mean, lax.stop_gradient(variance) if self._shift else variance, tag=tag)

    # -- one form from another

    def moments(self, value: Any) -> Moments:
        """A random value by its mean and variance; those of an array are itself and 0."""
        if isinstance(value, Moments):
            return value
        if isinstance(value, Points):
            if value.moments is None:
                value.moments = self._of_points(value)
            return value.moments
        if isinstance(value, Uniform):
            return self.moments(self.expanded(value))
        if isinstance(value, Hidden):
            raise unknown(f"random words of shape {value.shape}", self.where)
        array = _values.real(value)
        return Moments(array, jnp.zeros_like(array))

    def _of_points(self, value: Points) -> Moments:
        base, at = value.base, _values.real(value.values)
        if isinstance(base, Coin):
            (base.root or base).used = True
            gap = at[1] - at[0]
            variance = base.true * (1 - base.true) * gap * gap
            return self.linear(at[0] + base.true * gap, variance)
        weights = _values.along_entries(base.weights, at)
        mean = (weights * at).sum(0)
        variance = (weights * (at - lax.stop_gradient(mean)) ** 2).sum(0)
        x = base.origin
        if x is None:
            return self.drawn(mean, variance)
        # By Stein's lemma, the mean of the derivative is the covariance with the variable.
        both = (weights * _values.along_entries(base.standard, at) * at).sum(0)
        slope = both * lax.rsqrt(jnp.where(x.variance > 0, x.variance, jnp.inf))
        return self.made(Result(mean, variance, both**2, slope), value.tag, x)

    def expanded(self, value: Any) -> Points:
        """A random value at the nodes of a variable."""
        if isinstance(value, Points):
            return value
        if isinstance(value, Uniform):
            base, at = _values.uniform_nodes(self.name("uniform", value.name))
            low, high = (jnp.broadcast_to(x, value.shape)[None] for x in (value.low, value.high))
            return Points(base, low + (high - low) * _values.along_entries(at, low))
        assert isinstance(value, Moments)
        if value.points is None:
            base = _values.normal_nodes(self.fresh(), value)
            mean, variance = value.mean[None], value.variance[None]
            spread = jnp.sqrt(jnp.where(variance > 0, variance, 1)) * (variance > 0)
            values = mean + spread * _values.along_entries(base.standard, mean)
            own = (_activations.itself(self.name, value),)
            value.points = Points(base, values, moments=value, functions=own)
        return value.points

    def same_base(self, values: Sequence[Any]) -> Coin | Nodes | None:
        """The variable of which all values are functions, or None if there are several."""
        bases: dict[int, Coin | Nodes] = {}
        for value in values:
            points = value.points if isinstance(value, Moments) else value
            if not isinstance(points, Points):
                return None
            bases[points.base.name] = points.base
        return next(iter(bases.values())) if len(bases) == 1 else None


def _booleans(coin: Coin) -> Points:
    ones = (1,) * coin.true.ndim
    both = jnp.asarray(np.array([False, True]).reshape(2, *ones))
    return Points(coin, jnp.broadcast_to(both, (2, *coin.true.shape)))


def unknown(what: str, where: str) -> NotImplementedError:
    """The error for a random value of which mean and variance are not known."""
    return NotImplementedError(
        f"mc.analytic knows no mean and variance of {what}, at {where}. Either\n"
        "1. sample the function: mc.predict(fn, keys), or mc.moments;\n"
        "2. turn that dropout off: jaxdrop.nnx.stochastic(model, layers=...), and likewise in"
        " jaxdrop.linen, takes patterns of the layers that are to be on."
    )
