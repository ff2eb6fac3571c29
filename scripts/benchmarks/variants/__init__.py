"""Every variant against what is usually written in its place, and against Keras and PyTorch where
they have it.
"""

from benchmarks.variants.elements import elements
from benchmarks.variants.graphs import graphs
from benchmarks.variants.learned import learned
from benchmarks.variants.libraries import libraries
from benchmarks.variants.losses import losses
from benchmarks.variants.noise import noise
from benchmarks.variants.paths import paths
from benchmarks.variants.regions import regions
from benchmarks.variants.sequences import sequences
from benchmarks.variants.tokens import tokens
from benchmarks.variants.weights import weights

MEASUREMENTS = (
    elements,
    noise,
    regions,
    paths,
    weights,
    sequences,
    tokens,
    learned,
    graphs,
    losses,
    libraries,
)
