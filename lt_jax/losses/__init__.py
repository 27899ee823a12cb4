"""Losses: pure functions with one value per example, reduced by the caller."""

from lt_jax.losses.bns import bns, bns_expected, bns_official, bns_ring
from lt_jax.losses.classification import Classes, balanced_softmax, cross_entropy, log_prior, logit_adjustment
from lt_jax.losses.contrastive import class_distances, simclr, supcon
from lt_jax.losses.similarity import PRECISION

__all__ = [
    "PRECISION", "Classes", "balanced_softmax", "bns", "bns_expected", "bns_official", "bns_ring", "class_distances",
    "cross_entropy", "log_prior", "logit_adjustment", "simclr", "supcon",
]  # fmt: skip
