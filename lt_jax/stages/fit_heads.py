"""What a plainly trained network gives without being trained again: the honest yardsticks of long-tailed recognition.

All three take the `baseline` network as it is, and the test set chooses nothing.

`logit_adjustment`: logits - log prior (Menon et al., ICLR 2021, Eq. 9 with tau = 1).
`crt`: a new linear layer on the frozen encoder, trained with classes drawn equally often (Kang et al., ICLR 2020); here
on clean features, by the optimiser of the linear probe.
`nearest_class_mean`: cosine to the mean of each class's features.
"""

from typing import Any

import numpy as np

from lt_jax import data, losses
from lt_jax.dlsa import classifiers
from lt_jax.heads import linear
from lt_jax.train import extract as features
from lt_jax.train import state


def logits(
    config: Any, dataset: data.Dataset, extract: features.Extractor, variables: dict[str, Any], test: np.ndarray,
    test_logits: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Name -> (n, C) of the test images, from the network's own features `test` (n, d) and logits (n, C) of them.

    One more pass over the training images.
    """
    labels, classes = dataset.train.labels, dataset.num_classes
    found, _ = extract(variables, dataset.train.images)
    key, epochs = state.stream(config.seed, "yardsticks/crt"), config.probe.epochs
    head = linear.fit(key, found, labels, classes, config.probe, epochs, class_aware=True)
    others = {
        "crt": test @ np.asarray(head["kernel"]) + np.asarray(head["bias"]),
        "nearest_class_mean": classifiers.nearest_class_mean(found, labels, test, classes),
    }
    if (config.baseline.loss, config.baseline.sampling) != ("cross_entropy", "instance"):
        return others  # its logits know of the prior already
    return {"logit_adjustment": test_logits - losses.log_prior(dataset.counts)[None, :], **others}
