"""Wrong calls of the whole public surface, and what becomes of them. See
`scripts/check_errors.py`.
"""
