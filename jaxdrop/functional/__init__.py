"""What is dropped: a function for each variant, one module or package for each kind.

Who may import what:

- Users take functions from `jaxdrop`. `__all__` of this package lists them.
- `jaxdrop.nnx`, `jaxdrop.linen` and what they share import the kinds, the modules and packages
  without an underscore. The `__all__` of a kind lists also what it shares with the layers: types,
  checks, and values to start from.
- A module with an underscore is for this package alone, and one inside a kind for that kind alone.
- Nothing here imports a layer or `jaxdrop.mc`: functional imports masks, masks imports random.
"""

from jaxdrop.functional.attention import dot_product_attention
from jaxdrop.functional.elements import (
    alpha_dropout,
    classic_dropout,
    dropout,
    feature_alpha_dropout,
)
from jaxdrop.functional.graphs import drop_edge, drop_node, symmetric_normalization
from jaxdrop.functional.heads import attention_dropout, drop_head, drop_key
from jaxdrop.functional.learned import (
    concrete_dropout,
    concrete_kl,
    sparse_kl,
    sparse_log_alpha,
    sparse_variational_dense,
    variational_dense,
    variational_dropout,
    variational_kl,
)
from jaxdrop.functional.losses import multi_sample_dropout, r_drop
from jaxdrop.functional.mlp import dropout_mlp
from jaxdrop.functional.noise import gaussian_dropout, gaussian_noise, neftune, uniform_dropout
from jaxdrop.functional.paths import (
    depth_rates,
    drop_path,
    drop_path_add,
    layer_drop,
    layer_subset,
    shake_drop,
)
from jaxdrop.functional.regions import drop_block, spatial_dropout
from jaxdrop.functional.residuals import bias_dropout_add, dropout_add_layer_norm
from jaxdrop.functional.sequences import (
    embedding_dropout,
    locked_dropout,
    recurrent_dropout,
    word_dropout,
    zoneout,
)
from jaxdrop.functional.tokens import (
    label_dropout,
    modality_dropout,
    random_ltd,
    reinsert_tokens,
    token_dropout,
)
from jaxdrop.functional.weights import drop_connect, drop_connect_gaussian, quant_noise, weight_drop

__all__ = [
    "alpha_dropout",
    "attention_dropout",
    "bias_dropout_add",
    "classic_dropout",
    "concrete_dropout",
    "concrete_kl",
    "depth_rates",
    "dot_product_attention",
    "drop_block",
    "drop_connect",
    "drop_connect_gaussian",
    "drop_edge",
    "drop_head",
    "drop_key",
    "drop_node",
    "drop_path",
    "drop_path_add",
    "dropout",
    "dropout_add_layer_norm",
    "dropout_mlp",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "label_dropout",
    "layer_drop",
    "layer_subset",
    "locked_dropout",
    "modality_dropout",
    "multi_sample_dropout",
    "neftune",
    "quant_noise",
    "r_drop",
    "random_ltd",
    "recurrent_dropout",
    "reinsert_tokens",
    "shake_drop",
    "sparse_kl",
    "sparse_log_alpha",
    "sparse_variational_dense",
    "spatial_dropout",
    "symmetric_normalization",
    "token_dropout",
    "uniform_dropout",
    "variational_dense",
    "variational_dropout",
    "variational_kl",
    "weight_drop",
    "word_dropout",
    "zoneout",
]
