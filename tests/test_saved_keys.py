"""Keys in checkpoints and in files: what is restored, in this process and in others, draws what was
saved.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization

import jaxdrop
import jaxdrop.nnx
from jaxdrop import mc, random

ROOT = Path(jaxdrop.__file__).parent.parent
X = jnp.ones((4, 8))


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.linear(x))


def keys(seed: int) -> dict[str, jax.Array]:
    """Of each type, one and several."""
    key = jaxdrop.key(seed)
    return {
        "one": key,
        "several": jax.random.split(key, 3),
        "stratified": mc.keys(key, 5),
        "antithetic": mc.keys(key, 4, "antithetic"),
        "threefry": jax.random.key(seed),
    }


def assert_equal(found: Any, expected: Any) -> None:
    """The same types, the same words; keys of the same type and words draw the same bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
    for a, b in zip(
        jax.tree.leaves(random.unwrap_keys(found)),
        jax.tree.leaves(random.unwrap_keys(expected)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["jaxdrop", "jaxdrop-s", "jaxdrop-a"])
def test_jax_knows_the_generators_by_name(name: str) -> None:
    """Never change a name: checkpoints hold it."""
    key = jax.random.key(3, impl=name)
    assert str(key.dtype) == f"key<{name}>"
    assert jax.random.key_impl(key) == name
    if name == "jaxdrop":
        assert_equal(key, jaxdrop.key(3))
        assert_equal(jax.random.PRNGKey(3, impl=name), jnp.asarray([0, 3], jnp.uint32))


def test_pickles_hold_a_name_that_stays() -> None:
    """Never change it: this is the function by which keys in files find their type."""
    kind = pickle.loads(b"cjaxdrop._key_types\n_by_name\n(Vjaxdrop-s\ntR.")
    assert kind.name == "jaxdrop-s"
    assert b"jaxdrop._key_types" in pickle.dumps(jaxdrop.key(0))


# -- in this process


def test_orbax_restores_a_model_by_its_standard_recipe(tmp_path: Path) -> None:
    model = Net(nnx.Rngs(jaxdrop.key(0)))
    model(X)
    state = nnx.state(model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", state)
    fresh = nnx.eval_shape(lambda: Net(nnx.Rngs(jaxdrop.key(1))))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "model", _placed(nnx.state(fresh)))
    nnx.update(fresh, restored)
    np.testing.assert_array_equal(fresh(X), model(X))


def test_orbax_restores_keys_as_a_part_of_a_composite(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(
            0,
            args=ocp.args.Composite(
                keys=ocp.args.StandardSave(keys(7)), step=ocp.args.JsonSave({"n": 1})
            ),
        )
    with ocp.CheckpointManager(tmp_path) as manager:
        restored = manager.restore(
            0,
            args=ocp.args.Composite(
                keys=ocp.args.StandardRestore(keys(0)), step=ocp.args.JsonRestore()
            ),
        )
    assert_equal(restored["keys"], keys(7))


def test_flax_serialization_and_savez_store_words(tmp_path: Path) -> None:
    """Flax's serialization takes no typed key of any generator."""
    model = Net(nnx.Rngs(jaxdrop.key(0)))
    saved, fresh = (
        nnx.to_pure_dict(nnx.state(net)) for net in (model, Net(nnx.Rngs(jaxdrop.key(1))))
    )
    data = serialization.to_bytes(random.unwrap_keys(saved))
    assert_equal(
        random.wrap_keys(serialization.from_bytes(random.unwrap_keys(fresh), data), fresh), saved
    )
    np.savez(tmp_path / "keys.npz", **random.unwrap_keys(keys(7)))
    assert_equal(random.wrap_keys(dict(np.load(tmp_path / "keys.npz")), keys(0)), keys(7))


def test_models_are_split_cloned_and_pickled_with_their_keys() -> None:
    model = Net(nnx.Rngs(jaxdrop.key(0)))
    expected = nnx.clone(model)(X)
    for copy in (nnx.merge(*nnx.split(model)), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copy(X), expected)


# -- in other processes

_PREAMBLE = """
import importlib, pathlib, pickle, sys
real = importlib.import_module
def refuse(name, package=None):
    if name.startswith("jax._src"):
        raise ImportError(name)
    return real(name, package)
if {refused}:
    importlib.import_module = refuse
import jaxdrop
importlib.import_module = real
import jax, numpy as np
import orbax.checkpoint as ocp
from jaxdrop import random
sys.path.insert(0, {root!r})
from tests.test_saved_keys import assert_equal, keys
path = pathlib.Path({path!r})
"""


def run(code: str, path: Path, *, refused: bool = False) -> None:
    """Runs code in a fresh process, in a JAX that lets no generator be registered if it is to be
    so.
    """
    code = _PREAMBLE.format(refused=refused, root=str(ROOT), path=str(path)) + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_fresh_process_restores_and_pickles(tmp_path: Path) -> None:
    _save(tmp_path)
    run(
        """
assert_equal(pickle.loads((path / "pickle").read_bytes()), keys(7))
with ocp.StandardCheckpointer() as checkpointer:
    assert_equal(checkpointer.restore(path / "orbax", keys(0)), keys(7))
""",
        tmp_path,
    )


def test_where_jax_registers_nothing_keys_work_but_for_their_names(tmp_path: Path) -> None:
    """What is saved there is restored elsewhere. What was saved already is restored there, through
    NumPy.
    """
    _save(tmp_path)
    run(
        """
expected = jaxdrop.dropout(jaxdrop.key(3), np.ones(64, np.float32), 0.5)
np.save(path / "mask.npy", expected)
for key in keys(7).values():
    random.fast(key)
assert_equal(pickle.loads((path / "pickle").read_bytes()), keys(7))
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path / "refused", keys(7))
words = random.unwrap_keys(keys(0))
as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), words)
for name in ("orbax", "refused"):
    restored = ocp.PyTreeCheckpointer().restore(path / name, item=words, restore_args=as_numpy)
    assert_equal(random.wrap_keys(restored, keys(0)), keys(7))
try:
    jax.random.key(0, impl="jaxdrop")
except ValueError:
    pass
else:
    raise AssertionError("registered")
""",
        tmp_path,
        refused=True,
    )
    np.testing.assert_array_equal(
        np.load(tmp_path / "mask.npy"), jaxdrop.dropout(jaxdrop.key(3), jnp.ones(64), 0.5)
    )
    with ocp.StandardCheckpointer() as checkpointer:
        assert_equal(checkpointer.restore(tmp_path / "refused", keys(0)), keys(7))


def _save(path: Path) -> None:
    (path / "pickle").write_bytes(pickle.dumps(keys(7)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "orbax", keys(7))


def _placed(state: Any) -> Any:
    """Of an abstract state, where its arrays are to be put."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state
    )


# -- words and keys


def test_words_take_the_type_and_the_shape_of_the_keys_they_stand_for() -> None:
    assert_equal(
        random.wrap_keys(random.unwrap_keys(keys(7)), jax.eval_shape(lambda: keys(0))), keys(7)
    )
    assert_equal(
        jax.jit(lambda words: random.wrap_keys(words, keys(0)))(random.unwrap_keys(keys(7))),
        keys(7),
    )


@pytest.mark.parametrize(
    ("tree", "like", "message"),
    [
        (
            jnp.ones(3),
            jaxdrop.key(0),
            (
                r"tree must hold the words of key<jaxdrop>\[\], which are uint32\[2\], got"
                r" float32\[3\]"
            ),
        ),
        ({"a": range(2)}, {"a": jaxdrop.key(0)}, r"\['a'\] must hold .*, got range"),
        ({"a": 1}, {"a": jaxdrop.key(0)}, r"\['a'\] must hold .*, got int 1"),
        (
            {"a": jnp.zeros(2, jnp.uint32)},
            {"a": mc.keys(jaxdrop.key(0), 3)},
            r"uint32\[3, 7\], got uint32\[2\]",
        ),
        ({"a": 1}, {"b": 1}, "structure"),
    ],
)
def test_words_of_other_keys_are_refused(tree: Any, like: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random.wrap_keys(tree, like)
