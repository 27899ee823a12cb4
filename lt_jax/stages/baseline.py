"""A classifier trained on all images by a plain loss: what long-tailed methods are compared with.

`loss` is cross-entropy, or the balanced softmax, cross-entropy of logits + log prior (Ren et al., NeurIPS 2020, Eq. 3),
which is also the loss of logit adjustment with tau = 1 (Menon et al., ICLR 2021, Eq. 10). `sampling` draws images, or
with `class_aware` classes, equally often.
"""

from typing import Any

from lt_jax import losses
from lt_jax.sampling import orders
from lt_jax.stages import experiment as experiments
from lt_jax.train import steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains the encoder and a linear head from fresh variables."""
    config, dataset, network = experiment.config, experiment.dataset, experiment.network
    settings, labels = config.baseline, dataset.train.labels
    log_prior = losses.log_prior(dataset.counts) if settings.loss == "balanced_softmax" else None

    def order(batch_size, seed):
        if settings.sampling == "class_aware":
            return orders.ClassAware(labels, batch_size, seed)
        return orders.Order(len(labels), batch_size, seed)

    _, progress = experiment.fit(
        "baseline",
        variables=experiment.initial(network, "baseline", config.encoder.weights),
        step=lambda optimizer: steps.classify(
            network, optimizer, settings.augment, accumulate=settings.accumulate, log_prior=log_prior
        ),
        order=order,
    )
    return {"seconds": progress["seconds"]}
