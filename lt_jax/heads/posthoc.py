"""Changes of a trained linear head that need no training. The features are scaled as for that head."""

import dataclasses

import jax
import numpy as np

from lt_jax import losses
from lt_jax.heads.linear import Linear, UnitLinear


def logit_adjustment(
    key: jax.Array | None,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | UnitLinear,
    tau: float = 1.0,
) -> Linear | UnitLinear:
    """Logit adjustment.

    Logits - tau * log prior of a network trained with plain cross-entropy.

    Source: Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), Eq. 9.

    Args:
      key: unused.
      features: unused.
      labels: unused.
      classes: their `log_prior` is subtracted.
      initial: the head of the network.
      tau: strength of the adjustment.
    """
    del key, features, labels
    return dataclasses.replace(initial, bias=initial.bias - tau * np.asarray(classes.log_prior))


def tau_norm(
    key: jax.Array | None,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | UnitLinear,
    tau: float = 1.0,
) -> Linear | UnitLinear:
    """tau-norm.

    The weight vector of each class divided by its norm to the power tau, without a bias.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020), Eq. 7.

    Args:
      key: unused.
      features: unused.
      labels: unused.
      classes: unused.
      initial: the head of the network.
      tau: 0 changes nothing but the bias, 1 makes all norms equal.
    """
    del key, features, labels, classes
    norms = np.maximum(np.linalg.norm(initial.kernel, axis=0), 1e-12)
    kernel = initial.kernel / norms[None, :] ** tau
    return dataclasses.replace(initial, kernel=kernel, bias=np.zeros_like(initial.bias))
