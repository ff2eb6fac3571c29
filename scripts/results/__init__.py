"""From files of figures (docs/results/*.json) to what pages show of them. Only `experiment` imports
JAX, by its example.
"""
