"""Classifiers on frozen features: `fit(key, features, labels, classes, *, initial=None, **options) -> head`.

A head is a pytree, and `head(features) -> logits`.
"""

from lt_jax.heads.cosine import Cosine, nearest_class_mean
from lt_jax.heads.linear import Linear, Settings, crt, linear
from lt_jax.heads.posthoc import logit_adjustment

KINDS = {"Linear": Linear, "Cosine": Cosine}  # classes of heads, by the name that a saved head has

__all__ = ["KINDS", "Cosine", "Linear", "Settings", "crt", "linear", "logit_adjustment", "nearest_class_mean"]
