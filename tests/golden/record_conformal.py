"""Records what MAPIE and crepes say, for `tests/mc/test_conformal.py`, in `conformal.json`.

    python -m venv oracles && oracles/bin/pip install "mapie==1.6.0" "crepes==0.9.1"
    oracles/bin/python tests/golden/record_conformal.py

It runs in an environment of its own, without JAX.
"""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("conformal.json")
# Not 0.8: crepes 0.9.1 takes int((1 - 0.8) * 30) = 5 for 6, one rank more than it must.
COVERAGES = 0.55, 0.75


def main() -> None:
    from crepes import ConformalRegressor
    from mapie import regression
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import RAPSConformityScore
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Regressor(RegressorMixin, BaseEstimator):
        """Predicts a column of its input."""

        def __init__(self, column: int = 0) -> None:
            self.column = column
            self.fitted_, self.n_features_in_ = True, 5

        def fit(self, x: Any, y: Any) -> Any:
            return self

        def predict(self, x: Any) -> Any:
            return x[:, self.column]

    class Classifier(ClassifierMixin, BaseEstimator):
        """Predicts its input."""

        def __init__(self) -> None:
            self.classes_, self.fitted_, self.n_features_in_ = np.arange(4), True, 4

        def fit(self, x: Any, y: Any) -> Any:
            return self

        def predict_proba(self, x: Any) -> Any:
            return x

        def predict(self, x: Any) -> Any:
            return x.argmax(-1)

    class Raps(RAPSConformityScore):
        """Keeps the examples that it calibrates with."""

        def get_conformity_scores(self, y: Any, y_pred: Any, **rest: Any) -> Any:
            self.seen = y_pred
            return super().get_conformity_scores(y, y_pred, **rest)

    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=66), rng.uniform(0.5, 2, 66)
    groups = rng.integers(0, 2, 66)
    columns = np.stack([mean, mean - std, mean + std, std, groups], 1)
    columns[:, 1:3] += rng.normal(size=(66, 2)) / 10
    y = mean + std * rng.normal(size=66)
    probs = rng.dirichlet(np.ones(4), 66)
    labels = np.array([rng.choice(4, p=p) for p in probs])
    old, new = slice(0, 60), slice(60, None)
    found: dict[str, Any] = {
        "versions": {name: metadata.version(name) for name in ("mapie", "crepes", "numpy")},
        "mean": mean,
        "std": std,
        "groups": groups,
        "lower": columns[:, 1],
        "upper": columns[:, 2],
        "y": y[old],
        "probs": probs,
        "labels": labels[old],
    }
    for coverage in COVERAGES:
        name = f"{coverage}"
        residuals = (y - mean)[old]
        for kind, sigmas, bins in (
            ("absolute", None, None),
            ("normalized", std, None),
            ("groups", None, groups),
        ):
            fitted = ConformalRegressor().fit(
                residuals,
                sigmas=None if sigmas is None else sigmas[old],
                bins=None if bins is None else bins[old],
            )
            found[f"crepes {kind} {name}"] = fitted.predict_int(
                mean[new],
                sigmas=None if sigmas is None else sigmas[new],
                bins=None if bins is None else bins[new],
                confidence=coverage,
            )
        split = regression.SplitConformalRegressor(
            Regressor(0), confidence_level=coverage, prefit=True
        ).conformalize(columns[old], y[old])
        found[f"mapie absolute {name}"] = split.predict_interval(columns[new])[1][..., 0]
        quantiles = regression.ConformalizedQuantileRegressor(
            [Regressor(1), Regressor(2), Regressor(0)], confidence_level=coverage, prefit=True
        ).conformalize(columns[old], y[old])
        found[f"mapie quantile {name}"] = quantiles.predict_interval(
            columns[new], symmetric_correction=True
        )[1][..., 0]
        for kind in ("lac", "aps", "raps"):
            score = Raps(size_raps=0.3) if kind == "raps" else kind
            sets = SplitConformalClassifier(
                Classifier(),
                confidence_level=coverage,
                conformity_score=score,
                prefit=True,
                random_state=3,
            ).conformalize(probs[old], labels[old])
            options = {"include_last_label": "randomized"} if kind != "lac" else {}
            _, members = sets.predict_set(probs[new], conformity_score_params=options)
            function = sets._mapie_classifier.conformity_score_function_
            entry = {"threshold": function.quantiles_[0], "sets": members[..., 0].astype(int)}
            if kind == "raps":
                entry["penalty"], entry["rank"] = function.lambda_star, function.k_star[0]
                equal = (function.seen[:, None] == probs[None, old]).all(-1)
                entry["examples"] = equal.argmax(1)
            found[f"mapie {kind} {name}"] = entry
    # MAPIE subtracts u p from the sum that includes p.
    for kind, size in (("old", 60), ("raps", len(entry["examples"])), ("new", 6)):
        found[f"uniform {kind}"] = 1 - np.random.RandomState(3).uniform(size=size)

    def plain(x: Any) -> Any:
        return x.tolist() if hasattr(x, "tolist") else x

    FILE.write_text(json.dumps(found, default=plain) + "\n")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
