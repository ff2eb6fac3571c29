"""What `jaxdrop.linen.replace_dropout` and `jaxdrop.nnx.replace_dropout` share: the report, the
attention function that takes the place of Flax's, and which classes reach Flax's code.
"""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdrop import _tables, masks

Status: TypeAlias = Literal["replaced", "off", "kept"]

_HEADS = ("layer", "class", "rate", "runs", "why")
_RUNS = {"replaced": "jaxdrop", "off": "Flax (nothing drawn)", "kept": "as before"}


class Row(NamedTuple):
    """A layer of a model, or another module that drops."""

    path: str
    """Where it stands in the model; `""` for the model itself."""
    layer: str
    """The name of its class."""
    rate: str
    """The probability of dropping, as text; `""` if the module has none."""
    status: Status
    """`"replaced"`: this library draws the mask. `"off"`: it ran, drew nothing, and Flax's own code
    ran. `"kept"`: it runs as before.
    """
    reason: str
    """Why it is kept, or which part of it was replaced."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return self.path or "(the model)", self.layer, self.rate, _RUNS[self.status], self.reason


class Report:
    """What `replace_dropout` replaced in a model, what it did not, and why: a table for `print` and
    for notebooks, and its rows for programs.
    """

    def __init__(self, nothing: str) -> None:
        self._nothing = nothing
        self._rows: dict[tuple[str, str], Row] = {}

    def add(self, row: Row) -> None:
        """Adds a row. Of several on one layer, the one that says most stays."""
        place = row.path, row.layer
        known = self._rows.get(place)
        order: tuple[Status, ...] = ("off", "replaced", "kept")
        if known is None or order.index(row.status) >= order.index(known.status):
            self._rows[place] = row

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order in which their layers were met."""
        return tuple(self._rows.values())

    @property
    def replaced(self) -> tuple[Row, ...]:
        """The layers whose masks this library draws."""
        return tuple(row for row in self.rows if row.status == "replaced")

    @property
    def kept(self) -> tuple[Row, ...]:
        """What still draws as before, each with the reason."""
        return tuple(row for row in self.rows if row.status == "kept")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        if not self._rows:
            return self._nothing
        lines = _tables.columns([_HEADS, *(row.cells for row in self.rows)])
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def __repr__(self) -> str:
        counts = f"{len(self.replaced)} replaced, {len(self.kept)} kept"
        return f"Report({counts})" if self._rows else f"Report({self._nothing})"

    def _repr_html_(self) -> str:
        if not self._rows:
            return f"<p>{html.escape(self._nothing)}</p>"
        return _tables.html_table(_HEADS, (row.cells for row in self.rows))


def unreached(cls: type, base: type) -> str:
    """Why calls of `cls` do not come to the `__call__` of its base; `""` if they do, as far as
    their code says.
    """
    for kind in cls.__mro__[: cls.__mro__.index(base)]:
        own: Any = vars(kind).get("__call__")
        call = inspect.unwrap(own)
        code = getattr(call, "__code__", None)
        if call is inspect.unwrap(base.__call__) or code is None:
            continue
        if "__call__" not in code.co_names:
            return f"{kind.__name__}.__call__ does not call that of {base.__name__}"
    return ""


def attention(
    attention_fn: Any,
    theirs: Callable[..., jax.Array],
    ours: Callable[..., jax.Array],
    note: Callable[[Status, str], None],
) -> Callable[..., jax.Array] | None:
    """`attention_fn` with `ours` in place of Flax's function, where a mask is drawn.

    Args:
      attention_fn: that of a layer: Flax's, or a `functools.partial` of it.
      theirs: Flax's function.
      ours: the function of this library with the same arguments.
      note: called in each call, with a status and a reason.

    Returns:
      A function with the signature of `attention_fn`; None if that is another function.
    """
    if isinstance(attention_fn, functools.partial):
        inner = attention(attention_fn.func, theirs, ours, note)
        return inner and functools.partial(inner, *attention_fn.args, **attention_fn.keywords)
    return _Attention(theirs, ours, note) if attention_fn is theirs else None


def another(attention_fn: Any) -> str:
    """Why an attention function is kept."""
    name = getattr(attention_fn, "__qualname__", type(attention_fn).__qualname__)
    return f"attention_fn is {name}, and not Flax's dot_product_attention"


class _Attention:
    """Flax's attention function in evaluation, and this library's where a mask is drawn.

    Two of them are equal if they replace the same function: NNX compares the attributes of a model
    with those of the model that a compiled program was made for.
    """

    def __init__(
        self,
        theirs: Callable[..., jax.Array],
        ours: Callable[..., jax.Array],
        note: Callable[[Status, str], None],
    ) -> None:
        self.theirs, self.ours, self.note = theirs, ours, note
        # Linen passes the options that a signature names, and no others. That of this library has
        # those of Flax, and the layout that `stochastic` may give.
        self.__signature__ = inspect.signature(ours)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attention) and self.theirs is other.theirs

    def __hash__(self) -> int:
        return hash(self.theirs)

    def __repr__(self) -> str:
        return f"<jaxdrop in place of {self.theirs.__module__}.{self.theirs.__qualname__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        given = dict(self.__signature__.bind(*args, **kwargs).arguments)
        plain = {name: value for name, value in given.items() if name != "spec"}
        off = given.get("deterministic") or masks.is_number(given.get("dropout_rate", 0.0), 0)
        if off or given.get("dropout_rng") is None:
            self.note("off", "")
            return self.theirs(**plain)
        try:
            output = self.ours(**_flax_masked(given))
        except NotImplementedError:
            self.note("kept", "the key's generator, such as rbg, draws whole arrays only")
            return self.theirs(**plain)
        self.note("replaced", "attention")
        return output


def _flax_masked(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of attention by which a query that may see no key gets the mean of all values,
    as in Flax, and not 0: such a query is 0, and sees all keys. It then has no gradient, as in
    Flax.
    """
    query, key = given["query"], given["key"]
    weights = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])
    # Of fewer axes than the weights, NumPy's rule holds in Flax, and an error in this library.
    mask, bias = (
        None if x is None else jnp.reshape(x, (1,) * (len(weights) - jnp.ndim(x)) + jnp.shape(x))
        for x in (given.get("mask"), given.get("bias"))
    )
    if mask is not None:
        mask = jnp.asarray(mask, bool)
        if given.get("is_causal"):
            row, column = (jax.lax.broadcasted_iota(int, weights[-2:], axis) for axis in (0, 1))
            mask = mask & jnp.expand_dims(column <= row, range(len(weights) - 2))
            given = given | {"is_causal": False}
        sees = mask.any(-1, keepdims=True)
        query = jnp.where(jnp.swapaxes(sees, -3, -2), query, jnp.zeros((), query.dtype))
        bias = None if bias is None else jnp.where(sees, bias, jnp.zeros((), bias.dtype))
        mask = mask | ~sees
    return given | {"query": query, "mask": mask, "bias": bias}
