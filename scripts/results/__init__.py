"""From files of figures (docs/results/*.json) to what pages show of them. Nothing here imports JAX:
pages are made wherever Python is.
"""
