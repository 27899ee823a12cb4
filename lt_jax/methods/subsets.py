"""A head that is trained on a class-balanced subset of the features."""

from typing import Any

import jax
import numpy as np

from lt_jax import heads, losses


def subset_linear(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Any,
    selector: str = "herding",
    k: int = 20,
    learning_rate: float = 0.03,
    weight_decay: float = 0.3,
    steps: int = 1000,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Any:
    """Linear head on a subset.

    The balanced linear head on at most k items of each class, taken once; as many steps as on all items.

    Args:
      key: rng key of the selector and the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set.
      initial: a head trained on all items, whose probabilities of the true classes the selector sees.
      selector: an entry of `lt_jax.methods.SELECTORS`.
      k: items of a class that has more.
      learning_rate: peak rate of AdamW; it decays to 0 by a cosine.
      weight_decay: of the kernel.
      steps: of training.
      batch_size: items a step.
      scaling: of the features: "raw", "standard" or "unit".

    Raises:
      BadInput: an unknown selector.
    """
    from lt_jax import methods  # it imports this module

    k_select, k_fit = jax.random.split(key)
    log_p = np.asarray(jax.nn.log_softmax(np.asarray(initial(features), np.float32)))[np.arange(len(labels)), labels]
    select = methods.entry("SELECTORS", selector, "selector")
    positions = np.asarray(select(k_select, np.minimum(log_p, 0.0), features, labels, k))
    chosen = losses.Classes.of(np.bincount(labels[positions], minlength=len(classes.counts)))
    return heads.balanced_linear(
        k_fit, features[positions], labels[positions], chosen, learning_rate=learning_rate, weight_decay=weight_decay,
        steps=steps, batch_size=batch_size, scaling=scaling,
    )  # fmt: skip
