"""A graph without some of its edges, and without some of its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

import jaxdrop

from .panels import Colors, Panel, Panels

# Zachary's karate club (1977): for each member, those of higher number it met outside.
_FRIENDS = (
    "1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31|2 3 7 13 17 19 21 30|3 7 8 9 13 27 28 32|7 12 13|6 10"
    "|6 10 16|16||30 32 33|33||||33|32 33|32 33|||32 33|33|32 33||32 33|25 27 29 32 33|25 27 31"
    "|31|29 33|33|31 33|32 33|32 33|32 33|33|"
)


def graphs() -> Panels:
    pairs = [
        (member, int(friend))
        for member, friends in enumerate(_FRIENDS.split("|"))
        for friend in friends.split()
    ]
    senders, receivers = np.asarray(pairs).T
    places = _layout(senders, receivers)
    edges = jaxdrop.drop_edge(
        jaxdrop.key(0), jnp.asarray(senders), jnp.asarray(receivers), 0.4, undirected=True
    )
    kept = jaxdrop.drop_node(
        jaxdrop.key(1), jnp.asarray(senders), jnp.asarray(receivers), len(places), 0.3
    )
    every = np.ones(len(places), bool)

    def panel(title: str, nodes: Any, edges: Any) -> Panel:
        return Panel(title, _drawn(places, pairs, np.asarray(nodes), np.asarray(edges)))

    return Panels(
        [
            panel("the graph", every, np.ones(len(pairs), bool)),
            panel("drop_edge: pale edges\nare not used", every, edges),
            panel("drop_node: a node goes\nwith its edges", kept.nodes, kept.edges),
        ],
        representative=1,
    )


def _layout(senders: np.ndarray, receivers: np.ndarray, steps: int = 400) -> np.ndarray:
    """Places of nodes that repel each other, and are drawn together by edges."""
    size = 1 + max(senders.max(), receivers.max())
    adjacency = np.zeros((size, size))
    adjacency[senders, receivers] = adjacency[receivers, senders] = 1
    places = np.random.default_rng(0).normal(size=(size, 2))
    for step in range(steps):
        difference = places[:, None] - places[None]
        distance = np.sqrt((difference**2).sum(-1)) + 1e-3
        force = (0.2 / distance**2 - adjacency * distance)[..., None] * difference
        moved = force.sum(1) - 0.1 * places
        length = np.sqrt((moved**2).sum(-1, keepdims=True)) + 1e-9
        places += moved / length * np.minimum(length, 0.2 * (1 - step / steps))
    return places


def _drawn(
    places: np.ndarray, pairs: list[tuple[int, int]], nodes: np.ndarray, edges: np.ndarray
) -> Callable[[Axes, Colors], Any]:
    def draw(ax: Axes, colors: Colors) -> None:
        for pair, kept in zip(pairs, edges, strict=True):
            color, style = (colors.ink, "-") if kept else (colors.pale, ":")
            ax.plot(*places[[*pair]].T, color=color, linestyle=style, linewidth=0.9, zorder=1)
        faces = [colors.kept if kept else "none" for kept in nodes]
        edge = [colors.kept if kept else colors.pale for kept in nodes]
        ax.scatter(*places.T, s=22, c=faces, edgecolors=edge, zorder=2)
        ax.set_aspect("equal")
        ax.set_axis_off()

    return draw
