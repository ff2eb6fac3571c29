"""The rules: JD1 is it on, JD2 keys, JD3 what a mask does at its place, JD4 both functions."""

from __future__ import annotations

from jaxdrop.audit._findings import Rule, Severity

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR

_RULES = [
    Rule(
        "JD101", "configured-never-drawn", ERROR,
        "A rate is configured, and no mask is drawn with it",
        "The model trains without the regularization that its configuration promises, and no loss "
        "curve says so. A search over the rate then finds that the rate does not matter.",
        "Apply the layer, or hand the rate on to the function that should use it. Remove the "
        "setting if it has no use.",
    ),
    Rule(
        "JD102", "drawn-in-evaluation", ERROR,
        "A mask is drawn in an evaluation function",
        "Predictions are noisy, and worse than those of the trained model. Metrics of one model "
        "differ from run to run.",
        "Linen: deterministic=True. NNX: model.eval(), or nnx.view(model, deterministic=True). "
        "Equinox: eqx.nn.inference_mode(model). Haiku: do not call hk.dropout. For Monte Carlo "
        "dropout, which draws on purpose, leave training=False out.",
    ),
    Rule(
        "JD103", "nothing-drawn-in-training", ERROR,
        "No mask is drawn in a training function",
        "Dropout is switched off, or its rates are 0: the model overfits as it does without it.",
        "Linen: deterministic=False and rngs={'dropout': key}. NNX: model.train(). Equinox: "
        "eqx.nn.inference_mode(model, value=False).",
    ),
    Rule(
        "JD104", "raises-when-on", ERROR,
        "An NNX layer has no rngs, and is called without any",
        "The layer raises a ValueError as soon as it is switched on. It passes today only because "
        "it is off, or because its rate is 0 in the tests.",
        "nnx.Dropout(rate, rngs=rngs) in the constructor, or rngs= in the call.",
    ),
    Rule(
        "JD105", "frozen-on", WARNING,
        "A layer is on by its own field, and the call does not say otherwise",
        "deterministic=False stands in the constructor, or is the default. Evaluation is right "
        "only if somebody remembers to call .eval(); in Linen nothing can switch it off.",
        "Hand deterministic on through the calls, or build the layer with deterministic=True and "
        "call model.train() in the training step.",
    ),
    Rule(
        "JD106", "rate-zero-costs", INFO,
        "Random bits are drawn at rate 0",
        "Nothing is dropped, and the bits are drawn and compared all the same: the rate is an "
        "array, whose value the compiler does not know, or the function does not look for 0.",
        "Give the Python number 0, for which nothing is traced, or leave the layer out.",
    ),
    Rule(
        "JD201", "one-key-at-two-sites", ERROR,
        "Two sites draw from one key",
        "Masks of one shape are equal, and others are correlated: a unit that is dropped here is "
        "dropped there too. The noise does not average out over the sites.",
        "jax.random.split the key, or fold a number of the site into it.",
    ),
    Rule(
        "JD202", "same-key-in-every-step", WARNING,
        "The key does not change from step to step",
        "One mask serves the whole training: a fixed smaller network is trained, and the "
        "dropped units never learn.",
        "key = jax.random.fold_in(key, step) in the step, or jaxdrop.step_key(seed, step). With "
        "NNX, return the state of the streams and use it in the next step.",
    ),
    Rule(
        "JD203", "same-key-in-every-iteration", WARNING,
        "All iterations of a loop draw the same mask",
        "Micro-batches, or the layers of a scan, share one mask. The gradient's noise does not "
        "fall with their number. (A mask shared over the time steps of a recurrent network is "
        "variational dropout, and is not reported.)",
        "Scan over jax.random.split(key, n), or fold the loop's index into the key. Linen: "
        "split_rngs={'dropout': True} in nn.scan.",
    ),
    Rule(
        "JD204", "same-key-in-every-replica", WARNING,
        "All devices of a mesh axis draw the same mask for their parts of the array",
        "Inside shard_map an array is a part of the whole. With a replicated key every part gets "
        "one mask, so examples on different devices are dropped alike.",
        "key = jax.random.fold_in(key, jax.lax.axis_index(name)); with jaxdrop spec=PartitionSpec"
        "(...), whose masks are those of the whole array on one device.",
    ),
    Rule(
        "JD205", "constant-seed", ERROR,
        "The key is a constant of the program",
        "The compiled function draws the same mask in every call.",
        "Make the key an argument of the function. A key that a closure holds is a constant too.",
    ),
    Rule(
        "JD206", "rbg-under-vmap", WARNING,
        "An rbg key is drawn from under vmap",
        "rbg and unsafe_rbg draw the whole batch from the first key: a sample's mask depends on "
        "the other samples, and two batches that begin with one key are equal.",
        "Use threefry2x32 keys or jaxdrop.key(seed), or jax.lax.map in place of vmap.",
    ),
    Rule(
        "JD207", "one-key-for-weights-and-masks", WARNING,
        "One key serves parameters, or other random numbers, and masks",
        "Masks are a function of the same bits as the initial weights. Linen folds the path into "
        "the key, which hides it, until two collections meet in one path.",
        "Split the key: one for each collection.",
    ),
    Rule(
        "JD301", "mask-shared-over-batch-or-heads", WARNING,
        "One mask serves all examples, or all heads",
        "The gradient's noise does not fall with the batch size. In Flax's attention it is the "
        "default.",
        "broadcast_dropout=False in attention; leave the axis out of broadcast_dims; split the key "
        "for each example under vmap.",
    ),
    Rule(
        "JD302", "mask-shared-over-positions", INFO,
        "One mask serves all positions of a sequence",
        "T5's code does so on purpose, to save random bits: whole channels of a sequence are "
        "dropped. It regularizes more than dropout of single entries at the same rate.",
        "Nothing, if it is meant. Otherwise leave the axis out of broadcast_dims.",
    ),
    Rule(
        "JD303", "before-batch-norm", WARNING,
        "Dropout stands in front of BatchNorm",
        "Dropout raises the variance that BatchNorm sees in training, and the running variance "
        "with it; in evaluation the inputs have less. (Li et al., 'Understanding the disharmony "
        "between dropout and batch normalization by variance shift', CVPR 2019, arXiv:1801.05134.)",
        "Move dropout behind the last BatchNorm, or recompute the statistics with dropout off.",
    ),
    Rule(
        "JD304", "high-rate", WARNING,
        "The rate is above .5, or above .2 on inputs",
        "A rate is the probability of dropping. Code that came from TensorFlow 1 or from stax "
        "gives a keep probability, .9 for .1.",
        "Give 1 - keep. For inputs, Srivastava et al. (2014) use .2.",
    ),
    Rule(
        "JD305", "behind-the-last-layer", WARNING,
        "The outputs of the last layer are dropped",
        "Logits or predictions are set to 0 at random. No layer behind can make up for it: the "
        "loss gets a floor, and the gradient noise.",
        "Move dropout in front of the last layer.",
    ),
    Rule(
        "JD306", "on-the-residual-stream", WARNING,
        "The residual stream itself is dropped, not a branch",
        "x = dropout(x + f(x)) removes what all earlier layers have written. After L layers an "
        "entry has survived with probability (1 - rate)^L.",
        "x = x + dropout(f(x)).",
    ),
    Rule(
        "JD307", "biased-scale", WARNING,
        "The scale of kept values is rounded to half precision",
        "1 / (1 - rate) has no exact bfloat16 or float16. Activations in training are too large or "
        "too small in the mean, by the same factor everywhere.",
        "Scale in float32 and convert back, as jaxdrop does, or take a rate like .125 or .25.",
    ),
    Rule(
        "JD308", "mask-kept", INFO,
        "A loop or a checkpoint keeps masks for the backward pass",
        "The masks of all iterations are stored, where their keys would do.",
        "Draw the mask inside jax.checkpoint, or use jaxdrop, which draws it again from the key.",
    ),
    Rule(
        "JD401", "evaluation-depends-on-key", ERROR,
        "The evaluation function gives other results for other keys",
        "Predictions are noisy.", "As JD102.",
    ),
    Rule(
        "JD402", "training-ignores-key", ERROR,
        "The training function gives the same result for all keys",
        "Nothing is dropped, or the key is not used.", "As JD103.",
    ),
    Rule(
        "JD403", "expectations-differ", ERROR,
        "The mean over masks is not what evaluation gives",
        "A scale was forgotten or applied twice, or evaluation scales where training does. "
        "Behind a nonlinearity the two differ in any case.",
        "Scale kept values by 1 / (1 - rate), once, in training only. Compare in front of the "
        "nonlinearity, or give a tolerance.",
    ),
]  # fmt: skip

RULES = {rule.id: rule for rule in _RULES}
"""The rules of `check`, by id."""
