"""DLSA on features that you bring.

    python -m lt_jax.main --config=configs/dlsa_features.py --config.data.list=features.npz --workdir=runs/mine

The file (.npz or .h5) holds `features` (n, d), `labels` (n,), `test_features`, `test_labels`; or give --config.data.dir
with train.npz and test.npz. Hardware: any; the features may be larger than the device. The settings are those that the
released code has for ImageNet-LT; with fewer than some ten thousand items lower `dlsa.filter.clusters` and its
batch size (`smoke` does so).
"""

from configs import common, dlsa_digits


def get_config(arg=""):
    tokens = common.parse(arg)
    config = common.base()
    config.data = common.data("features", largest=0, imbalance_factor=1.0)
    config.data.profile = "all"
    config.method = "dlsa"
    config.stages = ("features", "dlsa", "separability", "evaluate", "report")
    config.dlsa = dlsa_digits.settings(clusters=500, depth=3)
    config.report.title = "DLSA on features"
    if tokens.smoke:
        config.dlsa.filter.update(clusters=10, epochs=2, batch_size=64, learning_rate=0.02, min_size=3)
        config.dlsa.min_items = 50
        config.dlsa.classifier.epochs = 2
    return config
