"""Mean and variance of a function with dropout in one pass, without samples.

The traced program runs on values of which mean and variance are known, in place of arrays:

- `_values`: what is known of a value: hidden words of a key, coins, moments.
- `_draws`: from a key to the masks that are made of it, whatever library draws them.
- `_elementwise`, `_linear`, `_gaussian`: a rule for each kind of operation.
- `_programs`, `_interpreter`: calls, branches and loops, and all equations in turn.
- `_context`: equal draws, sources of variance, and what was linearized.
- `_precisions`: one pass; with the covariance that masks make; with dropped inputs enumerated.
"""

from jaxdrop.mc._analytic._function import Analytic, Precision, analytic, linear_part

__all__ = ["Analytic", "Precision", "analytic", "linear_part"]
