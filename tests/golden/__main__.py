"""Writes the golden masks. See `tests.golden`."""

from tests import conftest, golden

assert conftest  # the settings that every test runs with

golden.main()
