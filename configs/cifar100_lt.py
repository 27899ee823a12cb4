"""CIFAR-100-LT, the recipe of BNS + IP-DPP. The imbalance factor is an argument: `configs/cifar100_lt.py:50`.

    python -m lt_jax.main --config=configs/cifar100_lt.py:100 --workdir=runs/cifar100 --config.data.dir=DIR

Data: the official archive of CIFAR-100, as for cifar10_lt.py. Hardware: one GPU or TPU; 1000 epochs of a ResNet-34.
`configs/cifar100_lt.py:100,weights=efficientnet_lite0` trains heads alone, on the features of a pretrained network that
sees the images at 160 pixels. `configs/cifar100_lt.py:100,standard` trains a ResNet-32 by the recipe of most published
results, without pretraining.
Expected: published by the authors at IF 100: 52.4 % (linear probe 47.1 %). What we measured stands in docs/results.md.
"""

from configs import cifar10_lt, common


def get_config(arg=""):
    tokens = common.parse(
        arg, imbalance_factor=100.0, encoder="resnet34", epochs=1000.0, standard=False, weights="", checkpoint=""
    )
    if tokens.weights:
        return cifar10_lt.pretrained("cifar100", tokens, largest=500, side=160)
    config = cifar10_lt.recipe("cifar100", tokens, largest=500)
    config.pretrain.batch_size = config.baseline.batch_size = 512
    config.retrain.redraw_every = 20
    if tokens.encoder == "resnet_small":
        cifar10_lt.for_cpu(config)
    if tokens.standard:
        cifar10_lt.standard(config, tokens)
    if tokens.checkpoint:
        cifar10_lt.as_loaded(config, tokens.checkpoint)
    return cifar10_lt.shrink(config) if tokens.smoke else config
