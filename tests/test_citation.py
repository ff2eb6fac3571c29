"""References: the file of BibTeX, the keys beside functions, and the docstrings say the same."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tomllib
import types
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from docs._extensions import references
from jaxdrop import _citation
from jaxdrop._references import Entry, References, entries, references_of
from tests.test_docstrings import PUBLIC

ROOT = Path(__file__).parents[1]
ENTRIES = entries()
NEEDED = {
    "article": "journal",
    "book": "publisher",
    "inproceedings": "booktitle",
    "phdthesis": "school",
    "software": "title",
}
ARXIV = r"arXiv:(\d{4}\.\d{4,5})"


def plain(text: str) -> str:
    """Letters and digits, without accents, LaTeX's commands and case."""
    return re.sub(r"\\[a-zA-Z]+|[^a-z0-9]", "", text.lower())


def years(entry: Entry) -> set[str]:
    """Those of the publication and of the preprint."""
    preprint = entry.fields.get("eprint")
    return {entry.fields["year"]} | ({f"20{preprint[:2]}"} if preprint else set())


def section(value: Any) -> str:
    """What a docstring says of references, as one line."""
    found = re.search(r"(?ms)^References:\n(.*?)(?=^\w+:\n|\Z)", inspect.getdoc(value) or "")
    return " ".join(found[1].split()) if found else ""


def own_keys(value: Any) -> list[str]:
    """The keys that are declared at a function or class itself."""
    found = vars(value).get("_references", References((), {}))
    return list(found.works())


CITED = {name: value for name, value in PUBLIC.items() if own_keys(value) or section(value)}


@pytest.mark.sweep
def test_the_file_is_bibtex_and_nothing_else() -> None:
    text = (ROOT / "jaxdrop" / "references.bib").read_text()
    assert "".join(f"{entry}\n\n" for entry in ENTRIES.values()).strip() == (
        text[text.index("@") :].strip()
    )
    assert text[: text.index("@")].count("\n%") == text[: text.index("\n@")].count("\n") - 1
    assert list(ENTRIES)[1:] == sorted(list(ENTRIES)[1:])


@pytest.mark.sweep
@pytest.mark.parametrize("key", ENTRIES)
def test_entries_are_complete(key: str) -> None:
    kind, _, fields = ENTRIES[key]
    assert {"author", "title", "year", NEEDED[kind]} <= fields.keys()
    assert kind in ("book", "software") or fields.keys() & {"doi", "eprint", "url"}
    for value in fields.values():
        depths = np.cumsum([(char == "{") - (char == "}") for char in value])
        assert value.strip() == value != ""
        assert value.isascii()
        assert (depths >= 0).all()
        assert depths[-1] == 0
    if kind != "software":
        surname = plain(fields["author"].split(",")[0])
        assert re.fullmatch(surname + fields["year"] + r"[a-z]+\d?", key)
        assert all(name.count(",") == 1 for name in fields["author"].split(" and "))
    assert ("eprint" in fields) == (fields.get("archiveprefix") == "arXiv")
    if "eprint" in fields:
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"])
        assert int(fields["year"]) >= 2000 + int(fields["eprint"][:2])
    assert fields.get("url", "https://").startswith("https://")
    assert fields.get("doi", "10.").startswith("10.")
    assert re.fullmatch(r"\d+(--\d+)?", fields.get("pages", "1"))


@pytest.mark.sweep
def test_no_work_stands_twice() -> None:
    for field in ("title", "doi", "eprint", "url"):
        values = [plain(entry.fields[field]) for entry in ENTRIES.values() if field in entry.fields]
        assert len(values) == len(set(values))


def described_elsewhere(value: Any) -> set[str]:
    """The keys of what a docstring points to, and for results those of the functions."""
    said = {
        name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", inspect.getdoc(value) or "")
    }
    is_result = inspect.isclass(value) and "jaxdrop.mc" in value.__module__
    return {
        key
        for name, other in CITED.items()
        if other is not value
        and (name.rpartition(".")[2] in said or (is_result and inspect.isfunction(other)))
        for key in own_keys(other)
    }


@pytest.mark.sweep
@pytest.mark.parametrize("name", CITED)
def test_the_docstring_names_what_is_declared(name: str) -> None:
    value = CITED[name]
    keys, text = own_keys(value), section(value)
    assert keys
    for key in set(keys) - described_elsewhere(value):
        entry, fields = ENTRIES[key], ENTRIES[key].fields
        titles = {plain(fields["title"]), plain(fields["title"].split(":")[0])}
        quoted = {plain(title) for title in re.findall(r'"([^"]+)"', text)}
        surname = plain(fields["author"].split(",")[0])
        assert titles & quoted or f"arXiv:{fields.get('eprint')}" in text or surname in plain(text)
        assert any(year in text for year in years(entry))
    declared = [ENTRIES[key].fields for key in keys]
    assert set(re.findall(ARXIV, text)) <= {fields.get("eprint") for fields in declared}
    known = {plain(part) for f in declared for part in (f["title"], f["title"].split(":")[0])}
    assert {plain(title) for title in re.findall(r'"([^"]+)"', text)} <= known


@pytest.mark.sweep
def test_papers_that_a_docstring_mentions_are_in_the_file() -> None:
    known = {entry.fields.get("eprint") for entry in ENTRIES.values()}
    for value in PUBLIC.values():
        assert set(re.findall(ARXIV, inspect.getdoc(value) or "")) <= known


@pytest.mark.sweep
def test_every_entry_is_used() -> None:
    used = {key for value in CITED.values() for key in own_keys(value)}
    assert used == ENTRIES.keys() - {"jaxdrop"}


@pytest.mark.parametrize("framework", [jaxdrop.nnx, jaxdrop.linen])
def test_every_layer_has_works(framework: Any) -> None:
    layers = [value for name in framework.__all__ if (value := getattr(framework, name))]
    classes = {value.__name__ for value in layers if not references_of(value).is_any}
    assert classes <= {"replace_dropout", "rngs_from_keys"}


def cited(*used: Any) -> list[str]:
    """The keys of what is cited, without the library itself."""
    itself, *others = re.findall(r"(?m)^@\w+\{([\w-]+),$", jaxdrop.citation(*used))
    assert itself == "jaxdrop"
    return others


def test_the_library_itself_is_cited_with_its_version() -> None:
    text = jaxdrop.citation()
    assert text.startswith(f"% jaxdrop {jaxdrop.__version__}\n@software{{jaxdrop,\n")
    assert f"  version = {{{jaxdrop.__version__}}},\n}}\n" in text
    assert repr(text) == text == str(text)  # what a prompt shows
    assert isinstance(text, str)
    assert cited(jaxdrop.key, jaxdrop.schedules.linear) == []


def test_functions_and_names() -> None:
    dropped = ["huang2016deep", "larsson2017fractalnet"]
    for used in (jaxdrop.drop_path, "drop_path", "jaxdrop.drop_path", "nnx.DropPath"):
        assert cited(used) == dropped
    assert cited(jaxdrop.drop_path, [jaxdrop.linen.DropPath, {"a": "drop_path"}]) == dropped
    assert "% jaxdrop.drop_path, jaxdrop.nnx.DropPath\n@inproceedings{huang2016deep" in (
        jaxdrop.citation("drop_path", "nnx.DropPath")
    )
    assert cited("mc.acquisition.bald") == ["houlsby2011bayesian", "gal2017deep"]


def test_options_of_functions() -> None:
    assert cited(jaxdrop.dropout_mlp) == ["graham2015efficient", "notin2020sliceout"]
    sliced = functools.partial(jaxdrop.dropout_mlp, pattern="slice")
    assert cited(sliced) == ["notin2020sliceout"]
    assert cited(functools.partial(jaxdrop.dropout_mlp, rate=0.5)) == ["graham2015efficient"]
    assert cited(functools.partial(jaxdrop.mc.keys, strategy="independent")) == []


def test_results() -> None:
    probs = np.full((2, 3, 4), 0.25, np.float32)
    assert cited(jaxdrop.mc.classification(probs=probs)) == cited(jaxdrop.mc.Classification)
    assert cited(jaxdrop.mc.FittedTau(np.ones(()), np.ones(()))) == ["gal2016dropout"]


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Dropout(0.1, rngs=rngs)
        self.blocks = nnx.List([jaxdrop.nnx.DropBlock(0.1, rngs=rngs)])
        self.rnn = jaxdrop.nnx.RNN(nnx.SimpleCell(2, 2, rngs=rngs), hidden_zoneout=0.1, rngs=rngs)
        self.noise = jaxdrop.nnx.QuantNoise(jaxdrop.nnx.Dropout(0.1, rngs=rngs), 0.1, rngs=rngs)
        self.attend = jaxdrop.nnx.dot_product_attention


def test_models_of_nnx() -> None:
    assert set(cited(Model(nnx.Rngs(0)))) == {
        *cited(jaxdrop.dropout, jaxdrop.drop_block, jaxdrop.zoneout, jaxdrop.quant_noise),
        *cited(jaxdrop.dot_product_attention),
    }


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jaxdrop.linen.DropPath(0.5, deterministic=False)(x)


class Prepared(nn.Module):
    def setup(self) -> None:
        self.drop = jaxdrop.linen.DropPath(0.5)


class Holding(nn.Module):
    inner: Any
    kind: Any = jaxdrop.linen.NEFTune
    later: Any = dataclasses.field(init=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(x)


def test_models_of_linen() -> None:
    rnn = jaxdrop.linen.RNN(nn.SimpleCell(2), weight_rate=0.1)
    inner = {"a": nn.Sequential([nn.Dense(2), [nn.Dropout(0.1), {"b": rnn}]])}
    assert set(cited(Holding(inner))) == {
        *cited(jaxdrop.dropout, jaxdrop.weight_drop, jaxdrop.neftune)
    }


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), np.zeros(()), jnp.zeros(())])
def test_an_option_that_is_off_is_not_cited(zero: Any) -> None:
    rnn = jaxdrop.linen.RNN(nn.SimpleCell(2), weight_rate=zero, hidden_zoneout=0.1)
    assert cited(rnn) == cited(jaxdrop.zoneout)


@pytest.mark.parametrize(("value", "on"), [(None, False), ("all", True), (np.zeros(2), True)])
def test_an_option_that_is_no_number_is_off_if_it_is_none(value: Any, on: bool) -> None:
    assert [*References((), {"rates": "work"}).works({"rates": value})] == ["work"] * on


@pytest.mark.parametrize("model", [Compact(), Prepared(), Holding(Compact())])
def test_layers_that_are_not_there_yet_are_an_error(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"makes its layers when it runs.*audit\.check"):
        jaxdrop.citation(model)


def test_reports() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x / 0.5, 0.0)
        return Compact().apply({}, x, rngs={"dropout": jax.random.fold_in(key, 1)})

    report = jaxdrop.audit.check(run, jaxdrop.key(0), np.ones((4, 3), np.float32))
    assert set(cited(report)) == {*cited(jaxdrop.dropout, jaxdrop.drop_path)}


@pytest.mark.parametrize(
    ("used", "error", "message"),
    [
        ("dropout.rate", AttributeError, r"no 'dropout\.rate': jaxdrop\.dropout has no 'rate'$"),
        ("drop_pth", AttributeError, r"jaxdrop has no 'drop_pth': is jaxdrop\.drop_path meant\?"),
        ("mc.metric.ece", AttributeError, r"jaxdrop\.mc has no 'metric': is jaxdrop\.mc\.metrics"),
        ("DropPath", AttributeError, r"it is jaxdrop\.nnx\.DropPath or jaxdrop\.linen\.DropPath"),
        ("mc.metrics", TypeError, "is a module"),
        (np.ones(3), TypeError, "An array does not tell what made it: give the function"),
        (lambda x: x, TypeError, r"audit\.check\(fn, \*arguments\)"),
        ((1).__add__, TypeError, r"audit\.check\(fn, \*arguments\)"),
        (jaxdrop.mc, TypeError, "module jaxdrop.mc"),
        (3, TypeError, "got 3"),
    ],
)
def test_what_cannot_be_cited(used: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jaxdrop.citation(used)


@pytest.mark.sweep
def test_the_page_shows_every_work_and_no_latex() -> None:
    lines = references.lines()
    assert len(lines) == len(ENTRIES) - 1
    for entry, line in zip(list(ENTRIES.values())[1:], lines, strict=True):
        text, _, users = line.partition(" {py:obj}")
        assert users
        assert not re.search(r"[{}\\$]", text)
        assert f"{entry.fields['year']}." in text
    assert references.plain(r"{\c{C}}i{\c{c}}ek, {\"O}zg{\"u}n") == "Çiçek, Özgün"
    assert references.authors(ENTRIES["iyyer2015deep"]).endswith(
        "Jordan Boyd-Graber & Hal Daumé III"
    )


@pytest.mark.sweep
def test_the_file_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "references.bib" in project["tool"]["setuptools"]["package-data"]["jaxdrop"]


def test_dropout_of_weights_is_not_dropout_of_units() -> None:
    """A layer of this library that holds `dropout` drops weights with it; another one, units."""
    rngs = nnx.Rngs(0)
    wrapper = jaxdrop.nnx.WeightDrop(nnx.Linear(2, 2, rngs=rngs), 0.5, match="kernel", rngs=rngs)
    assert cited(wrapper) == cited(jaxdrop.weight_drop)
    holding = nnx.Sequential(nnx.relu)
    holding.drop = nnx.static(jaxdrop.dropout)
    assert cited(holding) == cited(jaxdrop.dropout)
    assert cited(nnx.Sequential(nnx.relu)) == []


def test_sites_that_drop_nothing_are_not_cited() -> None:
    def found(variant: str, active: bool) -> list[str]:
        site = types.SimpleNamespace(variant=variant, active=active)
        return [name for name, _ in _citation._of_sites([site])]

    for variant, name in (("drop path", "jaxdrop.drop_path"), ("RNN", "RNN")):
        assert found(variant, active=True) == [name]
        assert found(variant, active=False) == []
    assert found("unknown", active=True) == []
