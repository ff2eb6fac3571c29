"""Runs a function of one key over many, in the fastest of three ways that JAX can trace.

1. Compiled, with what does not depend on the key computed once (`prefix`).
2. Compiled, with all of it computed for each sample.
3. As `jax.vmap(fn)` does outside `jax.jit`, chunk by chunk from Python. A function that reads the
   values of its arrays, as in `if x.sum() > 0`, cannot be traced, and yet runs under `jax.vmap`.

A way that fails to trace is left for the next one with a line in the debug log, so whatever runs
under `jax.vmap` runs here, and what fails there fails here with the same error.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxdrop import _checks
from jaxdrop.mc import _calls, _prefix

_log = logging.getLogger(__name__)

Sample = Callable[[jax.Array], Any]
"""From an array of keys to the outputs for each, along a leading axis."""


class Function(NamedTuple):
    """A function whose samples are asked for."""

    caller: str
    """The public function that asks, for messages."""
    fn: Callable[[jax.Array], Any]
    keys: jax.Array
    """Keys of the type and number that it will be called with."""
    allow_deterministic: bool
    """Whether all samples may be the same."""

    @classmethod
    def of(cls, caller: str, fn: Any, keys: jax.Array, allow_deterministic: bool) -> Function:
        """Checks that `fn` takes a key, and names the caller in its errors."""
        allowed = _checks.check_flag(allow_deterministic, "allow_deterministic")
        return cls(caller, _calls.of_key(caller, fn), keys, allowed)

    def run(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """`program(sample, *arguments)`, where `sample(keys)` is what `jax.vmap(fn)(keys)` is.

        Args:
          program: loops by `jax.lax` over calls of `sample`.
          *arguments: pytrees of arrays.
        """
        for parts in self._ways():

            def compiled(constants: Any, *arguments: Any, parts: _prefix.Split = parts) -> Any:
                rest = functools.partial(parts.rest, parts.prefix(constants))
                return program(jax.vmap(rest), *arguments)

            jitted = jax.jit(compiled)
            if self._traces(jitted, parts.constants, *arguments):
                return jitted(parts.constants, *arguments)
        was_off = jax.config.jax_disable_jit  # type: ignore[attr-defined]

        def sample(keys: jax.Array) -> Any:
            with jax.disable_jit(was_off):
                return jax.vmap(self.fn)(keys)

        with jax.disable_jit():  # the loops of `program` run in Python
            return program(sample, *arguments)

    def sampler(self) -> Sample:
        """`jax.vmap(fn)`, to be called from Python; the part without a key is computed already."""
        for parts in self._ways():
            first, rest = jax.jit(parts.prefix), jax.jit(_over_keys(parts.rest))
            if self._traces(first, parts.constants):
                known = first(parts.constants)
                if self._traces(rest, known, self.keys):
                    return functools.partial(rest, known)
        return jax.vmap(self.fn)

    def check(self) -> None:
        """Raises ValueError if all samples are the same, and may not be."""
        if not self.allow_deterministic and ignores_key(self.fn, self.keys):
            raise nothing_random(self.caller)

    def _ways(self) -> Iterator[_prefix.Split]:
        try:
            traced = _prefix.trace(self.fn, self.keys)
        except Exception as error:
            _log.debug("%s: fn is not traced, and runs outside jax.jit: %r", self.caller, error)
            return
        whole = _prefix.whole(traced)
        self._replace(fn=functools.partial(whole.rest, whole.constants)).check()
        try:
            yield _prefix.split(traced)
        except Exception as error:
            _log.debug("%s: all of fn runs for each sample: %r", self.caller, error)
        yield whole

    def _traces(self, compiled: Any, *arguments: Any) -> bool:
        """Whether a jitted function can be traced. It keeps what it traces, so this is free."""
        try:
            traced = compiled.trace(*arguments)
            inside = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
            if traced.jaxpr.effects and not inside:
                traced.lower()  # some effects are refused no sooner
        except Exception as error:
            _log.debug("%s: one way to run fn is not traced: %r", self.caller, error)
            return False
        return True


def _over_keys(rest: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], Any]:
    return lambda known, keys: jax.vmap(functools.partial(rest, known))(keys)


def ignores_key(fn: Callable[[jax.Array], Any], keys: jax.Array) -> bool:
    """Whether nothing that `fn(key)` returns depends on its key, if that can be told by tracing.

    `jax.vmap` refuses `out_axes=None` as soon as one output has the mapped axis. It also knows
    loops whose state does not depend on the key although their inputs do.
    """
    try:
        outputs = jax.eval_shape(jax.vmap(fn, out_axes=None), keys)
    except Exception:
        return False
    return bool(jax.tree.leaves(outputs))


def nothing_random(caller: str) -> ValueError:
    """The error of samples that are all the same."""
    return ValueError(
        f"nothing that fn returns depends on its key, so {caller} would see the same sample again"
        " and again, with a spread of 0. Either\n"
        "1. turn dropout on: a model in evaluation (model.eval(), deterministic=True, train=False)"
        " drops nothing. jaxdrop.nnx.stochastic(model) and jaxdrop.linen.stochastic(model,"
        " variables) turn on dropout and nothing else;\n"
        '2. pass the key on: model(x, rngs=key), or rngs={"dropout": key} in apply;\n'
        "3. give a layer that drops a rate above 0;\n"
        "4. say that it is meant: allow_deterministic=True."
    )
