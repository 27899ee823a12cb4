"""Classifiers on frozen features: `fit(key, features, labels, classes, *, initial=None, **options) -> head`.

A head is a pytree, and `head(features) -> logits`.
"""

from lt_jax.heads.cosine import Cosine, Whitened, nearest_class_mean, whitened_class_mean
from lt_jax.heads.linear import Linear, Settings, UnitLinear, balanced_linear, crt, linear, lws
from lt_jax.heads.posthoc import logit_adjustment, tau_norm

# Classes of heads, by the name that a saved head has.
KINDS = {kind.__name__: kind for kind in (Linear, UnitLinear, Cosine, Whitened)}

__all__ = [
    "KINDS", "Cosine", "Linear", "Settings", "UnitLinear", "Whitened", "balanced_linear", "crt", "linear",
    "logit_adjustment", "lws", "nearest_class_mean", "tau_norm", "whitened_class_mean",
]  # fmt: skip
