"""Stage 1: contrastive pretraining with Balanced Negative Sampling."""

from typing import Any

from etils import epath

from lt_jax import data, optim
from lt_jax import models as encoder
from lt_jax.data import batches
from lt_jax.sampling import partners
from lt_jax.train import checkpoint, sharding, state
from lt_jax.train import loop as train
from lt_jax.train import steps as step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Trains encoder and projector; the checkpoint is what every later stage starts from."""
    dataset = data.load(config.data)
    options = config.pretrain
    network, tx, current, per_epoch = _parts(config, dataset)
    m = options.m if options.loss == "paper" else 0
    seed = state.number(config.seed, "pretrain/order")
    size = optim.batch_size(options, len(dataset.train.labels))
    order = partners.PartnerOrder(dataset.train.labels, size, m, seed)
    crops, smallest = state.number(config.seed, "pretrain/crops"), options.augment.crop_scale
    feed = batches.feed(dataset.train, order, size, crops, smallest, own_key=True, **sharding.host())
    job = train.Job(
        stage="pretrain",
        seed=config.seed,
        step=step.pretrain(network, tx, options),
        feed=feed,
        steps=optim.total_steps(options, per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=size,
        learning_rate=optim.schedule(options, per_epoch, len(dataset.train.labels)),
    )
    _, progress = train.train(job, current, workdir, config)
    return {"seconds": progress["seconds"], "images": job.steps * job.batch_size}


def load(config: Any, workdir: epath.Path, dataset: data.Dataset) -> dict[str, Any]:
    """The pretrained encoder: {"params": {"encoder"}, "batch_stats": {"encoder"}}.

    Raises:
      BadInput: there is no checkpoint.
    """
    like = sharding.abstract(lambda: _parts(config, dataset)[2], config.host.shard_params)
    final = checkpoint.load(workdir, "init_from" if config.init_from else "pretrain", like)
    return {"params": {"encoder": final.params["encoder"]}, "batch_stats": final.batch_stats}


def random(config: Any, dataset: data.Dataset) -> dict[str, Any]:
    """The same encoder before its first step."""
    fresh = _parts(config, dataset)[2]
    return {"params": {"encoder": fresh.params["encoder"]}, "batch_stats": fresh.batch_stats}


def _parts(config, dataset):
    network = encoder.contrastive(config.encoder, config.pretrain.projector, config.dtype)
    items = len(dataset.train.labels)
    per_epoch = max(1, items // optim.batch_size(config.pretrain, items))
    tx = optim.adamw(config.pretrain, per_epoch, items)
    shape = dataset.image_shape
    variables = encoder.initialise(network, state.stream(config.seed, "pretrain/init"), shape, config.encoder.weights)
    return network, tx, state.create(variables, tx), per_epoch
