"""The random stream of an `nnx.Rngs` that a layer takes its keys from."""

from __future__ import annotations

from flax import nnx


def stream_of(rngs: nnx.Rngs, name: str, layer: str, way: str | None = None) -> nnx.RngStream:
    """The stream of this name, or the default one. `way` is what else there is to do."""
    try:
        return rngs[name]
    except (KeyError, AttributeError):
        others = ", ".join(map(repr, rngs))
        way = way or f"name the stream that is meant: {layer}(..., rng_collection={name!r})"
        raise ValueError(
            f"{layer} takes its keys from the stream {name!r} of rngs, which has"
            f" {f'only {others}' if others else 'no streams'}. Either\n"
            f"1. give it that stream: nnx.Rngs(..., {name}=jaxdrop.key(0));\n"
            "2. give it a default, for all streams: nnx.Rngs(jaxdrop.key(0), ...);\n"
            f"3. {way}."
        ) from None
