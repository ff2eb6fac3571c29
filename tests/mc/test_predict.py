"""Running a function over the keys of many samples."""

from __future__ import annotations

import functools
import logging
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc

X = jnp.linspace(-1, 1, 12).reshape(3, 4)
KEYS = mc.keys(jaxdrop.key(0), 7)


def _outputs(key: jax.Array) -> dict[str, object]:
    """Elementwise, so that a batch has the very numbers of a single run."""
    dropped = jaxdrop.dropout(key, X, 0.3)
    return {
        "dropped": dropped,
        "parts": (dropped[0], (dropped > 0).sum()),
        "nothing": None,
        "constant": 2.0,
    }


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 100, np.int64(2)])
def test_the_batch_size_does_not_matter(batch_size: int | None) -> None:
    one = jax.jit(_outputs)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *map(one, KEYS))
    outputs = jax.jit(lambda keys: mc.predict(_outputs, keys, batch_size=batch_size))(KEYS)
    chex.assert_trees_all_equal(outputs, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(outputs, expected)


def test_compiled_or_not() -> None:
    chex.assert_trees_all_equal(
        mc.predict(one := jax.jit(_outputs), KEYS),
        jax.jit(lambda keys: mc.predict(one, keys))(KEYS),
    )


@pytest.mark.parametrize(
    "keys", [jax.random.split(jax.random.key(0), 5), mc.keys(jax.random.key(0), 5, "independent")]
)
def test_keys_of_any_kind(keys: jax.Array) -> None:
    expected = np.stack([jax.random.uniform(key, (2,)) for key in keys])
    drawn = jax.jit(
        lambda keys: mc.predict(lambda key: jax.random.uniform(key, (2,)), keys, batch_size=2)
    )(keys)
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_gradients_pass(batch_size: int | None) -> None:
    def loss(x: jax.Array) -> jax.Array:
        return mc.predict(
            lambda key: jaxdrop.dropout(key, x, 0.5), KEYS, batch_size=batch_size
        ).sum()

    kept = jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones_like(X), 0.5))(KEYS).sum(0)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(X), kept)


def test_fewer_at_once_need_less_memory() -> None:
    def run(batch_size: int | None) -> int:
        f = jax.jit(
            lambda keys, x: mc.predict(
                lambda key: jnp.sort(jaxdrop.dropout(key, x, 0.5))[0], keys, batch_size=batch_size
            )
        )
        return (
            f.lower(mc.keys(jaxdrop.key(0), 64), jnp.ones(10_000))
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert run(4) < run(None) / 4


@pytest.mark.parametrize(
    "keys",
    [
        jaxdrop.key(0),
        KEYS[:6].reshape(2, 3),
        jax.random.split(jax.random.PRNGKey(0), 3),
        jnp.ones(3),
        [jaxdrop.key(0)],
        None,
        3,
    ],
)
def test_not_one_axis_of_keys(keys: object) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"keys must be a key array of shape \(S,\), as jaxdrop.mc.keys\(key, S\) returns, got"
        ),
    ):
        mc.predict(jax.random.uniform, keys)


def test_one_key_is_told_how_to_become_several() -> None:
    for keys, told in ((jaxdrop.key(0), True), (KEYS[:6].reshape(2, 3), False), (3, False)):
        with pytest.raises(ValueError, match="keys must be a key array") as caught:
            mc.predict(jax.random.uniform, keys)
        assert ("which is one key: pass mc.keys(key, 100)" in str(caught.value)) == told


def test_keys_that_are_no_array_of_keys() -> None:
    raw = jax.random.split(jax.random.PRNGKey(0), 3)
    with pytest.raises(ValueError, match=r"uint32\[3, 2\], .* jax.random.wrap_key_data\(keys\)$"):
        mc.predict(jax.random.uniform, raw)
    assert mc.predict(jax.random.uniform, jax.random.wrap_key_data(raw)).shape == (3,)
    with pytest.raises(ValueError, match=r"2 keys: pass jnp.stack\(keys\)$"):
        mc.predict(jax.random.uniform, [jaxdrop.key(0), jaxdrop.key(1)])


def test_all_at_once_is_no_loop() -> None:
    for size, loops in ((None, 0), (7, 0), (8, 0), (6, 1)):
        program = jax.make_jaxpr(lambda keys, n=size: mc.predict(_outputs, keys, batch_size=n))
        assert ("scan" in str(program(KEYS))) == loops


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_below_one(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        mc.predict(jax.random.uniform, KEYS, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [2.5, "2"])
def test_batch_size_that_is_no_integer(batch_size: object) -> None:
    with pytest.raises(TypeError, match="batch_size must be an integer"):
        mc.predict(jax.random.uniform, KEYS, batch_size=batch_size)


def test_why_a_slower_way_was_taken_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Who calls, and the error. The numbers are the same."""

    def prints(key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: None, X)
        return jaxdrop.dropout(key, X, 0.5)

    def branches(key: jax.Array) -> jax.Array:
        x = jnp.asarray(X) * 2
        return jaxdrop.dropout(key, X, 0.5) if (x > 0).sum() > 3 else X

    expected = mc.predict(lambda key: jaxdrop.dropout(key, X, 0.5), KEYS)
    for fn, said in (
        (prints, "mc.predict: all of fn runs for each sample: ValueError"),
        (branches, "mc.predict: fn is not traced, and runs outside jax.jit: Tracer"),
    ):
        with caplog.at_level(logging.DEBUG, logger="jaxdrop"):
            found = mc.predict(fn, KEYS, batch_size=2)
        np.testing.assert_array_equal(found, expected)
        assert any(line.startswith(said) for line in caplog.messages)
        caplog.clear()


# -- the bar


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("batch_size", [None, 3, 7])
def test_a_bar_changes_nothing(batch_size: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = mc.predict(_outputs, KEYS, batch_size=batch_size, progress=True)
    shown = capsys.readouterr()
    assert "samples" in shown.err
    assert not shown.out
    expected = jax.jit(jax.vmap(_outputs))(KEYS)
    chex.assert_trees_all_equal(outputs, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(outputs, expected)


def test_no_bar_inside_transformations() -> None:
    run = functools.partial(mc.predict, _outputs, progress=True)
    with pytest.raises(ValueError, match=r"cannot be part of jax.jit, jax.vmap or jax.grad"):
        jax.jit(run)(KEYS)
    with pytest.raises(ValueError, match=r"cannot be part of jax.jit, jax.vmap or jax.grad"):
        jax.grad(
            lambda x: mc.predict(
                lambda key: jaxdrop.dropout(key, x, 0.5), KEYS, progress=True
            ).sum()
        )(X)


def test_lines_where_rich_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default a batch has 32 samples."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    for samples, size, batches in ((7, 3, 3), (32, None, 1), (33, None, 2)):
        keys = jax.random.split(KEYS[0], samples)
        mc.predict(jax.random.uniform, keys, batch_size=size, progress=True)
        shown = capsys.readouterr()
        assert shown.err == f"samples: {batches} of {batches}, done\n"
        assert not shown.out


def test_no_keys() -> None:
    with pytest.raises(ValueError, match="keys is empty"):
        mc.predict(_outputs, KEYS[:0])
