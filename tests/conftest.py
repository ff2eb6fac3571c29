"""Settings of every test: eight CPU devices, no silent promotion of dtypes or ranks.

Test files import shared helpers by their full name, as in `from tests.statistics import
chi_square`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

# Most programs run once, and compiling them is most of the time. XLA rewrites and fuses as ever;
# only LLVM takes the shortest way. `.ci/run` tests fully optimized programs too.
os.environ["XLA_FLAGS"] = " ".join(
    [
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_force_host_platform_device_count=8",
        *(
            ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
            if "JAXDROP_TEST_OPTIMIZED" not in os.environ
            else []
        ),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads when it is imported

import hypothesis
import jax  # after the environment, which JAX reads once
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run; the first one of a test waits for a compilation, so no deadline.
hypothesis.settings.register_profile(
    "jaxdrop", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxdrop")


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
def frozen_heap() -> Iterator[None]:
    """For `jax.checking_leaks`, which collects garbage each time that a trace ends: what earlier
    tests have left behind is not looked through again.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def relaxed() -> Iterator[None]:
    """Lets an oracle (Flax, Optax, ...) promote: `@pytest.mark.usefixtures("relaxed")`."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
