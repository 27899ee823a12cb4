"""IP-DPP: choose k items of a class that are hard and varied in difficulty; exact for any size. See docs/ipdpp.md.

This package needs only jax and numpy, nothing else of lt_jax (IPDPPUnderSampler, in lt_jax.ipdpp.imblearn, also needs
imbalanced-learn).
"""

from lt_jax.ipdpp.measures import (
    Information,
    expected_information,
    inclusion_probabilities,
    kernel,
    log_probability,
)
from lt_jax.ipdpp.select import METHODS, sample, select_balanced

__all__ = [
    "METHODS",
    "Information",
    "expected_information",
    "inclusion_probabilities",
    "kernel",
    "log_probability",
    "sample",
    "select_balanced",
]
