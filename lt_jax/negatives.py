"""The old import path of `lt_jax.losses.negatives`."""

from lt_jax.losses.negatives import expected, sample

__all__ = ["expected", "sample"]
