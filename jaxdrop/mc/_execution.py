"""Runs a function of one key over many, in the fastest of three ways that JAX can trace.

1. Compiled, with the part that does not depend on the key computed once (`_prefix`).
2. Compiled, with the whole function computed for each sample.
3. As `jax.vmap(fn)` does outside `jax.jit`, chunk by chunk from Python. A function that reads the
   values of its arrays, as in `if x.sum() > 0`, cannot be traced by `jax.jit`, and yet runs under
   `jax.vmap`.

If one way fails to trace, the next one is tried, with a line in the debug log. So every function
that runs under `jax.vmap` runs here, and one that fails there fails here with the same error.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxdrop import _checks
from jaxdrop._mc_dropout.dependence import are_empty
from jaxdrop.mc import _calls, _prefix

_log = logging.getLogger(__name__)

Sample = Callable[[jax.Array], Any]
"""A function from an array of keys to the outputs for each key, along a leading axis."""


class Function(NamedTuple):
    """A function of a key, to be sampled for many keys."""

    caller: str
    """The name of the public function, for messages."""
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
        """`program(sample, *arguments)`, with `sample(keys)` equal to `jax.vmap(fn)(keys)`.

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
        """`jax.vmap(fn)`, to be called from Python, with the prefix computed in advance."""
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
        """Whether a jitted function can be traced. `jax.jit` caches the trace, so that the call
            that
        follows does not trace again.
        """
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
    """Whether tracing shows that no output of `fn(key)` depends on the key. Outputs without
    entries, as those for a batch of no examples, show nothing.

    `jax.vmap` raises an error for `out_axes=None` if an output has the mapped axis. It finds also
    that the state of a loop does not depend on the key although an input of the loop does.
    """
    try:
        outputs = jax.eval_shape(jax.vmap(fn, out_axes=None), keys)
    except Exception:
        return False
    leaves = jax.tree.leaves(outputs)
    return bool(leaves) and not are_empty(leaves)


def nothing_random(caller: str) -> ValueError:
    """The error for a function whose samples are all the same."""
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
