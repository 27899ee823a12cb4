"""IP-DPP: choose k hard, varied-in-difficulty items of a class; exact, at any size. See docs/ipdpp.md.

Usable with nothing else of this project: it needs jax and numpy alone (IPDPPUnderSampler, in
lt_jax.ipdpp.imblearn, needs imbalanced-learn).
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
