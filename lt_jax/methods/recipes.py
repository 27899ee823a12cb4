"""Recipes: what a method trains, in which order, as changes of a config."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method that is trained from start to end.

    Attributes:
      title: display name.
      paper: where it comes from.
      stages: what `--stage=all` runs.
      overrides: dotted key of the config -> value.
    """

    title: str
    paper: str
    stages: tuple[str, ...] = ("baseline", "heads", "evaluate", "report")
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


def _on_baseline(title: str, paper: str, **baseline: Any) -> Recipe:
    """A method of the baseline's network: its loss, or a head on its features."""
    settings = {"loss": "cross_entropy", "sampling": "instance", **baseline}
    return Recipe(title, paper, overrides={f"baseline.{key}": value for key, value in settings.items()})


_PIPELINE = ("pretrain", "probe", "baseline", "heads", "retrain", "evaluate", "report")

RECIPES = {
    "cross_entropy": _on_baseline("Cross-entropy", ""),
    "balanced_softmax": _on_baseline("Balanced softmax", "Ren et al., NeurIPS 2020", loss="balanced_softmax"),
    "logit_adjustment": _on_baseline("Logit adjustment", "Menon et al., ICLR 2021"),
    "crt": _on_baseline("cRT", "Kang et al., ICLR 2020"),
    "nearest_class_mean": _on_baseline("Nearest class mean", "Kang et al., ICLR 2020"),
    "bns_ipdpp": Recipe("BNS + IP-DPP", "NeurIPS 2025", _PIPELINE, {"retrain.method": "rank_one"}),
    "bns_uniform": Recipe("BNS + uniform subset", "NeurIPS 2025", _PIPELINE, {"retrain.method": "uniform"}),
    "dlsa": Recipe("DLSA", "ECCV 2022", ("pretrain", "features", "dlsa", "evaluate", "report")),
}
