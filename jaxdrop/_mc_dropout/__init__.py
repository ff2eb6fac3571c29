"""MC dropout: models with their dropout on and everything else as in evaluation.

`jaxdrop.linen.stochastic` and `jaxdrop.nnx.stochastic` share this package: which layers are on
(`planning`), which rates and layouts the layers get (`overrides`), how arguments of a call are
replaced (`calls`), whether an output depends on a key (`dependence`), one mask for a batch
(`examples`), and all messages (`messages`).
"""
