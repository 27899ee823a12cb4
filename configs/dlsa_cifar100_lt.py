"""DLSA on the features of a BNS encoder trained on CIFAR-100-LT.

    python -m lt_jax.main --config=configs/dlsa_cifar100_lt.py:100 --config.init_from=DIR --workdir=runs/dlsa_cifar100

DIR is the work directory of a finished pretraining by configs/cifar100_lt.py with the same tokens; without `init_from`
the encoder is pretrained first. Hardware: minutes on two CPU cores once the encoder is there. Clusters and loss weights
are ours: the released settings are for a hundred thousand images of a thousand classes.
"""

from configs import cifar100_lt, common


def get_config(arg=""):
    config = cifar100_lt.get_config(arg)
    for name in ("baseline", "retrain"):
        del config[name]
    config.method = "dlsa"
    config.stages = ("pretrain", "features", "dlsa", "separability", "evaluate", "report")
    config.dlsa = common.dlsa(clusters=100, depth=3)
    config.dlsa.filter.update(batch_size=256, learning_rate=0.05)
    config.report.title = f"DLSA on {config.report.title}"
    if "smoke" in (arg or "").split(","):
        config.dlsa.filter.update(clusters=10, epochs=1)
        config.dlsa.classifier.epochs = 1
    return config
