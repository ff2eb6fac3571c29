"""What dropout does in a given model, and what is wrong with it."""

from jaxdrop.audit._report import Report, check

__all__ = ["Report", "check"]
