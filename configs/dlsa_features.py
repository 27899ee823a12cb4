"""DLSA on your own features.

    python -m lt_jax.main --config=configs/dlsa_features.py --config.data.list=features.npz --workdir=runs/mine
    python -m lt_jax.main --config=configs/dlsa_features.py:preset=places_lt --config.data.list=... --workdir=...

The file (.npz or .h5) holds `features` (n, d), `labels` (n,), `test_features`, `test_labels`; or give --config.data.dir
with train.npz and test.npz. Hardware: any; the features may be larger than the device. With fewer than some ten
thousand items lower `dlsa.filter.clusters` and its batch size (`smoke` does so).

`preset=imagenet_lt`, `preset=inat2018` and `preset=places_lt` set the released epochs, batch sizes, loss weights,
standardisation, momentum, weight decay, `unseen` and `threshold` of these sets; the others are ours (docs/dlsa.md).
Without a preset, clusters and loss weights are those of ImageNet-LT.
"""

import difflib

from configs import common

PRESETS = {
    "imagenet_lt": {
        "depth": 3, "epochs": 50, "batch_size": 1024,
        "likelihood_weight": 2.0, "balance_weight": 1.0, "purity_weight": 0.02,
    },
    "inat2018": {
        "depth": 3, "epochs": 30, "batch_size": 1024,
        "likelihood_weight": 1.0, "balance_weight": 1.0, "purity_weight": 0.02,
    },
    "places_lt": {
        "depth": 1, "epochs": 60, "batch_size": 512,
        "likelihood_weight": 1.0, "balance_weight": 2.0, "purity_weight": 0.03,
    },
}  # fmt: skip


def get_config(arg=""):
    tokens = common.parse(arg, preset="")
    config = common.base()
    config.data = common.data("features", largest=0, imbalance_factor=1.0)
    config.data.profile = "all"
    config.method = "dlsa"
    config.stages = ("features", "dlsa", "separability", "evaluate", "report")
    config.dlsa = released(tokens.preset) if tokens.preset else common.dlsa(clusters=500, depth=3)
    config.report.title = "DLSA on features"
    if tokens.smoke:
        config.dlsa.filter.update(clusters=10, epochs=2, batch_size=64, learning_rate=0.02, min_size=3)
        config.dlsa.min_items = 50
        config.dlsa.classifier.epochs = 2
    return config


def released(preset):
    """The settings of the released code for one data set, on the features of a network without its trained head.

    Raises:
      ValueError: an unknown preset.
    """
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(PRESETS)}"
        raise ValueError(f"config argument preset={preset} is unknown: {hint}")
    values = dict(PRESETS[preset])
    config = common.dlsa(clusters=500, depth=values.pop("depth"))
    config.threshold = "order_statistic"
    config.filter.update(standardise="none", learning_rate=0.2, **values)
    config.classifier.update(
        standardise="none", unseen="possible", learning_rate=0.01, momentum=0.0, weight_decay=0.0, epochs=150,
        batch_size=128,
    )  # fmt: skip
    return config
