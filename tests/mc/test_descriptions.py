"""What a summary prints: one short line, whatever its fields hold."""

from __future__ import annotations

import dataclasses
import functools
import html

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc

pytestmark = pytest.mark.sweep

LOGITS = np.float32(np.random.default_rng(0).normal(size=(10, 450, 5)))


@functools.cache
def summaries() -> tuple[mc.Classification, mc.Regression, mc.Moments]:
    return (
        mc.classification(logits=LOGITS),
        mc.regression(LOGITS[..., 0], tau=4.0, groups=5),
        mc.moments(
            lambda key: jaxdrop.dropout(key, jnp.ones((450, 3)), 0.5), mc.keys(jaxdrop.key(0), 10)
        ),
    )


def test_a_line_says_of_what_and_how_uncertain() -> None:
    classification, regression, moments = summaries()
    entropy, information = (
        classification.predictive_entropy.mean(),
        classification.mutual_information.mean(),
    )
    assert (
        repr(classification)
        == f"Classification(10 samples, batch (450,), 5 classes; mean entropy {entropy:.2g}, mutual"
        f" information {information:.2g})"
    )
    std = np.sqrt(regression.epistemic_variance).mean()
    assert (
        repr(regression)
        == f"Regression(10 samples in 5 groups, shape (450,); mean epistemic std {std:.2g},"
        " aleatoric std 0.5)"
    )
    assert str(moments) == "Moments(10 samples, shape (450, 3); mean std 1)"
    one = mc.classification(logits=LOGITS[:1, 0], binary=False)
    assert repr(one).startswith("Classification(1 sample, 5 classes; mean entropy 1.")


def test_a_notebook_shows_the_line_and_what_each_array_holds() -> None:
    for summary in summaries():
        shown = summary._repr_html_()
        assert shown.startswith(f"<p><code>{html.escape(repr(summary))}</code></p><table>")
        error = np.asarray(summary.standard_error, np.float64)
        cells = (
            "standard_error",
            error.shape,
            *(f"{f(error):.4g}" for f in (np.mean, np.min, np.max)),
        )
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in shown
        assert "residual" not in shown
    classification = summaries()[0]
    assert "<td>predictive_entropy</td>" in classification._repr_html_()
    shapes = jax.eval_shape(lambda: classification)
    assert "<table>" not in shapes._repr_html_()  # there are no values
    program = jax.make_jaxpr(lambda traced: [traced._repr_html_(), traced][1])(classification)
    assert not program.eqns  # nor is anything computed from those of a trace
    moments = summaries()[2]
    infinite = dataclasses.replace(moments, variance=np.float32([np.inf, -np.inf]))
    assert "<td>inf</td>" in infinite._repr_html_()


def test_several_outputs() -> None:
    found = mc.moments(
        lambda key: {"a": jax.random.uniform(key), "b": jax.random.uniform(key, (2,))},
        mc.keys(jaxdrop.key(0), 4),
    )
    assert repr(found) == "Moments(4 samples, 2 arrays)"
    jax.tree.map(lambda std, v: np.testing.assert_allclose(std**2, v), found.std, found.variance)


def test_ensembles_and_moments_without_samples() -> None:
    x = np.ones((3, 2), np.float32)
    found = mc.ensemble(
        lambda member, key: member * jaxdrop.dropout(key, x, 0.5),
        np.float32([1, 3]),
        mc.keys(jaxdrop.key(0), 8, groups=2),
    )
    between, within = found.between.mean(), found.within.mean()
    told = f"{found.summary!r}; mean between {between:.2g}, within {within:.2g}"
    assert repr(found) == f"Ensemble({told})"
    assert repr(jax.tree.map(np.shape, found)).startswith("Ensemble(Moments(")
    fn = mc.analytic(lambda key, x: jaxdrop.dropout(key, x, 0.5))
    assert repr(fn(x)) == "Analytic(diagonal, shape (3, 2); mean std 1)"
    assert repr(fn(x[:0])) == "Analytic(diagonal, shape (0, 2))"
    noisy = mc.analytic(lambda key, x: {"a": x, "b": jax.nn.softmax(jaxdrop.dropout(key, x, 0.5))})
    assert repr(noisy(x)) == "Analytic(diagonal, 2 arrays; linearized: 1)"


@pytest.mark.parametrize("which", range(3), ids=["Classification", "Regression", "Moments"])
def test_fields_of_any_kind(which: int) -> None:
    """Traced, abstract, deleted, empty, NaN, from NumPy, of no values: no error, and no warning."""
    summary = summaries()[which]
    known = repr(summary)
    shape = known.partition("; ")[0].partition(", ")[2]
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), summary)
    said = [repr(abstract)]
    jax.jit(lambda summary: said.append(repr(summary)))(summary)
    assert set(said) == {f"{type(summary).__name__}({shape})"}
    mapped: list[str] = []
    jax.vmap(lambda summary: mapped.append(repr(summary)))(
        jax.tree.map(lambda x: jnp.stack([x, x]), summary)
    )
    assert mapped == said[:1]
    assert repr(jax.tree.map(np.asarray, summary)) == known
    copied = jax.tree.map(jnp.copy, summary)
    jax.tree.map(lambda x: x.delete(), copied)
    assert repr(copied) == said[0]
    assert "nan" in repr(
        jax.tree.map(lambda x: x if x.dtype == jnp.int32 else x * jnp.nan, summary)
    )
    for other in (None, "text", 3.0, object(), jnp.float32):
        text = repr(jax.tree.map(lambda x, other=other: other, summary))
        assert "\n" not in text
        assert len(text) < 100


def test_fields_of_results_are_not_set() -> None:
    results = [
        member
        for module in (mc, mc.metrics, mc.conformal, mc.acquisition)
        for member in map(vars(module).get, dir(module))
        if dataclasses.is_dataclass(member)
    ]
    assert len(results) > 5
    for each in results:
        with pytest.raises(dataclasses.FrozenInstanceError):
            object.__new__(each).mean = 3


def test_no_inputs() -> None:
    assert (
        repr(mc.classification(logits=LOGITS[:, :0]))
        == "Classification(10 samples, batch (0,), 5 classes)"
    )
