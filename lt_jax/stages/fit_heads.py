"""What the baseline's network gives without being trained again; the test set chooses nothing.

`logit_adjustment`: logits - log prior (Menon et al., ICLR 2021, Eq. 9 with tau = 1).
`crt`: a new linear layer on the frozen encoder, trained with classes drawn equally often (Kang et al., ICLR 2020); here
on clean features, by the optimizer of the linear probe.
`nearest_class_mean`: cosine to the mean of each class's features.
"""

from typing import Any

import numpy as np

from lt_jax import losses
from lt_jax.dlsa import classifiers
from lt_jax.heads import linear
from lt_jax.stages import experiment as experiments


def logits(
    experiment: experiments.Experiment, variables: dict[str, Any], test_features: np.ndarray, test_logits: np.ndarray
) -> dict[str, np.ndarray]:
    """Logits of the test images by method, (n, C) each. One more pass over the training images.

    Args:
      variables: of the baseline's network.
      test_features: (n, d) and test_logits: (n, C), of that network.
    """
    config, dataset = experiment.config, experiment.dataset
    labels, num_classes = dataset.train.labels, dataset.num_classes
    features, _ = experiment.extract(variables, dataset.train.images)
    key = experiment.stream("yardsticks/crt")
    head = linear.fit(key, features, labels, num_classes, config.probe, config.probe.epochs, class_aware=True)
    by_method = {
        "crt": test_features @ np.asarray(head["kernel"]) + np.asarray(head["bias"]),
        "nearest_class_mean": classifiers.nearest_class_mean(features, labels, test_features, num_classes),
    }
    if (config.baseline.loss, config.baseline.sampling) != ("cross_entropy", "instance"):
        return by_method  # its logits know of the prior already
    return {"logit_adjustment": test_logits - losses.log_prior(dataset.counts)[None, :], **by_method}
