"""Checks of a list of edges."""

from __future__ import annotations

import jax
import numpy as np

from jaxdrop import _checks


def checked_edges(
    caller: str, senders: jax.Array, receivers: jax.Array, num_nodes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """`senders` and `receivers` of a list of edges. If their values are known, they must lie in
    [0, `num_nodes`).
    """
    senders, receivers = (
        _checks.check_ids(senders, caller, "senders"),
        _checks.check_ids(receivers, caller, "receivers"),
    )
    if senders.ndim != 1 or senders.shape != receivers.shape:
        raise ValueError(
            f"{caller} takes senders and receivers of one shape (E,), got {senders.shape} and"
            f" {receivers.shape}. For a batch of graphs use jax.vmap."
        )
    for name, ends in (("senders", senders), ("receivers", receivers)):
        if not _checks.known(ends) or not ends.size:
            continue
        least, most = np.asarray(ends).min(), np.asarray(ends).max()
        if least < 0 or most >= (2**32 if num_nodes is None else num_nodes):
            allowed = "[0, 2**32)" if num_nodes is None else f"[0, num_nodes) = [0, {num_nodes})"
            way = (
                " num_nodes counts all nodes, those of padding too, one of which edges of padding"
                " name."
                if num_nodes
                else ""
            )
            raise ValueError(
                f"{name} must be numbers of nodes, in {allowed}, got"
                f" {least if least < 0 else most}.{way}"
            )
    return senders, receivers
