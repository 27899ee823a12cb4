"""Stage 2: draw a balanced, informative subset with IP-DPP, train the classifier on it, draw again every R epochs.

p(i) is what the current classifier gives to the true label of training image i, on clean images in evaluation mode.
The first p comes from a head trained for a few passes on frozen features; that head is then discarded.
"""

import concurrent.futures
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from lt_jax import data, ipdpp, optim
from lt_jax import models as encoder
from lt_jax.core import distributed, errors, files, log
from lt_jax.data import batches
from lt_jax.heads import linear
from lt_jax.sampling import orders
from lt_jax.stages import pretrain, probe
from lt_jax.train import checkpoint, sharding, state
from lt_jax.train import extract as features
from lt_jax.train import loop as train
from lt_jax.train import steps as step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Writes `subsets/ROUND.npz` and the checkpoints of the final classifier."""
    dataset = data.load(config.data)
    for name, count in zip(dataset.class_names, dataset.counts, strict=True):
        if 0 < count < config.retrain.k:
            log.say(f"class {name!r} holds {count} images, k is {config.retrain.k}: kept whole")
    rounds = Rounds(config, workdir, dataset)
    tx, current, per_epoch = _parts(config, dataset, rounds.size)
    options = config.retrain
    size = optim.batch_size(options, rounds.size)
    order = orders.Order(rounds.size, size, state.number(config.seed, "retrain/order"))
    crops, smallest = state.number(config.seed, "retrain/crops"), options.augment.crop_scale
    feed = batches.feed(dataset.train, None, size, crops, smallest, **sharding.host())
    job = train.Job(
        stage="retrain",
        seed=config.seed,
        step=step.classify(rounds.network, tx, options.augment, options.trainable == "all", options.accumulate),
        feed=feed,
        steps=optim.total_steps(options, per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=size,
        learning_rate=optim.schedule(options, per_epoch, rounds.size),
        at_epoch=lambda *now: rounds.at_epoch(*now, lambda indices: feed.use(orders.Subset(indices, order))),
    )
    current = _with_encoder(current, pretrain.load(config, workdir, dataset))
    _, progress = train.train(job, current, workdir, config)
    return {"seconds": progress["seconds"], "select_seconds": progress.get("select_seconds", 0.0)}


def load(config: Any, workdir: epath.Path, dataset: data.Dataset) -> dict[str, Any]:
    """Variables of the final classifier."""
    size = int(np.minimum(dataset.counts, config.retrain.k).sum())
    like = sharding.abstract(lambda: _parts(config, dataset, size)[1], config.host.shard_params)
    return checkpoint.load(workdir, "retrain", like).variables()


# Relative and absolute difference of log p between two device counts, in bfloat16; another network differs by more.
_SAME_LOG_P = (0.05, 0.05)


class Rounds:
    """The subset in use, redrawn at the right epochs. Each round has its own file, which is never written twice."""

    def __init__(self, config: Any, workdir: epath.Path, dataset: data.Dataset):
        self._config, self._workdir, self._dataset = config, workdir, dataset
        self.network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
        self._extract = features.Extractor(self.network, config.evaluate.batch_size)
        self.size = int(np.minimum(dataset.counts, config.retrain.k).sum())
        self._number = -1  # of the subset in use

    def at_epoch(self, current: state.TrainState, epoch: int, progress: dict[str, Any], use: Any) -> dict[str, Any]:
        """Draws, or reads, the subset of this epoch; `use` takes a new one.

        `progress` holds its number and the seconds of all draws so far.
        """
        number = epoch // self._config.retrain.redraw_every
        seconds = progress.get("select_seconds", 0.0)
        if progress.get("round") != number:
            log_p = self._first_log_p() if number == 0 else self._log_p(current.variables())
            if distributed.is_main():
                seconds += self._draw(number, log_p)
            distributed.wait(f"subset {number}")
        if number != self._number:
            if not self._is_ours(number):
                raise errors.RunFailed(
                    f"{self._file(number)} is missing or was drawn with other settings than this run has; "
                    "delete checkpoints/retrain and subsets, and run again"
                )
            use(files.read_npz(self._file(number))["indices"])
            self._number = number
        return {**progress, "round": number, "select_seconds": seconds}

    def _file(self, number):
        return self._workdir / "subsets" / f"{number}.npz"

    def _draw(self, number, log_p):
        if self._is_ours(number, log_p):
            return 0.0  # killed after the draw and before the next save
        options, labels = self._config.retrain, self._dataset.train.labels
        key = self._key(number)
        began = time.monotonic()
        indices = self._select(key, log_p)
        seconds = time.monotonic() - began
        files.write_npz(
            self._file(number),
            indices=np.asarray(indices),
            labels=labels[np.asarray(indices)],
            log_p=log_p,
            k=options.k,
            method=options.method,
            scale_power=options.scale_power,
            key=np.asarray(jax.random.key_data(key)),
        )
        information = -log_p / math.log(2)
        log.say(
            f"round {number}: {len(indices)} of {len(labels)} images, mean information "
            f"{information[indices].mean():.2f} bits against {information.mean():.2f} over all"
        )
        return seconds

    def _key(self, number):
        return jax.random.fold_in(state.stream(self._config.seed, "retrain/select"), number)

    def _is_ours(self, number, log_p=None):
        """Whether the file of this round was drawn with the settings and the key of this run, from these images."""
        if not self._file(number).exists():
            return False
        options, labels = self._config.retrain, self._dataset.train.labels
        drawn = files.read_npz(self._file(number))
        settings = {"k": options.k, "method": options.method, "scale_power": options.scale_power}
        return (
            all(drawn[name].item() == value for name, value in settings.items())
            and np.array_equal(drawn["key"], jax.random.key_data(self._key(number)))
            and len(drawn["log_p"]) == len(labels)
            and np.array_equal(drawn["labels"], labels[drawn["indices"]])
            and (log_p is None or np.allclose(drawn["log_p"], log_p, *_SAME_LOG_P))
        )

    def _select(self, key, log_p):
        options, labels = self._config.retrain, self._dataset.train.labels
        how = {"log_probabilities": log_p, "scale_power": options.scale_power}
        return ipdpp.select_balanced(key, None, labels, options.k, options.method, **how)

    def _log_p(self, variables):
        _, logits = self._extract(variables, self._dataset.train.images)
        return features.true_log_probabilities(logits, self._dataset.train.labels)

    def _first_log_p(self):
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            if self._config.retrain.method == "rank_one" and distributed.is_main():
                # A draw that nobody keeps: it compiles what all draws need while the head is trained.
                beside.submit(self._select, jax.random.key(0), np.zeros(len(self._dataset.train.labels), np.float32))
            return self._log_p_of_a_new_head()

    def _log_p_of_a_new_head(self):
        config, dataset = self._config, self._dataset
        pretrained = pretrain.load(config, self._workdir, dataset)
        variables = probe.with_new_head(config, dataset, pretrained, "retrain/first")
        found, _ = self._extract(variables, dataset.train.images)
        head = linear.fit(
            state.stream(config.seed, "retrain/first"),
            found,
            dataset.train.labels,
            dataset.num_classes,
            config.retrain,
            config.retrain.head_epochs,
        )
        logits = found @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        return features.true_log_probabilities(logits, dataset.train.labels)


def _parts(config, dataset, subset_size):
    if subset_size == 0:
        raise errors.BadInput("config.retrain.k: the subset would be empty")
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    per_epoch = math.ceil(subset_size / optim.batch_size(config.retrain, subset_size))
    tx = optim.adamw(config.retrain, per_epoch, subset_size)
    shape = dataset.image_shape
    variables = encoder.initialise(network, state.stream(config.seed, "retrain/init"), shape)
    return tx, state.create(variables, tx, config.retrain.trainable), per_epoch


def _with_encoder(current, pretrained):
    """The fresh state with the pretrained encoder in place of its own."""
    own = pretrained["params"]
    place = "params" if "encoder" in current.params else "frozen"
    tree = {**getattr(current, place), **own}
    return dataclasses.replace(current, batch_stats=pretrained["batch_stats"], **{place: tree})
