"""The plain dropout: what a call costs, what it keeps, what it takes to compile, and how exact it
is.
"""

from benchmarks.core.compilation import compilation
from benchmarks.core.exactness import bias, masks
from benchmarks.core.memory import residuals, temporaries
from benchmarks.core.speed import backward, chain, eager, forward

MEASUREMENTS = (forward, backward, chain, eager, temporaries, residuals, compilation, bias, masks)
