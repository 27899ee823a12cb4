"""Losses: pure functions with one value per example, reduced by the caller."""

from lt_jax.losses.bns import bns, bns_expected, bns_official, bns_ring
from lt_jax.losses.classification import (
    Classes,
    balanced_softmax,
    cross_entropy,
    effective_number_weights,
    focal,
    label_aware_smoothing,
    ldam,
    log_prior,
    logit_adjustment,
    sigmoid_bce,
    vs,
)
from lt_jax.losses.contrastive import class_distances, simclr, supcon
from lt_jax.losses.experts import agreement, cumulative, ride
from lt_jax.losses.probabilistic import concentration, proco_logits
from lt_jax.losses.prototypes import bcl, paco
from lt_jax.losses.similarity import PRECISION
from lt_jax.losses.targeted import tsc, uniform_targets
from lt_jax.losses.tripartite import mixed_bce, remembered, uniformity

__all__ = [
    "PRECISION", "Classes", "agreement", "balanced_softmax", "bcl", "bns", "bns_expected", "bns_official", "bns_ring",
    "class_distances", "concentration", "cross_entropy", "cumulative", "effective_number_weights", "focal",
    "label_aware_smoothing", "ldam", "log_prior", "logit_adjustment", "mixed_bce", "paco", "proco_logits", "remembered",
    "ride", "sigmoid_bce", "simclr", "supcon", "tsc", "uniform_targets", "uniformity", "vs",
]  # fmt: skip
