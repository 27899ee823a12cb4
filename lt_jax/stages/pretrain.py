"""Stage 1: contrastive pretraining, by default with Balanced Negative Sampling."""

from typing import Any

from lt_jax import methods
from lt_jax.sampling import partners
from lt_jax.stages import experiment as experiments
from lt_jax.train import fit, steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains encoder and projector; the checkpoint is what every later stage starts from."""
    config, labels = experiment.config, experiment.dataset.train.labels
    settings, network = config.pretrain, experiment.contrastive
    objective = methods.entry("CONTRASTIVE", settings.loss, "config.pretrain.loss", settings)
    variables = experiment.initial(network, "pretrain", config.encoder.weights)
    variables, memory = experiment.with_objective(variables, objective, "pretrain", settings.projector[-1])
    _, progress = experiment.fit(
        "pretrain",
        variables=variables,
        memory=memory,
        step=lambda optimizer: steps.pretrain(network, optimizer, objective, settings.augment),
        order=lambda batch_size, seed: partners.PartnerOrder(labels, batch_size, objective.partners, seed),
        drop_last=True,
        own_key=True,
    )
    sizes = fit.schedule(settings, len(labels), drop_last=True)
    return {"seconds": progress["seconds"], "images": sizes.steps * sizes.batch_size}


def first(experiment: experiments.Experiment) -> dict[str, Any]:
    """The encoder of this run before its first step, whatever its head."""
    variables = experiment.initial(experiment.network, "pretrain", experiment.config.encoder.weights)
    return experiments.encoder_of(variables)
