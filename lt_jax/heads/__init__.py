"""Classifiers on frozen features: `fit(key, features, labels, classes, *, initial=None, **options) -> head`.

A head is a pytree, and `head(features) -> logits`.
"""

from lt_jax.heads.cosine import Cosine, Whitened, nearest_class_mean, whitened_class_mean
from lt_jax.heads.linear import Linear, UnitLinear, balanced_linear, crt, linear, lws, unit_bce
from lt_jax.heads.norms import maxnorm, samn
from lt_jax.heads.posthoc import logit_adjustment, tau_norm
from lt_jax.heads.rooted import Rooted, rooted_linear
from lt_jax.heads.trained_cosine import Adapted, adapter, bns_adapter, cosine_mean
from lt_jax.heads.training import Settings

# Classes of heads, by the name that a saved head has.
KINDS = {kind.__name__: kind for kind in (Linear, UnitLinear, Rooted, Cosine, Whitened, Adapted)}

__all__ = [
    "KINDS", "Adapted", "Cosine", "Linear", "Rooted", "Settings", "UnitLinear", "Whitened", "adapter",
    "balanced_linear", "bns_adapter", "cosine_mean", "crt", "linear", "logit_adjustment", "lws", "maxnorm",
    "nearest_class_mean", "rooted_linear", "samn", "tau_norm", "unit_bce",
    "whitened_class_mean",
]  # fmt: skip
