"""Right calls, from which wrong ones are made: every public function, each with all of its
arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import jaxdrop
from errors import kinds
from errors.kinds import Kind, array, axis, choice, integer, integers, number, pair
from jaxdrop import mc, random, schedules
from jaxdrop.functional.paths import DepthRule

KEY = jaxdrop.key(7)


def _line(first: float, last: float, *shape: int) -> jax.Array:
    values = np.linspace(first, last, math.prod(shape), dtype=np.float32)
    return jax.device_put(values.reshape(shape))


X = _line(0.5, 2, 4, 8)
MAP = _line(0.5, 2, 2, 4, 4, 3)
HEADS = _line(-1, 1, 2, 4, 2, 4)
SEQUENCE = _line(-1, 1, 2, 5, 4)
W = _line(-1, 1, 8, 3)
IDS = jnp.asarray([[1, 2, 3], [3, 0, 1]])
EMBEDDED = _line(-1, 1, 2, 3, 2)
SENDERS, RECEIVERS = jnp.asarray([0, 1, 2, 2]), jnp.asarray([1, 0, 1, 2])
LABELS, PROBS = jnp.asarray([0, 2, 1, 1]), jnp.full((4, 3), 1 / 3, jnp.float32)
LOGITS = _line(-1, 1, 5, 4, 3)
SAMPLES, Y = (
    _line(-1, 1, 5, 4),
    jnp.asarray([0.1, -0.3, 0.5, 0.0]),
)
UNIT, ERRORS = jnp.asarray([0.1, 0.9, 0.5, 0.3]), jnp.asarray([0.0, 1.0, 1.0, 0.0])
KEYS = mc.keys(KEY, 4)


@dataclasses.dataclass(frozen=True)
class Call:
    """`function(**arguments)` is right. `rngs` and their like are made anew for each call, by
    `fresh`.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    kinds: Mapping[str, Kind]
    fresh: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    open: bool = False
    """Whether it takes any keyword, for somebody else."""

    def run(self, **changed: Any) -> Any:
        """The call with some arguments in place of others, and perhaps with arguments that it does
        not have.
        """
        return self.function(
            **{**self.arguments, **{name: make() for name, make in self.fresh.items()}, **changed}
        )


LIKE, LAST = array("fc", shape="same"), array("fc", shape="last")
REAL, REALS = array("f"), array("fib", shape="same")
ID = array("i")
NODES = array("i", shape="same", low=0, high=2)
PROBABILITIES = array("f", shape="same", low=0, high=1)
POSITIVE = number(0, least=False, axes=True)


def _are_rates_of_layers(value: Any, valid: Any) -> bool:
    found = kinds.numeric(value)
    return (
        found is not None
        and found.ndim == 1
        and all(kinds.ONE_RATE.fits(rate, 0.0) for rate in found)
        and 0 < len(found) > round(float(found.sum()))
    )


_LIKE_IT = Kind(lambda value, valid: isinstance(value, Mapping) and set(value) == set(valid))
STATIC = kinds.known(number(0, 0.8))
_W_IN, _W_OUT = jnp.ones((X.shape[-1], 4), jnp.float32), jnp.ones((4, 3), jnp.float32)

# What an argument of this name is, where nothing else is said.
NAMES: dict[str, Kind] = {
    "key": kinds.KEY.or_none(),
    "keys": kinds.KEYS,
    "x": array("fc"),
    "rate": kinds.RATE,
    "deterministic": kinds.FLAG,
    "spec": kinds.SPEC,
    "part": kinds.Kind(lambda value, valid: value is None or isinstance(value, jaxdrop.Part)),
    "broadcast_dims": integers(-2, 1),
    "batch_axis": axis(2),
    "channel_axis": integer(-1, -1),
    "spatial_rank": integer(1, 2).or_none(),
    "mode": choice("row", "batch"),
    "scale_by_keep": kinds.FLAG,
    "ordered": kinds.FLAG,
    "undirected": kinds.FLAG,
    "prenorm": kinds.FLAG,
    "self_loops": kinds.FLAG,
    "is_causal": kinds.FLAG,
    "decay": kinds.FLAG,
    "progress": kinds.FLAG,
    "same_keys": kinds.FLAG,
    "pooled": kinds.FLAG,
    "per_token": kinds.FLAG,
    "fair": kinds.FLAG,
    "equal_mass": kinds.FLAG,
    "stddev": number(0, axes=True),
    "beta": number(0, axes=True),
    "temperature": number(0, least=False),
    "log_alpha": kinds.PARAMETER,
    "lengthscale": number(0),
    "w": LIKE,
    "num_nodes": integer(3),
    "senders": NODES,
    "receivers": NODES,
    "num_prefix_tokens": integer(0, 4),
    "null_id": integer(-(2**31), 2**31 - 1),
    "replacement": integer(-(2**31), 2**31 - 1),
    "protected": integers(-(2**63), 2**63),
    "time_axis": axis(2),
    "ids": array("i", shape="same"),
    "embedded": kinds.Kind(
        lambda v, valid: array("fc").fits(v, valid) and jnp.shape(v)[:2] == IDS.shape, traced=True
    ),
    "previous": LIKE,
    "threshold": kinds.Kind(lambda v, valid: number().fits(v, valid) or _is_infinite(v)),
    "epsilon": kinds.known(number(0)),
    "num_samples": integer(1, 65535),
    "strategy": choice("stratified", "antithetic", "independent"),
    "batch_size": integer(1).or_none(),
    "examples": integer(1).or_none(),
    "summary": kinds.CALLABLE.or_none(),
    "fn": kinds.CALLABLE,
    "loss": kinds.CALLABLE,
    "logits": REAL,
    "probs": PROBABILITIES,
    "labels": array("i", shape="same", low=0, high=2),
    "samples": REAL,
    "tau": POSITIVE.or_none(),
    "variance": array("f", shape="broadcast", low=1e-9).or_none(),
    "y": REALS,
    "mean": REALS,
    "std": array("fi", shape="same", low=1e-9),
    "cdf": array("f", low=0, high=1),
    "proportion": choice("interval", "quantile"),
    "num_points": integer(2),
    "num_bins": integer(1),
    "errors": REALS,
    "uncertainty": REALS,
    "inside": array("fib"),
    "outside": array("fib"),
    "lower": REALS,
    "upper": REALS,
    "coverage": number(0, 1, least=False, most=False),
    "output_axes": integer(0, 1),
    "num": integer(1, 4),
    "steps": integer(1),
    "cutoff": integer(1),
    "start": kinds.known(kinds.ONE_RATE),
    "end": kinds.known(kinds.ONE_RATE),
    "turn": kinds.known(kinds.ONE_RATE),
    "begin": integer(0),
    "gamma": kinds.known(number(0, least=False)),
    "where": array("b", shape="broadcast").or_none(),
    "binary": kinds.FLAG.or_none(),
    "groups": kinds.Kind(lambda value, valid: value is None or (integer(1, 1).fits(value, 0))),
    "allow_deterministic": kinds.FLAG,
    "title": kinds.TEXT,
    "name": kinds.TEXT,
    "ax": kinds.Kind(lambda value, valid: value is None),
}


def call(
    function: Callable[..., Any], given: Mapping[str, Any], name: str = "", /, **special: Kind
) -> Call:
    """A right call: `given`, and the defaults for the rest. `special`: what arguments are that are
    not what `NAMES` says.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    arguments = {p.name: given.get(p.name, p.default) for p in named}
    missing = [n for n, value in arguments.items() if value is inspect.Parameter.empty] + [
        *set(given) - set(arguments)
    ]
    if missing:
        raise ValueError(f"the right call of {function} has no {missing}")
    own = {n: special.get(n) or NAMES[n] for n in arguments if n in special or n in NAMES}
    if others := set(arguments) - set(own) - _OTHERS:
        raise ValueError(f"what may {others} of {function} be?")
    parts = function.__module__.replace("jaxdrop.functional", "jaxdrop").split(".")
    public = [part for part in parts if not part.startswith("_")]
    name = name or ".".join([*public, function.__name__])
    return Call(name, function, arguments, own, open=name.endswith("(...)"))


# Arguments that are handed on, and not looked at.
_OTHERS = {"precision", "module"}


def functions() -> list[Call]:
    """The functions of `jaxdrop`, `jaxdrop.random` and `jaxdrop.schedules`."""
    base = {"key": KEY, "x": X, "rate": 0.3}
    image = {"key": KEY, "x": MAP, "rate": 0.3}
    graph = {"senders": SENDERS, "receivers": RECEIVERS}
    dense = {"key": KEY, "x": X, "w": W}
    axes = {"broadcast_dims": (0,)}
    elementwise = (
        jaxdrop.dropout,
        jaxdrop.classic_dropout,
        jaxdrop.alpha_dropout,
        jaxdrop.gaussian_dropout,
    )
    found = [call(f, base | axes) for f in elementwise]
    found += [
        call(jaxdrop.feature_alpha_dropout, image),
        call(jaxdrop.spatial_dropout, image | {"spatial_rank": 2}),
        call(
            jaxdrop.drop_block,
            image | {"block_size": (2, 2)},
            block_size=kinds.Kind(_is_block_size),
            rule=choice("paper", "torchvision", "timm"),
            normalize=choice("example", "batch", "expected"),
        ),
        call(jaxdrop.gaussian_noise, {"key": KEY, "x": X, "stddev": 0.3}, x=REAL),
        call(jaxdrop.uniform_dropout, {"key": KEY, "x": X, "beta": 0.3}),
        call(
            jaxdrop.neftune,
            {"key": KEY, "x": X, "alpha": 5.0, "mask": jnp.ones(4, bool)},
            x=kinds.Kind(_are_embeddings, traced=True),
            alpha=number(0, axes=True),
            mask=array("bi", shape="same", low=0, high=1).or_none(),
        ),
        call(jaxdrop.drop_path, base),
        call(
            jaxdrop.drop_path_add,
            base | {"rate": 0.5, "branch": _first},
            rate=STATIC,
            branch=kinds.CALLABLE,
            args=kinds.Kind(lambda v, valid: isinstance(v, (tuple, list)) and not any(v)),
            groups=integer(1, 2),
            masked_below=STATIC,
        ),
        call(
            jaxdrop.dropout_mlp,
            {"key": KEY, "x": X, "w_in": _W_IN, "w_out": _W_OUT, "rate": 0.5},
            x=array("fc", shape="last"),
            rate=STATIC,
            w_in=LIKE,
            w_out=LIKE,
            **dict.fromkeys(("b_in", "b_out", "w_gate", "b_gate"), kinds.Kind(is_none)),
            activation=kinds.CALLABLE,
            pattern=choice("unit", "slice"),
            block_size=integer(1),
            groups=kinds.Kind(lambda v, valid: integer(1).fits(v, 0) and int(v) in (1, 2)),
            num_masks=kinds.Kind(lambda v, valid: integer(1).fits(v, 0) and int(v) in (1, 2, 4)),
        ),
        call(
            jaxdrop.layer_drop,
            base | {"layer": _double},
            x=kinds.ANYTHING,
            rate=kinds.ONE_RATE,
            layer=kinds.CALLABLE,
        ),
        call(
            jaxdrop.layer_subset,
            {"key": KEY, "rates": [0.25, 0.5, 0.25]},
            rates=kinds.Kind(_are_rates_of_layers),
        ),
        call(
            jaxdrop.shake_drop,
            base,
            rate=kinds.ONE_RATE,
            alpha=pair(),
            beta=pair(),
            channel_axis=integer(),
            per=choice("batch", "image", "channel", "pixel"),
        ),
        call(
            jaxdrop.depth_rates,
            {"rate": 0.3, "num_layers": 4},
            rate=kinds.ONE_RATE,
            num_layers=integer(1),
            rule=choice(*typing.get_args(DepthRule)),
        ),
        call(jaxdrop.drop_connect, dense | {"rate": 0.3}, x=LAST, per=choice("batch", "example")),
        call(jaxdrop.drop_connect_gaussian, dense | {"rate": 0.3}, x=LAST, w=LIKE),
        call(
            jaxdrop.weight_drop,
            {"key": KEY, "params": {"kernel": W}, "rate": 0.3, "match": "kernel"},
            params=kinds.Kind(_has_leaf),
            rate=kinds.ONE_RATE,
            match=kinds.Kind(
                lambda value, valid: (
                    callable(value) or (isinstance(value, str) and value in ("", "kernel"))
                )
            ),
            drop=kinds.CALLABLE,
        ),
        call(
            jaxdrop.quant_noise,
            {"key": KEY, "w": W, "rate": 0.3, "block_size": 4},
            w=array("fc", shape="same"),
            rate=kinds.ONE_RATE,
            block_size=kinds.Kind(
                lambda value, valid: integer(1).fits(value, 0) and 8 % int(value) == 0
            ),
            axis=axis(2),
        ),
        call(jaxdrop.concrete_dropout, {"key": KEY, "x": X, "logit": -1.0}, logit=kinds.PARAMETER),
        call(jaxdrop.concrete_kl, {"logit": -1.0, "w": W}, logit=kinds.PARAMETER, w=array("fc")),
        call(jaxdrop.variational_dropout, {"key": KEY, "x": X, "log_alpha": -1.0}),
        call(jaxdrop.variational_dense, dense | {"log_alpha": -1.0}, x=LAST),
        call(jaxdrop.variational_kl, {"log_alpha": X}, log_alpha=array("fi")),
        call(
            jaxdrop.sparse_variational_dense,
            dense | {"log_sigma2": -1.0},
            x=LAST,
            log_sigma2=kinds.PARAMETER,
        ),
        call(
            jaxdrop.sparse_log_alpha,
            {"w": W, "log_sigma2": -1.0},
            log_sigma2=kinds.PARAMETER,
            w=array("f"),
        ),
        call(jaxdrop.sparse_kl, {"log_alpha": X}, log_alpha=array("fi")),
        call(
            jaxdrop.r_drop,
            {"logits": LOGITS[0], "other": LOGITS[1], "labels": LABELS, "alpha": 5.0},
            logits=array("f", shape="same"),
            other=array("f", shape="same"),
            labels=array("i", shape="same"),
            alpha=number(0),
            rule=choice("fairseq", "readme", "vit"),
        ),
        call(
            jaxdrop.multi_sample_dropout,
            {"keys": KEYS, "x": X, "rate": 0.3, "loss": jnp.sum},
            keys=kinds.KEYS.or_none(),
        ),
        call(jaxdrop.drop_edge, {"key": KEY, "rate": 0.3} | graph),
        call(
            jaxdrop.drop_node,
            {"key": KEY, "rate": 0.3, "num_nodes": 3} | graph,
            rate=kinds.ONE_RATE,
        ),
        call(
            jaxdrop.symmetric_normalization,
            graph | {"num_nodes": 3, "keep": jnp.ones(4, bool), "weights": jnp.ones(4)},
            keep=array("b", shape="same").or_none(),
            weights=array("f", shape="same", low=0).or_none(),
        ),
        call(jaxdrop.locked_dropout, base | {"time_axis": 0}),
        call(
            jaxdrop.recurrent_dropout,
            {"key": KEY, "candidate": X, "rate": 0.3},
            candidate=array("fc"),
        ),
        call(jaxdrop.zoneout, {"key": KEY, "new": X, "previous": X, "rate": 0.3}, new=LIKE),
        call(
            jaxdrop.word_dropout,
            {"key": KEY, "ids": IDS, "rate": 0.3, "replacement": 0, "protected": (1,)},
            ids=ID,
        ),
        call(
            jaxdrop.embedding_dropout,
            {"key": KEY, "embedded": EMBEDDED, "rate": 0.3, "ids": IDS},
            time_axis=axis(2).or_none(),
            ids=kinds.Kind(_begins),
        ),
        call(
            jaxdrop.token_dropout,
            {"key": KEY, "x": SEQUENCE, "rate": 0.3, "num_prefix_tokens": 1},
            x=array("fcib"),
            rate=kinds.known(number(0, 1, most=False)),
            rule=choice("timm", "floor", "round"),
        ),
        call(
            jaxdrop.random_ltd,
            {"key": KEY, "x": SEQUENCE, "rate": 0.5, "layer": _double},
            rate=STATIC,
            layer=kinds.CALLABLE,
            positions=kinds.Kind(is_none),
            mask=kinds.Kind(is_none),
            num_prefix_tokens=integer(0, 3),
            groups=integer(1, 1),
        ),
        call(
            jaxdrop.label_dropout,
            {"key": KEY, "labels": LABELS, "rate": 0.3, "null_id": 3},
            labels=ID,
            force_drop=array("b", shape="broadcast").or_none(),
        ),
        call(
            jaxdrop.modality_dropout,
            {"key": KEY, "arrays": (X, X + 1), "rate": 0.3, "rule": "one", "weights": (0.5, 0.5)},
            arrays=kinds.Kind(_is_arrays, traced=True),
            rate=kinds.ONE_RATE,
            rule=choice("one"),
            weights=kinds.Kind(_is_weights).or_none(),
            per=choice("example", "batch"),
        ),
        call(
            jaxdrop.bias_dropout_add,
            {"key": KEY, "x": X, "bias": jnp.ones(8), "residual": X, "rate": 0.3},
            x=LIKE,
            bias=array("fc", shape="broadcast").or_none(),
            residual=LIKE,
        ),
        call(
            jaxdrop.dropout_add_layer_norm,
            {
                "key": KEY,
                "x": X,
                "residual": X,
                "scale": jnp.ones(8),
                "bias": jnp.ones(8),
                "rate": 0.3,
                "row_scale": jnp.ones(4),
            },
            x=array("f", shape="same"),
            **dict.fromkeys(("residual",), array("f", shape="same").or_none()),
            **dict.fromkeys(
                ("scale", "bias", "row_scale"), array("f", shape="broadcast").or_none()
            ),
        ),
        call(
            jaxdrop.attention_dropout,
            {"key": KEY, "weights": X, "rate": 0.3} | axes,
            weights=array("fc"),
        ),
        call(
            jaxdrop.drop_key,
            {"key": KEY, "logits": X, "rate": 0.3, "broadcast_dims": (0,)},
            broadcast_dims=kinds.Kind(lambda v, valid: integers(-2, 0).fits(v, 0) and -1 not in v),
            rate=kinds.ONE_RATE,
        ),
        call(
            jaxdrop.drop_head,
            {"key": KEY, "x": HEADS, "rate": 0.3},
            x=kinds.Kind(_have_heads, traced=True),
            rate=kinds.ONE_RATE,
            head_axis=integer(-3, -2),
            normalize=choice("example", "expected", "fixed"),
        ),
        attention(),
        call(random.key, {"seed": 3}, seed=kinds.Kind(integer(-(2**63), 2**63).fits, traced=True)),
        call(random.fast, {"key": jax.random.key(1)}, key=kinds.Kind(_are_keys, traced=True)),
        call(random.bits, {"key": KEY, "shape": (2, 3)}, **_BITS),
        call(
            random.bits_at,
            {"key": KEY, "coordinates": (jnp.arange(3), jnp.arange(3)), "global_shape": (4, 5)},
            key=kinds.KEY,
            coordinates=kinds.Kind(_is_coordinates),
            global_shape=integers(0, 2**31, count=2),
            bit_width=_BITS["bit_width"],
        ),
        call(
            jaxdrop.step_key,
            {"key": KEY, "step": 3},
            key=kinds.KEY,
            **dict.fromkeys(("step", "micro_batch", "replica"), _INDEX),
        ),
    ]
    one = kinds.known(kinds.ONE_RATE)
    found += [
        call(schedules.constant, {"rate": 0.3}, rate=one),
        call(schedules.linear, {"start": 0.1, "end": 0.3, "steps": 10}),
        call(schedules.cosine, {"start": 0.1, "end": 0.3, "steps": 10}),
        call(schedules.cyclic, {"start": 0.1, "turn": 0.3, "period": 10}, period=integer(2)),
        call(schedules.early, {"rate": 0.1, "cutoff": 10}, rate=one),
        call(schedules.late, {"rate": 0.1, "cutoff": 10}, rate=one),
        call(schedules.curriculum, {"rate": 0.1, "gamma": 0.1}, rate=one),
        call(schedules.annealed, {"rate": 0.1, "gamma": 0.1}, rate=one),
        call(schedules.dropblock, {"rate": 0.1, "steps": 10}, rate=one, group=integer(1, 4)),
        call(schedules.scheduled_drop_path, {"rate": 0.1, "steps": 10}, rate=one),
        call(
            schedules.layer_skip,
            {"rate": 0.1, "steps": 10},
            rate=one,
            shape=choice("linear", "exp", "log", "sin", "sigmoid", "step"),
        ),
        call(
            schedules.in_stages,
            {"schedule": schedules.linear(0.1, 0.3, 10), "steps": 10, "stages": 3},
            schedule=kinds.CALLABLE,
            steps=integer(3),
            stages=integer(2, 10),
        ),
        call(
            schedules.linear(0.1, 0.3, 10), {"count": 3}, "schedules.linear(...)", count=array("fi")
        ),
    ]
    return found


def attention() -> Call:
    """`jaxdrop.dot_product_attention`."""
    return call(
        jaxdrop.dot_product_attention,
        {
            "key": KEY,
            **dict.fromkeys("qkv", HEADS),
            "rate": 0.3,
            "bias": jnp.ones((2, 2, 4, 4)),
            "mask": jnp.ones((2, 2, 4, 4), bool),
            "query_seq_lengths": jnp.full(2, 4),
            "key_value_seq_lengths": jnp.full(2, 4),
            "local_window_size": 3,
        },
        **dict.fromkeys("qkv", array("f", shape="same")),
        rate=kinds.ONE_RATE,
        bias=array("f", shape="broadcast").or_none(),
        mask=array("b", shape="broadcast").or_none(),
        local_window_size=kinds.Kind(
            lambda v, valid: integer(0).fits(v, 0) or integers(0, 2**62, count=2).fits(v, 0)
        ).or_none(),
        **dict.fromkeys(
            ("query_seq_lengths", "key_value_seq_lengths"), array("i", shape="same").or_none()
        ),
        scale=kinds.known(number()).or_none(),
        broadcast_dims=integers(-4, 3),
        query_offset=kinds.Kind(
            lambda value, valid: (
                value is None or integer(0).fits(value, 0) or array("i").fits(value, 0)
            ),
            traced=True,
        ),
        implementation=choice("xla").or_none(),
        segment_ids=kinds.Kind(lambda value, valid: value is None),
        block_sizes=kinds.Kind(integers(1, 2**31, count=2).fits).or_none(),
    )


def statistics() -> list[Call]:
    """The functions of `jaxdrop.mc`, its metrics and its acquisition functions."""
    metrics, acquisition = mc.metrics, mc.acquisition
    noise = {"tau": 2.0}
    mixture = {"y": Y, "samples": SAMPLES} | noise
    several = kinds.Kind(_are_samples, traced=True)
    fn = functools.partial(_sample)
    truth = {"labels": LABELS, "probs": PROBS}
    selective = {"errors": ERRORS, "uncertainty": UNIT}
    novelty = {"inside": UNIT, "outside": UNIT + 1}
    decay = {"rate": 0.3, "length_scale": 1.0, "num_examples": 100, "loss": "mse"}
    summary, regression = mc.classification(logits=LOGITS), mc.regression(SAMPLES, tau=2.0)
    positive, noiseless = number(0, least=False, axes=True), {"tau": _PRECISION}
    found = [
        call(mc.keys, {"key": KEY, "num_samples": 4}, key=kinds.KEY),
        call(
            mc.masksembles,
            {"key": KEY, "num_masks": 3, "features": 8},
            key=kinds.KEY,
            num_masks=integer(1),
            features=integer(1, 2**31 - 1),
            scale=kinds.known(number(1, 6)),
        ),
        call(
            mc.subnetwork,
            {
                "params": {"w": W},
                "axes": {"w": PartitionSpec("units*")},
                "factors": {"units": jnp.arange(8.0)},
                "sizes": {"units": 7},
            },
            params=_LIKE_IT,
            axes=_LIKE_IT,
            factors=_LIKE_IT,
            sizes=_LIKE_IT.or_none(),
        ),
        call(mc.predict, {"fn": fn, "keys": KEYS}),
        call(mc.moments, {"fn": fn, "keys": KEYS}, batch_size=integer(1)),
        call(
            mc.until,
            {"fn": fn, "key": KEY, "tolerance": 0.1, "max_samples": 8, "batch_size": 2},
            key=kinds.KEY,
            tolerance=number(0),
            max_samples=integer(8),
            batch_size=integer(1, 2),
            reduce=kinds.CALLABLE,
        ),
        call(
            mc.predict_dataset,
            {"fn": _of_batch, "batches": [(X,), (X,)], "keys": KEYS, "progress": False},
            batches=kinds.Kind(_is_batches),
            path=kinds.Kind(lambda value, valid: value is None or isinstance(value, str)),
        ),
        call(
            mc.classification,
            {"logits": LOGITS},
            logits=array("f").or_none(),
            probs=kinds.Kind(lambda value, valid: value is None),
        ),
        call(mc.regression, {"samples": SAMPLES} | noise, **noiseless),
        call(mc.log_likelihood, mixture, samples=several),
        call(mc.cdf, mixture, samples=several, **noiseless),
        call(
            mc.quantiles,
            {"samples": SAMPLES, "q": jnp.asarray([0.1, 0.9])} | noise,
            q=array("f", low=1e-6, high=1 - 1e-6),
            **noiseless,
        ),
        call(
            mc.interval,
            {"samples": SAMPLES} | noise,
            coverage=kinds.known(NAMES["coverage"]),
            **noiseless,
        ),
        call(mc.log_mean_exp, {"scores": SAMPLES}, scores=REAL),
        call(
            mc.sequence_scores,
            {"log_probs": SAMPLES, "mask": jnp.ones(4, bool)},
            log_probs=REAL,
            mask=array("bi").or_none(),
        ),
        call(mc.fit_temperature, {"labels": LABELS, "logits": LOGITS}, logits=several),
        call(mc.fit_tau, {"y": Y, "samples": SAMPLES}, samples=several),
        call(
            mc.fit_rate,
            {"fn": _at_rate, "rates": jnp.asarray([0.1, 0.2, 0.3]), "keys": KEYS, "loss": jnp.sum},
            rates=array("fi", low=0, high=1),
        ),
        call(
            mc.tau_from_weight_decay,
            {"weight_decay": 1e-4} | decay,
            weight_decay=positive,
            **_DECAY,
        ),
        call(mc.weight_decay_from_tau, {"tau": 2.0} | decay, **_DECAY | {"tau": positive}),
        call(
            summary.merge,
            {"other": mc.classification(logits=LOGITS)},
            "mc.Classification.merge",
            other=kinds.instance(mc.Classification),
        ),
        call(
            regression.merge,
            {"other": mc.regression(SAMPLES, tau=2.0)},
            "mc.Regression.merge",
            other=kinds.instance(mc.Regression),
        ),
        call(regression.cdf, {"y": Y}, "mc.Regression.cdf"),
        call(regression.interval, {}, "mc.Regression.interval"),
        call(
            metrics.nll,
            truth,
            log_probs=kinds.Kind(lambda value, valid: value is None),
            probs=PROBABILITIES.or_none(),
        ),
        *(
            call(f, truth)
            for f in (
                metrics.brier,
                metrics.ece,
                metrics.mce,
                metrics.classwise_ece,
                metrics.adaptive_ece,
            )
        ),
        call(metrics.reliability, truth),
        *(call(f, novelty) for f in (metrics.auroc, metrics.aupr, metrics.fpr95)),
        *(
            call(f, selective)
            for f in (metrics.aurc, metrics.risk_coverage, metrics.sparsification)
        ),
        call(metrics.ause, selective, normalize=kinds.FLAG),
        *(
            call(f, {"cdf": UNIT})
            for f in (
                metrics.calibration_curve,
                metrics.mace,
                metrics.rmsce,
                metrics.miscalibration_area,
            )
        ),
        call(metrics.crps_gaussian, {"y": Y, "mean": Y, "std": UNIT}),
        call(metrics.gaussian_nll, {"y": Y, "mean": Y, "std": UNIT}),
        call(metrics.crps_samples, {"y": Y, "samples": SAMPLES}, samples=several),
        call(metrics.picp, {"y": Y, "lower": Y - 1, "upper": Y + 1}),
        call(metrics.mpiw, {"lower": Y - 1, "upper": Y + 1}),
        call(metrics.rmse, {"y": Y, "mean": Y}),
        call(metrics.sharpness, {"std": UNIT}, std=array("fi", low=0)),
        *(
            call(f, {"summary": summary}, summary=kinds.instance(mc.Classification))
            for f in (
                acquisition.bald,
                acquisition.entropy,
                acquisition.margin,
                acquisition.variation_ratio,
            )
        ),
        call(acquisition.top, {"scores": UNIT, "num": 2}, scores=array("fib")),
        call(
            acquisition.power_sampling,
            {"key": KEY, "scores": UNIT, "num": 2},
            key=kinds.KEY,
            scores=array("fib", low=0),
            coldness=number(0),
            kind=choice("power", "softmax", "softrank"),
        ),
        call(
            acquisition.batch_bald,
            {"key": KEY, "num": 2, "logits": LOGITS},
            logits=several,
            probs=kinds.Kind(lambda value, valid: value is None),
            max_configurations=integer(1),
        ),
        call(
            acquisition.epig,
            {"logits": LOGITS, "target_logits": LOGITS},
            logits=array("f", shape="same"),
            target_logits=kinds.Kind(_are_targets, traced=True),
            **dict.fromkeys(
                ("probs", "target_probs"), kinds.Kind(lambda value, valid: value is None)
            ),
        ),
    ]
    return found


def plots() -> list[Call]:
    """The functions of `jaxdrop.mc.plots`."""
    draw = mc.plots
    truth = {"labels": LABELS, "probs": PROBS}
    selective = {"errors": ERRORS, "uncertainty": UNIT}
    several = {"uncertainty": kinds.Kind(_is_one_or_several(REALS))}
    return [
        call(
            draw.band,
            {"x": Y, "summary": mc.regression(SAMPLES, tau=2.0)},
            x=array("fi", shape="same"),
            summary=kinds.instance(mc.Regression),
            observed=kinds.Kind(lambda value, valid: value is None),
            coverage=kinds.known(NAMES["coverage"]),
        ),
        call(
            draw.certainty,
            {"images": MAP[:1, ..., 0].repeat(4, 0), "uncertainty": UNIT, "columns": 2} | truth,
            images=array("fib", shape="same"),
            columns=integer(1, 4),
        ),
        call(
            draw.novelty,
            {"inside": UNIT, "outside": UNIT + 1},
            outside=kinds.Kind(_is_one_or_several(array("fib"))),
        ),
        call(draw.reliability, truth),
        call(draw.risk_coverage, selective, **several),
        call(draw.sparsification, selective, **several),
        call(draw.standard_error, {"samples": SAMPLES}, samples=array("fib")),
    ]


_BITS: dict[str, Kind] = {
    "key": kinds.KEY,
    "shape": integers(0, 2**31),
    "bit_width": kinds.Kind(lambda value, valid: integer().fits(value, 0) and value in (8, 16, 32)),
    "origin": kinds.Kind(lambda value, valid: value is None or isinstance(value, (list, tuple))),
    "global_shape": integers(0, 2**31, count=2).or_none(),
    "sharding": kinds.Kind(lambda value, valid: value is None),
}
_DECAY = {
    "rate": number(0, 1, most=False, axes=True),
    "length_scale": number(0, least=False, axes=True),
    "num_examples": integer(1),
    "loss": choice("mse", "half_mse"),
}
_PRECISION = kinds.Kind(
    lambda value, valid: POSITIVE.fits(value, valid) or _is_infinite(value, least=0), traced=True
)
_INDEX = kinds.Kind(
    lambda value, valid: value is None or integer(0, 2**32 - 1).fits(value, 0), traced=True
)


def is_none(value: Any, valid: Any) -> bool:
    return value is None


def _first(x: Any, *others: Any) -> Any:
    return x


def _double(x: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf * 2, x)


def _sample(key: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, X, 0.5)


def _of_batch(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, x, 0.5)


def _at_rate(key: jax.Array, rate: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, X, rate)


def _is_infinite(value: Any, least: float = -math.inf) -> bool:
    return isinstance(value, (float, np.floating)) and math.isinf(value) and float(value) >= least


def _are_samples(value: Any, valid: Any) -> bool:
    """Any number of them."""
    return (
        array("f").fits(value, valid)
        and jnp.ndim(value) > 0
        and len(value) > 0
        and jnp.shape(value)[1:] == valid.shape[1:]
    )


def _are_targets(value: Any, valid: Any) -> bool:
    """Predictions of any number of inputs and classes, by the same samples."""
    return (
        array("f").fits(value, valid)
        and jnp.ndim(value) == 3
        and len(value) == len(valid)
        and jnp.size(value) > 0
    )


def _are_embeddings(value: Any, valid: Any) -> bool:
    """Of any width."""
    return array("f").fits(value, valid) and jnp.shape(value)[:-1] == valid.shape[:-1]


def _have_heads(value: Any, valid: Any) -> bool:
    return array("fc").fits(value, valid) and jnp.ndim(value) >= 3


def _is_one_or_several(kind: Kind) -> Callable[[Any, Any], bool]:
    """An array, or a dict of several under their names."""

    def fits(value: Any, valid: Any) -> bool:
        if isinstance(value, dict):
            return bool(value) and all(
                isinstance(name, str) and kind.fits(x, valid) for name, x in value.items()
            )
        return kind.fits(value, valid)

    return fits


def _begins(value: Any, valid: Any) -> bool:
    return array("i").fits(value, valid) and np.shape(value) == EMBEDDED.shape[: np.ndim(value)]


def _is_block_size(value: Any, valid: Any) -> bool:
    return integer(1).fits(value, 0) or any(
        integers(1, 2**62, count=count).fits(value, 0) for count in (1, 2)
    )


def _has_leaf(value: Any, valid: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(array("fc").fits(leaf, W) for leaf in value.values())
        and "kernel" in value
    )


def _are_keys(value: Any, valid: Any) -> bool:
    return (
        kinds.KEY.fits(value, valid)
        or kinds.KEYS.fits(value, valid)
        or (isinstance(value, (jax.Array, np.ndarray)) and value.dtype == np.uint32)
    )


def _is_arrays(value: Any, valid: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return len(leaves) == 2 and all(
        isinstance(x, (jax.Array, np.ndarray)) and array("fc").fits(x, X) and x.shape[:1] == (4,)
        for x in leaves
    )


def _is_weights(value: Any, valid: Any) -> bool:
    found = kinds.numeric(value)
    return (
        found is not None
        and found.shape == (2,)
        and math.isclose(float(found.sum()), 1)
        and bool(np.all(found >= 0))
    )


def _is_coordinates(value: Any, valid: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(array("i").fits(x, None) for x in value)
    )


def _is_batches(value: Any, valid: Any) -> bool:
    if isinstance(value, (list, tuple)) and value and all(isinstance(x, tuple) for x in value):
        return all(len(x) == 1 and array("f").fits(x[0], X) and np.ndim(x[0]) for x in value)
    found = kinds.numeric(value)
    return found is not None and bool(found.ndim > 1 and found.dtype.kind == "f")
