"""Settings of every test: eight CPU devices, no silent promotion of dtypes or ranks.

Test files import shared helpers by their full name, as in `from tests.statistics import
chi_square`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads when it is imported

import hypothesis
import jax  # after these two, which JAX reads once
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.compilation import OPTIONS, share_contexts

# Traces and programs are many objects that live long: at the usual thresholds, a tenth of the time
# goes into looking through them for garbage.
gc.set_threshold(50_000, 20, 20)

# Most programs run once, and compiling them is most of the time. `.ci/run` tests fully optimized
# programs too. XLA reads its flags when the first array is made.
_OPTIONS = {} if "JAXDROP_TEST_OPTIMIZED" in os.environ else OPTIONS
os.environ["XLA_FLAGS"] = " ".join(
    [
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_force_host_platform_device_count=8",
        *(f"--{name}={str(value).lower()}" for name, value in _OPTIONS.items()),
    ]
)

share_contexts()

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run; the first one of a test waits for a compilation, so no deadline.
hypothesis.settings.register_profile(
    "jaxdrop", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxdrop")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked `sweep(keep=n)`, n cases are no sweep: they run on every Python.
    They follow one another by the golden section of all cases, which no parameter has as a period:
    an even stride could meet one of its values only.
    """
    cases: dict[tuple[object, ...], list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("sweep")
        if mark is not None and "keep" in mark.kwargs:
            cases.setdefault((item.parent, item.originalname), []).append(item)
    for same in cases.values():
        keep = same[0].get_closest_marker("sweep").kwargs["keep"]
        for case in {int(len(same) * (at * 0.618034 % 1)) for at in range(keep)}:
            same[case].own_markers = [
                mark for mark in same[case].own_markers if mark.name != "sweep"
            ]


def pytest_collection_finish() -> None:
    """The garbage collector passes over what will be there to the end: modules, and the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def uncached() -> Iterator[None]:
    """For programs that call back into Python: a cached one holds the address of a function of
    another process.
    """
    was_on = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", was_on)
    compilation_cache.reset_cache()


@pytest.fixture
def frozen_heap() -> None:
    """For `jax.checking_leaks`, which collects garbage each time that a trace ends: what earlier
    tests have left behind is not looked through again.
    """
    gc.freeze()


@pytest.fixture
def relaxed() -> Iterator[None]:
    """Lets an oracle (Flax, Optax, ...) promote: `@pytest.mark.usefixtures("relaxed")`."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
