"""The layers of every framework: what their hyperparameters are, in words and in types.

`jaxdrop.nnx` and `jaxdrop.linen` make layers of these descriptions.
"""

from jaxdrop.layers._parameters import Kernel
from jaxdrop.layers._variant import Variant

__all__ = ["Kernel", "Variant"]
