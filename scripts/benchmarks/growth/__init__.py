"""How time and memory grow: with entries, samples, the length of attention, and dropout sites."""

from benchmarks.growth.entries import entries
from benchmarks.growth.lengths import lengths
from benchmarks.growth.samples import samples
from benchmarks.growth.sites import sites

MEASUREMENTS = (entries, lengths, samples, sites)
