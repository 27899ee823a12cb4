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


def _head(name: str, title: str, paper: str) -> Recipe:
    """A head on the features of a plain baseline; it is the only one that is fitted."""
    return _with_head(name, _on_baseline(title, paper))


def _with_head(name: str, recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, overrides={**recipe.overrides, "heads": (name,)})


def _on_baseline(title: str, paper: str, **baseline: Any) -> Recipe:
    """A method of the baseline's network: its loss, or a head on its features."""
    plain = {
        "loss": "cross_entropy",
        "sampling": "instance",
        "head": "linear",
        "reweight": "",
        "experts": 1,
        "consistency": 0.0,
        "tripartite": 0.0,
        "contrastive": "",
    }
    settings = {**plain, **baseline}
    return Recipe(title, paper, overrides={f"baseline.{key}": value for key, value in settings.items()})


def _bce3s(title: str) -> Recipe:
    """The network of BCE3S, which its first stage trains."""
    return _on_baseline(
        title,
        "Fan et al., AAAI 2026",
        loss="sigmoid_bce(negatives=0.4)",
        head="unit_kernel",
        tripartite=0.1,
        contrastive_projector=(512, 128),
    )


def _joint_bns() -> Recipe:
    """A logit-adjusted loss and BNS in one training. The weight is small: BNS starts near 12.

    What else was tried, in 30 epochs of a small network on CIFAR-10-LT (benchmarks/ablation.py, balanced accuracy on
    validation images, in points): cross-entropy in place of the adjusted loss -11.0 ± 1.0; without mixup +3.3 ± 1.5;
    without TrivialAugment and cutout +2.3 ± 1.5; without a moving average of the weights 0.0 ± 1.2; without BNS
    0.0 ± 1.2, with its weight at .3 -1.9 ± 1.2. Published recipes of hundreds of epochs gain by mixes and strong
    augmentation: `baseline.augment.mix`, `.policy` and `.cutout` add them.
    """
    return _on_baseline(
        "BNS beside the loss",
        "",
        loss="logit_adjustment",
        contrastive="bns",
        contrastive_weight=0.1,
        contrastive_projector=(512, 128),
    )


_PIPELINE = ("pretrain", "probe", "baseline", "heads", "retrain", "evaluate", "report")

RECIPES = {
    "cross_entropy": _on_baseline("Cross-entropy", ""),
    "focal": _on_baseline("Focal loss", "Lin et al., ICCV 2017", loss="focal"),
    "class_balanced": _on_baseline("Class-balanced loss", "Cui et al., CVPR 2019", reweight="effective_number"),
    "drw": _on_baseline("DRW", "Cao et al., NeurIPS 2019", reweight="effective_number", reweight_from=0.8),
    "ldam_drw": _on_baseline(
        "LDAM-DRW",
        "Cao et al., NeurIPS 2019",
        loss="ldam",
        head="cosine",
        reweight="effective_number",
        reweight_from=0.8,
    ),
    "label_aware_smoothing": _on_baseline(
        "Label-aware smoothing", "Zhong et al., CVPR 2021", loss="label_aware_smoothing"
    ),
    "vs": _on_baseline("VS", "Kini et al., NeurIPS 2021", loss="vs"),
    "balanced_softmax": _on_baseline("Balanced softmax", "Ren et al., NeurIPS 2020", loss="balanced_softmax"),
    "sigmoid_bce": _on_baseline("Sigmoid BCE", "Fan et al., AAAI 2026", loss="sigmoid_bce"),
    "logit_adjustment": _head("logit_adjustment", "Logit adjustment", "Menon et al., ICLR 2021"),
    "tau_norm": _head("tau_norm", "tau-norm", "Kang et al., ICLR 2020"),
    "lws": _head("lws", "LWS", "Kang et al., ICLR 2020"),
    "balanced_linear": _head("balanced_linear", "Balanced linear head", ""),
    "crt": _head("crt", "cRT", "Kang et al., ICLR 2020"),
    "nearest_class_mean": _head("nearest_class_mean", "Nearest class mean", "Kang et al., ICLR 2020"),
    "whitened_class_mean": _head("whitened_class_mean", "Whitened class mean", ""),
    "cosine_mean": _head("cosine_mean", "Cosine head from class means", ""),
    "maxnorm": _head("maxnorm", "MaxNorm with weight decay", "Alshammari et al., CVPR 2022"),
    "samn": _head("samn", "SAMN", "Zhang et al., CVPR 2026"),
    "adapter": _head("adapter", "Residual adapter", ""),
    "ride": _on_baseline(
        "RIDE",
        "Wang et al., ICLR 2021",
        loss="ldam",
        head="cosine",
        reweight="effective_number",
        reweight_from=0.8,
        experts=3,
        diversity=0.45,
    ),
    "glmc": _on_baseline("GLMC", "Du et al., CVPR 2023", consistency=10.0, contrastive_projector=(128,)),
    "bce3s": _bce3s("BCE3S, first stage"),
    "unit_bce": _with_head("unit_bce", _bce3s("BCE3S, both stages")),
    "bcl": _on_baseline(
        "BCL",
        "Zhu et al., CVPR 2022",
        loss="logit_adjustment",
        head="cosine",
        contrastive="bcl",
        contrastive_weight=0.35,
        contrastive_projector=(512, 128),
    ),
    "paco": _on_baseline(
        "PaCo",
        "Cui et al., ICCV 2021",
        loss="balanced_softmax",
        contrastive="paco",
        contrastive_weight=1.0,
        contrastive_projector=(512, 32),
    ),
    "proco": _on_baseline(
        "ProCo",
        "Du et al., TPAMI 2024",
        loss="logit_adjustment",
        contrastive="proco",
        contrastive_weight=1.0,
        contrastive_projector=(512, 128),
    ),
    "bns_joint": _joint_bns(),
    "tsc": Recipe(
        "TSC",
        "Li et al., CVPR 2022",
        _PIPELINE,
        {"pretrain.loss": "tsc(temperature=0.07)", "retrain.method": "uniform", "retrain.trainable": "head"},
    ),
    "bns_ipdpp": Recipe("BNS + IP-DPP", "NeurIPS 2025", _PIPELINE, {"retrain.method": "rank_one"}),
    "bns_uniform": Recipe("BNS + uniform subset", "NeurIPS 2025", _PIPELINE, {"retrain.method": "uniform"}),
    "dlsa": Recipe("DLSA", "ECCV 2022", ("pretrain", "features", "dlsa", "evaluate", "report")),
}
