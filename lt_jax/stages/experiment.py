"""What the stages of one run share, each built once: data set, networks, feature extractor, trained variables."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from lt_jax import data, losses, methods, metrics, models
from lt_jax.models import projectors
from lt_jax.train import checkpoint, state
from lt_jax.train import extract as extract_lib
from lt_jax.train import fit as fit_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A config and its work directory. A stage is `run(experiment) -> dict`, which goes into stages/NAME.json."""

    config: Any
    workdir: epath.Path

    @property
    def stages(self) -> list[str]:
        """The stages of a whole run: those of the config, but no pretraining where `config.init_from` replaces it."""
        return [stage for stage in self.config.stages if not (stage == "pretrain" and self.config.init_from)]

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The images that config.data describes. Raises BadInput where they cannot be read."""
        return data.load(self.config.data)

    @functools.cached_property
    def classes(self) -> losses.Classes:
        """What losses and heads know about the training set."""
        return losses.Classes.of(self.dataset.counts)

    @functools.cached_property
    def network(self) -> projectors.Network:
        """The encoder under a linear head with the classes of the data set."""
        return models.classifier(self.config.encoder, self.dataset.num_classes, self.config.dtype)

    @functools.cached_property
    def baseline(self) -> projectors.Network:
        """The network of the baseline: the encoder under the head that its settings name."""
        head, experts = self.config.baseline.head, self.config.baseline.experts
        return models.classifier(self.config.encoder, self.dataset.num_classes, self.config.dtype, head, experts)

    @functools.cached_property
    def extract_baseline(self) -> extract_lib.Extractor:
        """Features and logits of `baseline`, compiled once."""
        if self.baseline == self.network:
            return self.extract
        return extract_lib.Extractor(self.baseline, self.config.evaluate.batch_size)

    @functools.cached_property
    def contrastive(self) -> projectors.Network:
        """The encoder under the projector of pretraining."""
        return models.contrastive(self.config.encoder, self.config.pretrain.projector, self.config.dtype)

    @functools.cached_property
    def beside_baseline(self) -> projectors.Network:
        """The encoder under the projector of the baseline's contrastive objective."""
        return models.contrastive(self.config.encoder, self.config.baseline.contrastive_projector, self.config.dtype)

    @functools.cached_property
    def extract(self) -> extract_lib.Extractor:
        """Features and logits of `network`, compiled once."""
        return extract_lib.Extractor(self.network, self.config.evaluate.batch_size)

    @functools.cached_property
    def extract_mirrored(self) -> extract_lib.Extractor:
        """Features and logits of `network` for the mirror images."""
        return extract_lib.Extractor(self.network.clone(mirrored=True), self.config.evaluate.batch_size)

    def validate(self, variables: dict[str, Any], extractor: extract_lib.Extractor | None = None) -> dict[str, float]:
        """Overall and balanced accuracy of `network` on the validation images; {} where there are none.

        Args:
          variables: of the network.
          extractor: of another network.
        """
        split, bins = self.dataset.validation, self.config.evaluate.ece_bins
        if split is None:
            return {}
        _, logits = (extractor or self.extract)(variables, split.images)
        measures = metrics.measures(split.labels, logits, self.dataset.groups, bins)
        return {f"validation_{name}": measures[name] for name in ("overall", "balanced")}

    def stream(self, name: str) -> jax.Array:
        """The random key of a named stream."""
        return state.stream(self.config.seed, name)

    def number(self, name: str) -> int:
        """A seed of the same stream, for libraries that want a number."""
        return state.number(self.config.seed, name)

    def initial(self, network: projectors.Network, stage: str, weights: str = "") -> dict[str, Any]:
        """Fresh variables of a network; those of the encoder come from the file `weights` where one is given."""
        return models.initialise(network, self.stream(f"{stage}/init"), self.dataset.image_shape, weights)

    def with_objective(
        self, variables: dict[str, Any], objective: methods.Objective, stage: str, width: int
    ) -> tuple[dict[str, Any], Any]:
        """(variables with the parameters of a contrastive objective, its memory) before the first step of a stage.

        Args:
          variables: of the network.
          objective: an entry of `lt_jax.methods.CONTRASTIVE`.
          stage: whose random numbers are used.
          width: of the embeddings.
        """
        params, memory = objective.start(self.stream(f"{stage}/objective"), self.dataset.num_classes, width)
        if params:
            variables = {**variables, "params": {**variables["params"], "objective": params}}
        return variables, memory

    def encoder(self) -> dict[str, Any]:
        """The pretrained encoder: {"params": {"encoder"}, "batch_stats": {"encoder"}}.

        Raises:
          BadInput: there is no finished pretraining.
        """
        return encoder_of(self.trained("init_from" if self.config.init_from else "pretrain"))

    def trained(self, stage: str) -> dict[str, Any]:
        """The variables that a finished stage has trained. Raises BadInput where it is not finished."""
        return checkpoint.load(self.workdir, stage)

    def under_new_head(self, encoder: dict[str, Any], name: str) -> dict[str, Any]:
        """Variables of `network`: this encoder under a fresh linear head, drawn from the stream `name`."""
        head = models.initialise_head(self.network, self.stream(name), self.dataset.image_shape)
        return {"params": {**encoder["params"], "head": head}, "batch_stats": encoder["batch_stats"]}

    def fit(self, stage: str, *, variables: dict[str, Any], step: Callable, order: Callable, **options: Any) -> Any:
        """`train.fit` on the training images, with the settings, seed and work directory of this run."""
        return fit_lib.fit(
            self.config[stage],
            self.dataset.train,
            variables=variables,
            step=step,
            order=order,
            directory=self.workdir,
            stage=stage,
            options=self.config,
            seed=self.config.seed,
            **{"classes": lambda epoch: self.classes, **options},
        )


def encoder_of(variables: dict[str, Any]) -> dict[str, Any]:
    """The part of a network's variables that is the encoder's."""
    return {"params": {"encoder": variables["params"]["encoder"]}, "batch_stats": variables["batch_stats"]}
