"""What the layers of both frameworks share: hyperparameters, and what one call does with them."""

__all__: list[str] = []
