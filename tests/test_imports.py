"""What imports what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxdrop

PACKAGE = Path(jaxdrop.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
]


def run(code: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_jaxdrop_imports_no_framework() -> None:
    loaded = run(
        "import sys, jaxdrop;"
        "print(*{'flax', 'optax', 'chex', 'matplotlib', 'sklearn', 'jaxdrop.nnx', 'jaxdrop.linen',"
        " 'jax.experimental.pallas', 'jaxdrop.audit', 'jaxdrop.testing',"
        " 'jaxdrop.mc._analytic._precisions'} & set(sys.modules))"
    )
    assert loaded == []


def test_importing_the_audit_imports_no_framework() -> None:
    assert (
        run(
            "import sys, jaxdrop.audit, jaxdrop.testing;"
            "print(*{'flax', 'equinox', 'haiku', 'rich', 'treescope'} & set(sys.modules))"
        )
        == []
    )


def test_flax_modules_load_on_first_use() -> None:
    assert run(
        "import jaxdrop; print('nnx' in dir(jaxdrop), jaxdrop.nnx.Dropout.__name__,"
        " jaxdrop.linen.Dropout.__name__)"
    ) == [
        "True",
        "Dropout",
        "Dropout",
    ]


@pytest.mark.sweep
def test_every_module_imports_alone() -> None:
    """In any order, that is: none relies on another one having been imported before it. A module in
    a package comes after its package, which is imported first in any case.
    """
    packages = [
        name
        for name, file in zip(MODULES, FILES, strict=True)
        if file.name == "__init__.py" or name.count(".") == 1
    ]
    # What `jaxdrop` itself imports cannot be imported before it.
    first = run("import sys, jaxdrop; print(*(name for name in sys.modules if 'jaxdrop' in name))")
    packages = [name for name in packages if name == "jaxdrop" or name not in first]
    assert len(packages) > 3
    imported = run(
        "import sys, importlib\n"
        f"for name in {packages!r}:\n"
        "    for other in [other for other in sys.modules if other.split('.')[0] == 'jaxdrop']:\n"
        f"        if other not in {first!r}:\n"
        "            del sys.modules[other]\n"
        "    print(importlib.import_module(name).__name__)\n"
    )
    assert imported == packages


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dropuot'"):
        jaxdrop.dropuot  # noqa: B018


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a file uses, such as `jax.random.key`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def strings(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a file may import by their text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.value


def is_private(name: str) -> bool:
    """Whether a dotted name reaches into another package behind its public interface."""
    root, *rest = name.split(".")
    return root in {"jax", "jaxlib", "jnp", "lax", "flax", "nn", "nnx", "optax", "chex"} and any(
        part.startswith("_") and not part.startswith("__") for part in rest
    )


@pytest.mark.parametrize("file", FILES, ids=MODULES)
def test_only_public_interfaces_are_used(file: Path) -> None:
    tree = ast.parse(file.read_text())
    private = [
        name for name in (*imports(tree), *attributes(tree), *strings(tree)) if is_private(name)
    ]
    # JAX has no public way to give a generator a name.
    assert private == (
        ["jax._src.random.prng", "jax._src.prng"] if file.name == "_registration.py" else []
    )


def test_private_names_are_recognized() -> None:
    tree = ast.parse(
        "from jax._src import core\nimport"
        " flax.nnx\njax._src.dtypes.x\nnnx._graph\njax.__version__\nmasks._law"
    )
    assert {name for name in (*imports(tree), *attributes(tree)) if is_private(name)} == {
        "jax._src.core",
        "jax._src",
        "jax._src.dtypes",
        "jax._src.dtypes.x",
        "nnx._graph",
    }
