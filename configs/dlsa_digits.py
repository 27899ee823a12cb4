"""DLSA on the features of the demo's BNS encoder.

    python -m lt_jax.main --config=configs/dlsa_digits.py
    python -m lt_jax.main --config=configs/dlsa_digits.py --config.init_from=runs/digits_lt   # the demo's encoder

Hardware: two CPU cores, about two minutes; seconds with `init_from`. The published settings (500 clusters, weights for
1,000 classes) cannot hold on 383 images of ten classes, so clusters, sizes and loss weights are our own.
"""

from configs import common, digits_lt


def get_config(arg=""):
    tokens = common.parse(arg, imbalance_factor=25.0)
    config = digits_lt.get_config(arg)
    for name in ("baseline", "retrain"):
        del config[name]
    config.method = "dlsa"
    config.stages = ("pretrain", "features", "dlsa", "separability", "evaluate", "report")
    config.dlsa = common.dlsa(clusters=20, depth=2)
    config.dlsa.filter.update(epochs=40, batch_size=64, learning_rate=0.02, min_size=3)
    config.dlsa.min_items = 60
    config.report.title = "DLSA on handwritten digits, long-tailed"
    if tokens.smoke:
        config.dlsa.filter.epochs = config.dlsa.classifier.epochs = 2
    return config
