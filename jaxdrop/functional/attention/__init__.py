"""Dropout inside attention."""

from jaxdrop.functional.attention._compute import Implementation
from jaxdrop.functional.attention._flax import flax_dot_product_attention
from jaxdrop.functional.attention._function import dot_product_attention
from jaxdrop.functional.attention._weights import Products

__all__ = [
    "Implementation",
    "Products",
    "dot_product_attention",
    "flax_dot_product_attention",
]
