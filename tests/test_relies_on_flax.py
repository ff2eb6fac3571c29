"""What this package relies on in Flax and JAX beyond their documented interfaces.

Each test is one such fact, in its name, without the package's own code around it. One that fails
with a new version of Flax or JAX says which files have to change, and how they use the fact.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend.core import Jaxpr, Literal, primitives

import jaxdrop
import jaxdrop.linen
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import _run
from jaxdrop.layers.attention import with_attributes
from jaxdrop.linen import _cells as linen_cells
from jaxdrop.mc import _prefix as prefix
from jaxdrop.nnx import _cells as nnx_cells

KEY = jax.random.key(0)
X = jnp.ones((2, 3, 8))

pytestmark = pytest.mark.usefixtures("relaxed")


def equal(a: Any, b: Any) -> bool:
    return bool(jnp.array_equal(a, b))


# -- Flax's NNX layers


def test_nnx_dropout_reads_self_rate_and_self_deterministic() -> None:
    used = "jaxdrop/nnx/_forced.py sets these attributes in a copy of the model"
    layer = nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0))
    assert equal(layer(X), X)
    layer.deterministic = False
    assert not equal(layer(X), X), used
    layer.rate = 0.0
    assert equal(layer(X), X), used
    layer.rate = 1.0
    assert not layer(X).any(), used


def test_nnx_dropout_draws_the_mask_of_jaxdrop_dropout() -> None:
    layer = nnx.Dropout(0.25, broadcast_dims=(1,), deterministic=False)
    expected = jaxdrop.dropout(KEY, X, 0.25, broadcast_dims=(1,))
    assert equal(layer(X, rngs=KEY) == 0, expected == 0), (
        "jaxdrop/nnx/_flax_dropout.py: with a traced rate it stands in for Flax's layer"
    )


def nnx_attention(**options: Any) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0), **options)


def test_nnx_attention_reads_self_attention_fn_and_self_dropout_rate() -> None:
    used = "jaxdrop/layers/attention.py gives other ones to a copy of the layer"
    layer, seen = nnx_attention(dropout_rate=0.25, deterministic=False), {}

    def attention_fn(query: Any, key: Any, value: Any, **options: Any) -> Any:
        seen.update(options)
        return query

    with_attributes(layer, attention_fn=attention_fn, dropout_rate=0.5)(X)
    assert seen["dropout_rate"] == 0.5, used
    assert seen["dropout_rng"] is not None, used
    assert layer.dropout_rate == 0.25
    needed = {"dropout_rate", "dropout_rng", "broadcast_dropout", "deterministic", "module"}
    assert needed <= seen.keys(), "jaxdrop/nnx/attention.py: the function takes what Flax passes"
    with_attributes(layer, attention_fn=attention_fn, dropout_rate=0.0)(X)
    assert seen["dropout_rng"] is None, "a stand-in of 0 turns dropout off: " + used


def test_nnx_attention_takes_its_key_by_calling_rngs() -> None:
    layer, seen = nnx_attention(dropout_rate=0.25, deterministic=False), {}
    layer.attention_fn = lambda query, key, value, **options: seen.update(options) or query
    layer(X, rngs=lambda: KEY)
    assert seen["dropout_rng"] is KEY, "jaxdrop/nnx/attention.py hands on a key as a function"


def test_copies_of_nnx_modules_share_variables_and_may_change_under_a_trace() -> None:
    used = "jaxdrop/layers/attention.py, with_attributes"
    layer = nnx.Dropout(0.5, deterministic=False, rngs=nnx.Rngs(0))
    copied = copy.copy(layer)
    assert copied.rngs.count is layer.rngs.count, used

    def run(x: jax.Array) -> jax.Array:
        return with_attributes(layer, rate=0.0)(x)

    assert equal(jax.jit(run)(X), X), used
    assert layer.rate == 0.5, used


def test_nnx_modules_keep_a_class_that_was_set() -> None:
    used = "jaxdrop/nnx/_forced.py sets the class of Flax's modules in a copy of the model"

    class Other(nnx.Linear):
        def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
            return inputs

    layer = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    before = nnx.split(layer)[0]
    object.__setattr__(layer, "__class__", Other)
    graph, state = nnx.split(layer)
    assert graph != before, f"{used}, and nnx.jit must not take it for the same graph"
    assert equal(nnx.merge(graph, state)(X), X), used
    assert equal(nnx.jit(lambda layer: layer(X))(layer), X), used
    assert "__class__" not in vars(layer), used


def test_nnx_streams_have_a_key_a_count_and_a_tag() -> None:
    used = "jaxdrop/nnx/_model.py restarts streams, and jaxdrop/nnx/_cells.py reads the tag"
    stream = nnx.Rngs(dropout=7).dropout
    first = stream()
    stream.key.set_value(jax.random.key(7))
    stream.count.set_value(jnp.zeros((), jnp.uint32))
    assert equal(jax.random.key_data(stream()), jax.random.key_data(first)), used
    assert stream.tag == "dropout", used


def test_nnx_bidirectional_passes_a_stream_with_the_tag_carry() -> None:
    seen = []

    class Layer(nnx.RNN):
        def __call__(self, inputs: jax.Array, **options: Any) -> Any:
            seen.append(options.get("rngs"))
            return super().__call__(inputs, **options)

    cells = [nnx.SimpleCell(8, 8, rngs=nnx.Rngs(0)) for _ in range(2)]
    nnx.Bidirectional(*map(Layer, cells))(X)
    assert [stream.tag for stream in seen] == ["carry"] * 2, (
        "jaxdrop/nnx/_cells.py, class Call: such a stream makes first states, and no masks"
    )


# -- Flax's Linen layers


class Marked(nn.Module):
    """Counts how often `nn.jit` traces it."""

    traced: Any

    @nn.jit
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.traced()
        return x


def test_linen_jit_tells_programs_apart_by_the_flags_of_flax_core_apply() -> None:
    traces = []
    model = Marked(lambda: traces.append(1))

    def run(mark: int) -> None:
        def call(scope: flax.core.Scope) -> jax.Array:
            return model.clone(parent=scope)(X)

        flax.core.apply(call, flags={"mark": mark})({})

    run(1)
    run(2)
    assert len(traces) == 2, "jaxdrop/linen/_model.py marks what its interceptors do"


def test_linen_modules_that_were_bound_and_unbound_are_copies() -> None:
    used = "jaxdrop/linen/_model.py runs a copy of the model in a scope of its own"
    model = nn.Sequential([nn.Dense(3)])
    copied, _ = model.bind({}).unbind()
    assert copied.layers[0] is not model.layers[0], used
    variables = model.init(KEY, X)
    result = flax.core.apply(lambda scope: copied.clone(parent=scope)(X))(variables)
    assert equal(result, model.apply(variables, X)), used


def test_linen_interceptors_see_the_module_the_method_and_its_function() -> None:
    used = "jaxdrop/linen/_model.py, _interceptor"
    flax_call, seen = inspect.unwrap(nn.Dropout.__call__), []

    class Mine(nn.Dropout):
        @nn.compact
        def __call__(self, inputs: Any, *args: Any) -> Any:
            return super().__call__(inputs, *args)

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        seen.append((type(context.module), context.method_name, context.orig_method.func))
        object.__setattr__(context.module, "rate", 1.0)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        y = Mine(0.5, deterministic=False).apply({}, X, rngs={"dropout": KEY})
    assert [each[:2] for each in seen] == [(Mine, "__call__")] * 2, used
    assert [each[2] is flax_call for each in seen] == [False, True], f"{used}, _FLAX_DROPOUT"
    assert not y.any(), f"{used}, _with_attributes: Flax reads the rate of the frozen module"


def test_linen_dropout_draws_the_mask_of_jaxdrop_dropout() -> None:
    layer = nn.Dropout(0.25, broadcast_dims=(1,), deterministic=False)
    expected = jaxdrop.dropout(KEY, X, 0.25, broadcast_dims=(1,))
    assert equal(layer.apply({}, X, rng=KEY) == 0, expected == 0), (
        "jaxdrop/linen/_model.py, _dropout: it stands in for Flax's layer"
    )


def test_linen_attention_reads_self_attention_fn_and_self_dropout_rate() -> None:
    used = "jaxdrop/layers/attention.py and jaxdrop/linen/attention.py"
    seen = {}

    def attention_fn(query: Any, key: Any, value: Any, dropout_rate: Any, dropout_rng: Any) -> Any:
        seen.update(rate=dropout_rate, rng=dropout_rng)
        return query

    class Layer(nn.MultiHeadDotProductAttention):
        @nn.compact
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            layer = with_attributes(self, attention_fn=attention_fn, dropout_rate=0.5)
            return inspect.unwrap(nn.MultiHeadDotProductAttention.__call__)(layer, *args, **kwargs)

    layer = Layer(2, dropout_rate=0.25, deterministic=False)
    variables = layer.init({"params": KEY, "dropout": KEY}, X)
    assert seen["rate"] == 0.5, used
    assert seen["rng"] is not None, used
    assert set(variables["params"]) == {"query", "key", "value", "out"}, f"{used}, FLAX_ATTENTION"


@pytest.mark.parametrize("kind", [nn.MultiHeadDotProductAttention, nn.SelfAttention])
@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_linen_interceptors_see_flax_s_attention_in_its_subclasses(kind: Any) -> None:
    seen = []

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        seen.append(getattr(context.orig_method, "func", None))
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        jax.eval_shape(lambda: kind(2).init(KEY, X))
    assert inspect.unwrap(nn.MultiHeadDotProductAttention.__call__) in seen, (
        "jaxdrop/linen/replacement.py, _FLAX_ATTENTION"
    )


def test_linen_attention_passes_the_options_that_a_signature_names() -> None:
    class Attend:
        seen: ClassVar[dict[str, Any]] = {}
        __signature__ = inspect.signature(jaxdrop.linen.dot_product_attention)

        def __call__(self, query: Any, *operands: Any, **options: Any) -> Any:
            self.seen.update(options)
            return query

    layer = nn.MultiHeadDotProductAttention(
        2, dropout_rate=0.5, deterministic=False, attention_fn=Attend()
    )
    jax.eval_shape(lambda: layer.init({"params": KEY, "dropout": KEY}, X))
    assert {"dropout_rng", "mask", "broadcast_dropout", "deterministic"} <= Attend.seen.keys(), (
        "jaxdrop/_replacing.py, class _Attention"
    )


def test_linen_scopes_count_the_keys_that_are_drawn() -> None:
    counts = []

    class Draws(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(2):
                counts.append(dict(self.scope.rng_counters).get("dropout"))
                self.make_rng("dropout")
            return nn.Dropout(0.5, deterministic=False)(x)

    jax.eval_shape(lambda: Draws().apply({}, X, rngs={"dropout": KEY}))
    assert counts == [0, 1], "jaxdrop/linen/replacement.py, _drawn"


def test_bridges_have_their_modules_under_these_names() -> None:
    used = "jaxdrop/nnx/replacement.py and jaxdrop/linen/replacement.py say what they hold"
    module = nn.Dense(3)
    assert nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).to_nnx__module is module, used
    assert nnx.bridge.ToLinen(nnx.Linear, args=(8, 3)).nnx_class is nnx.Linear, used


def test_nnx_models_that_were_split_and_merged_share_their_variables() -> None:
    layer = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    merged = nnx.merge(*nnx.split(layer))
    assert merged is not layer
    assert merged.rngs.count is layer.rngs.count, "jaxdrop/nnx/replacement.py"


def test_flax_s_queries_that_see_no_key_get_the_mean_of_all_values_and_no_gradient() -> None:
    used = "jaxdrop/_replacing.py, _flax_masked"
    q, k, v = jax.random.normal(KEY, (3, 1, 2, 1, 4))
    expected = jaxdrop.dropout(KEY, jnp.full((1, 1, 2, 2), 0.5), 0.5)[0, 0] @ v[0, :, 0]
    options = {"mask": jnp.zeros((1, 1, 2, 2), bool), "dropout_rate": 0.5, "dropout_rng": KEY}
    for attend in (nn.dot_product_attention, nnx.dot_product_attention):
        attend = functools.partial(attend, **options)
        y, pull = jax.vjp(lambda q, attend=attend: attend(q, k, v), q)
        np.testing.assert_allclose(y[0, :, 0], expected, rtol=1e-5, err_msg=used)
        assert not pull(y)[0].any(), used


# -- settings of normalization


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (getattr(package, layer), name)
        for package in (nnx, nn)
        for layer, name in (("BatchNorm", "use_running_average"), ("SpectralNorm", "update_stats"))
    ],
)
def test_normalization_is_told_in_the_call(kind: type, name: str) -> None:
    parameters = inspect.signature(kind.__call__).parameters  # type: ignore[operator]
    assert name in parameters, "jaxdrop/_mc_dropout/calls.py, RUNNING_STATISTICS"


# -- recurrent cells


def nnx_cell(kind: Callable[..., Any], **options: Any) -> Any:
    return kind(3, 4, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("kind", nnx_cells.PARTS, ids=lambda kind: kind.__name__)
def test_nnx_cells_have_their_layers_under_these_names(kind: Any) -> None:
    """And read them anew in each step: another callable in their place is what they call."""
    used = "jaxdrop/nnx/_cells.py, PARTS"
    cell, parts, x = nnx_cell(kind), nnx_cells.PARTS[kind], X[:, 0, :3]
    found = {name for name, part in vars(cell).items() if isinstance(part, nnx.Linear)}
    assert found == {*parts.input, *parts.hidden}, used
    carry = jax.tree.map(jnp.ones_like, cell.initialize_carry((2, 3), nnx.Rngs(0)))
    expected = cell(carry, x)[1]
    for side, operand in ((parts.input, x), (parts.hidden, jnp.ones((2, 4)))):
        for name in side:
            own, called = getattr(cell, name), []
            setattr(cell, name, lambda y, own=own, called=called: (called.append(y), own(y))[1])
            assert equal(cell(carry, x)[1], expected)
            assert equal(called[0], operand), f"{used}: {name}"
            setattr(cell, name, own)


LINEN_CELLS = linen_cells.FAMILIES


@pytest.mark.parametrize("kind", LINEN_CELLS, ids=lambda kind: kind.__name__)
def test_linen_cells_have_a_dense_layer_for_each_side_and_gate(kind: Any) -> None:
    gates = LINEN_CELLS[kind].gates
    cell, seen = kind(4), {}

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense):
            seen[context.module.name] = args[0].shape[-1]
        return call(*args, **kwargs)

    carry = cell.initialize_carry(KEY, (2, 3))
    with nn.intercept_methods(intercept):
        params = cell.init(KEY, carry, X[:, 0, :3])["params"]
    expected = {f"{side}{gate}" for side in "ih" for gate in gates}
    used = "jaxdrop/linen/_cells.py, _dropping and _dropped"
    assert set(params) == expected, used
    if kind is nn.OptimizedLSTMCell:
        assert not seen, "jaxdrop/linen/_cells.py, _call: with masks by gate it runs as an LSTMCell"
    else:
        assert seen == {name: 3 if name[0] == "i" else 4 for name in expected}, used


def test_linen_lstm_cells_take_each_other_s_parameters() -> None:
    cells = nn.OptimizedLSTMCell(4), nn.LSTMCell(4)
    carry, x = cells[0].initialize_carry(KEY, (2, 3)), X[:, 0, :3]
    variables = cells[0].init(KEY, carry, x)
    outputs = [cell.apply(variables, carry, x)[1] for cell in cells]
    np.testing.assert_allclose(*outputs, rtol=1e-5, err_msg="jaxdrop/linen/_cells.py, _call")


@pytest.mark.parametrize(
    ("framework", "kind"),
    [
        *((nnx, kind) for kind in nnx_cells.PARTS if kind is not nnx.SimpleCell),
        *((nn, kind) for kind in LINEN_CELLS if kind is not nn.SimpleCell),
    ],
    ids=lambda value: value.__name__,
)
def test_cells_activate_the_candidate_first(framework: Any, kind: Any) -> None:
    """A candidate of 0 adds nothing to a memory of 0, and leaves something of a memory of 1."""
    used = "jaxdrop/functional/recurrent/_run.py, on_candidate"

    def memory(start: float) -> jax.Array:
        activation = recurrent.on_candidate(jnp.tanh, jnp.zeros_like)
        x = X[:, 0, :3]
        if framework is nnx:
            cell = nnx_cell(kind, activation_fn=activation)
            carry = jax.tree.map(
                lambda part: part + start, cell.initialize_carry((2, 3), nnx.Rngs(0))
            )
            new = cell(carry, x)
        else:
            cell = kind(4, activation_fn=activation)
            carry = jax.tree.map(lambda part: part + start, cell.initialize_carry(KEY, (2, 3)))
            new, _ = cell.init_with_output(KEY, carry, x)
        return jnp.stack(jax.tree.leaves(new[1 if "LSTM" in kind.__name__ else 0]))

    assert not memory(0.0).any(), used
    assert memory(1.0).all(), used


# -- JAX


def test_programs_name_their_draws_random_bits_and_random_unwrap() -> None:
    program = jax.make_jaxpr(lambda key: (jax.random.bits(key), jax.random.key_data(key)))(KEY)
    names = set(map(str, _names(program.jaxpr)))
    assert {"random_bits", "random_unwrap"} <= names, "jaxdrop/_mc_dropout/dependence.py, _DRAWS"


def _names(program: Jaxpr) -> list[str]:
    names = []
    for equation in program.eqns:
        names.append(equation.primitive.name)
        inner = equation.params.get("jaxpr")
        names += _names(getattr(inner, "jaxpr", inner)) if inner is not None else []
    return names


def test_jit_and_checkpoint_have_these_parameters() -> None:
    used = "jaxdrop/mc/_prefix.py, _is_plain_jit and _add_checkpoint"
    program = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + jax.checkpoint(jnp.sin)(x))(1.0)
    params = {equation.primitive.name: equation.params for equation in program.eqns}
    (checkpoint,) = params.keys() & set(prefix._CHECKPOINTS)  # remat2 in JAX 0.8
    layouts = {f"{way}_{what}" for way in ("in", "out") for what in ("shardings", "layouts")}
    jit = params[primitives.jit_p.name]
    assert {"jaxpr", "compiler_options_kvs"} | layouts <= jit.keys(), used
    assert {"jaxpr", "prevent_cse", "policy"} <= params[checkpoint].keys(), used


def test_one_equation_is_a_program() -> None:
    program = jax.make_jaxpr(lambda x: jnp.sin(x) + 2.0)(1.0).jaxpr
    equation = program.eqns[-1]
    atoms = [atom for atom in equation.invars if not isinstance(atom, Literal)]
    alone = program.replace(constvars=[], invars=atoms, outvars=equation.outvars, eqns=[equation])
    (result,) = jax.core.eval_jaxpr(alone, (), jnp.float32(1))
    assert result == 3, "jaxdrop/mc/_prefix.py, _alone"


def test_a_cell_is_made_of_these_primitives() -> None:
    cell = nnx_cell(nnx.OptimizedLSTMCell)
    carry = cell.initialize_carry((2, 3), nnx.Rngs(0))
    program = jax.make_jaxpr(lambda x: cell(carry, x))(X[:, 0, :3])
    made = set()

    def collect(program: Jaxpr) -> None:
        for equation in program.eqns:
            made.add(equation.primitive)
            if "jaxpr" in equation.params:
                collect(equation.params["jaxpr"].jaxpr)

    collect(program.jaxpr)
    assert made >= set(_run.STORED), "jaxdrop/functional/recurrent/_run.py, STORED"


def test_cheap_operations_have_these_names() -> None:
    used = "jaxdrop/mc/_prefix.py"
    unknown = {name for name in prefix._CHEAP if not hasattr(primitives, f"{name}_p")}
    assert not unknown, f"{used}, _CHEAP: {unknown}"


# -- Auditing


def equations(program: Jaxpr, scopes: str = "") -> Iterator[tuple[str, Any]]:
    """All equations of a program, with the name stacks around them."""
    for equation in program.eqns:
        inside = f"{scopes}/{equation.source_info.name_stack}"
        yield inside, equation
        inner = equation.params.get("jaxpr")
        if inner is not None:
            yield from equations(getattr(inner, "jaxpr", inner), inside)


def test_name_stacks_tell_the_backward_pass_and_the_module() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dropout(0.5)(jnp.sin(x), deterministic=False)

    def gradient(cls: Any) -> Any:
        loss = lambda x, key: jnp.square(cls().apply({}, x, rngs={"dropout": key})).sum()  # noqa: E731
        return [*equations(jax.make_jaxpr(jax.grad(loss))(X, KEY).jaxpr)]

    used = "jaxdrop/audit/_places.py: is_backward and Place.path"
    drawn = [scopes for scopes, each in gradient(Block) if each.primitive.name == "random_bits"]
    assert len(drawn) == 1, used
    assert "Block)/Dropout_0" in drawn[0], used
    assert "transpose(" not in drawn[0], used
    masked = [scopes for scopes, each in gradient(Block) if each.primitive.name == "select_n"]
    assert ["transpose(" in scopes for scopes in masked] == [False, True], used
    again = [scopes for scopes, each in gradient(nn.remat(Block)) if "bits" in str(each.primitive)]
    assert ["rematted_computation" in scopes for scopes in again] == [False, True], used


def test_equations_know_the_line_and_jitted_functions_their_file() -> None:
    used = "jaxdrop/_source_lines.py: user_line and names_library"
    program = jax.make_jaxpr(lambda x: jnp.where(x > 0, x, 0.0))(X).jaxpr
    found = program.eqns[-1]
    files = [frame.file_name for frame in found.source_info.traceback.frames]
    assert __file__ in files, used
    assert "site-packages" in found.params["jaxpr"].jaxpr.debug_info.func_src_info, used


def test_split_keys_of_threefry_are_folded_keys() -> None:
    rows = jax.random.split(KEY, 3)
    assert equal(rows[1], jax.random.fold_in(KEY, 1)), "jaxdrop/audit/_walk.py: _row_of_split"


def test_linen_modules_share_the_very_key_that_two_collections_were_given() -> None:
    seen = []

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            seen.append({name: rng.rng for name, rng in self.scope.rngs.items()})
            return x

    jax.eval_shape(lambda key: Block().init({"params": key, "dropout": key}, X), KEY)
    assert seen[0]["params"] is seen[0]["dropout"], "jaxdrop/audit/_modules.py: _one_key"


def test_nnx_modules_take_another_class() -> None:
    used = "jaxdrop/audit/_objects.py: _instrument"
    layer = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    derived = type(nnx.Dropout)("Dropout", (nnx.Dropout,), {"__call__": lambda self, x: x + 1})
    object.__setattr__(layer, "__class__", derived)
    graph, state = nnx.split(layer)
    assert equal(nnx.merge(graph, state)(X), X + 1), used
