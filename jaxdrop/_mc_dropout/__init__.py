"""Models with their dropout on and all else as in evaluation.

What `jaxdrop.linen.stochastic` and `jaxdrop.nnx.stochastic` share: which layers are on
(`planning`), what they get in place of their own (`overrides`), how a call is made to follow
(`calls`), what of a model depends on a key (`dependence`), and one mask for a batch (`examples`).
"""
