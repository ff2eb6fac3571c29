"""Layers that drop residual branches and whole layers. See `jaxdrop.functional.paths`."""

from jaxdrop.functional import paths
from jaxdrop.layers._variant import Variant

__all__ = ["DropPath", "DropPathAdd", "LayerDrop", "ShakeDrop"]


class DropPath(Variant, function=paths.drop_path):
    """`jaxdrop.drop_path` as a layer: stochastic depth, on the output of a residual branch. PyTorch
    users know it as `StochasticDepth` too.

    Args:
      mode: `'row'` for each example by itself, `'batch'` for all together.
      batch_axis: where the examples are.
      scale_by_keep: whether what is kept is divided by `1 - rate`.
    """

    rate: float
    mode: paths.Mode = "row"
    batch_axis: int = 0
    scale_by_keep: bool = True


class DropPathAdd(Variant, function=paths.drop_path_add):
    """`jaxdrop.drop_path_add` as a layer: `layer(x, branch)` is `x + m branch(x)`, and the branch
    is computed only for the examples that keep it.

    The branch is the caller's: its parameters are where they are without this layer. Linen's `init`
    runs it for all examples.

    Args:
      rate: the probability of dropping, a number in [0, 1).
      batch_axis: where the examples are.
      groups: how many groups of examples keep equally many.
      masked_below: the rate below which the branch is computed for all examples.
      deterministic: if True, the branch is added for all examples.
    """

    call = """`inputs + m branch(inputs, *args)`.

    Args:
      inputs: an array, or a pytree of arrays.
      branch: a module of the same framework, or a function, that returns what is like `inputs`.
      *args: further arguments of the branch, which have the batch axis too.
    """
    rate: float
    batch_axis: int = 0
    groups: int = 1
    masked_below: float = 0.1


class LayerDrop(Variant, function=paths.layer_drop):
    """`jaxdrop.layer_drop` as a layer: `layer_drop(x, block)` runs the block, or returns `x`.

    The block is the caller's: its parameters are where they are without `LayerDrop`. A skipped
    block changes none of its state (batch statistics, random streams), as if it were not there.
    Linen's `init` always runs it.

    Args:
      rate: the probability of skipping the block, a number in [0, 1].
      deterministic: if True, the block always runs.
    """

    call = """`layer(inputs, *args)` or `inputs`.

    Args:
      inputs: an array, or a pytree of arrays.
      layer: a module of the same framework that returns what is like `inputs`. In NNX its state is
        carried through the `lax.cond`.
      *args: further arguments of the layer, such as an attention mask.
      rate: the probability of skipping the layer; a traced value, as of a schedule, does not
        recompile.

    Returns:
      What is like `inputs`.
    """
    rate: float


class ShakeDrop(Variant, function=paths.shake_drop):
    """`jaxdrop.shake_drop` as a layer, on the output of a residual branch.

    Args:
      rate: the probability that the branch is shaken, a number in [0, 1].
      alpha: least and greatest forward coefficient.
      beta: least and greatest backward coefficient.
      per: who gets coefficients of their own: `'batch'`, `'image'`, `'channel'` or `'pixel'`.
      batch_axis: where the images are.
      channel_axis: where the channels are.
      deterministic: if True, the input times the expected coefficient is returned.
    """

    rate: float = 0.5
    alpha: paths.Range = (-1.0, 1.0)
    beta: paths.Range = (0.0, 1.0)
    per: paths.Per = "image"
    batch_axis: int = 0
    channel_axis: int = -1
