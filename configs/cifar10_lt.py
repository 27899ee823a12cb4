"""CIFAR-10-LT, the recipe of BNS + IP-DPP. The imbalance factor is an argument: `configs/cifar10_lt.py:100`.

    python -m lt_jax.main --config=configs/cifar10_lt.py:100 --workdir=runs/cifar10 --config.data.dir=DIR

Data: the official archive of CIFAR-10 in DIR (or in the folder that LT_JAX_DATA names), as a tar or unpacked, in the
binary or the python form, from the CIFAR page of the University of Toronto.
Hardware: one GPU or TPU; 1000 epochs of a ResNet-18.
Expected: published by the authors at IF 100: 76.4 % (linear probe 68.2 %). What we measured stands in docs/results.md.

`configs/cifar10_lt.py:100,encoder=resnet_small,epochs=40` is a form that two CPU cores finish in less than an hour.
`configs/cifar10_lt.py:100,weights=efficientnet_lite0` trains heads alone, on the features of a pretrained network that
sees the images at 128 pixels: minutes on two CPU cores. docs/encoders.md has what it gives.
`configs/cifar10_lt.py:100,checkpoint=FILE` evaluates a checkpoint of a ResNet-18 and its classifier, such as those that
were released with the paper; `encoder=NAME` for another network.
`configs/cifar10_lt.py:100,standard` trains a ResNet-32 by the recipe of most published results, without pretraining.
"""

import math

from configs import common
from lt_jax.data import longtail

CLASSES = {"cifar10": 10, "cifar100": 100}


def get_config(arg=""):
    tokens = common.parse(
        arg, imbalance_factor=100.0, encoder="resnet18", epochs=1000.0, standard=False, weights="", checkpoint=""
    )
    if tokens.weights:
        return pretrained("cifar10", tokens, largest=5000, side=128, many=500, few=200)
    config = recipe("cifar10", tokens, largest=5000, many=500, few=200)
    if tokens.encoder == "resnet_small":
        for_cpu(config)
    config.retrain.redraw_every = 10
    config.probe.per_class = 100
    config.probe.warmup_epochs = 20.0
    config.probe.augment.strength = 2.0
    if tokens.standard:
        standard(config, tokens)
    if tokens.checkpoint:
        as_loaded(config, tokens.checkpoint)
    return shrink(config) if tokens.smoke else config


def pretrained(name, tokens, largest, side, many=100, few=20):
    """Heads on the features of a pretrained network, which sees the images enlarged to `side` pixels."""
    config = common.base()
    config.data = common.data(name, largest, tokens.imbalance_factor, many, few)
    config.data.image_size = side
    common.on_features(config, tokens.weights, clusters=100)
    config.report.title = f"{name.upper()}-LT, imbalance factor {tokens.imbalance_factor:g}"
    if tokens.smoke:
        config.data.update(largest=max(largest // 50, math.ceil(tokens.imbalance_factor)), image_size=32)
    return config


def standard(config, tokens):
    """ResNet-32 of width 16, 200 epochs of SGD, crops after padding by 4 pixels, flips; and heads on its features.

    Channel means and deviations are those of CIFAR-10, which most released code uses for CIFAR-100 too.
    """
    config.encoder = common.encoder("resnet32", width=16)
    config.encoder.update(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    augment = common.augment(crop_scale=1.0, flip=0.5, strength=0.0, grey=0.0, blur=False)
    augment.pad = 4
    config.baseline = common.baseline(common.standard_cifar(min(tokens.epochs, 200.0)), augment)
    config.stages = ("baseline", "heads", "evaluate", "report")


def as_loaded(config, checkpoint):
    """The network and classifier of a checkpoint are evaluated as they are, and other heads on its features."""
    config.encoder.weights = checkpoint
    config.baseline.trainable = "none"
    config.stages = ("baseline", "heads", "evaluate", "report")


def recipe(name, tokens, largest, many=100, few=20):
    """The settings that CIFAR-10-LT and CIFAR-100-LT share."""
    config = common.base()
    config.data = common.data(name, largest, tokens.imbalance_factor, many, few)

    width = {"resnet_small": 16, "resnet32": 16}.get(tokens.encoder, 64)
    config.encoder = common.encoder(tokens.encoder, width, stem_stride=2 if tokens.encoder == "resnet_small" else 1)

    warmup = min(20.0, tokens.epochs / 10)
    training = common.training(tokens.epochs, 1024, base_learning_rate=1e-3, warmup_epochs=warmup)
    config.pretrain = common.pretrain(training, common.augment(strength=2.0), projector=(2048, 128))  # s as released

    training = common.training(min(200.0, tokens.epochs), 1024, base_learning_rate=1e-3, warmup_epochs=warmup / 2)
    augment = common.augment(strength=0.0, grey=0.0, blur=False, crop_scale=0.25)
    config.baseline = common.baseline(training, augment)

    training = common.training(100, 64, base_learning_rate=1e-3, warmup_epochs=5)
    config.probe = common.probe(training, common.augment(), per_class=50)

    training = common.training(100, 64, base_learning_rate=1e-3, warmup_epochs=5)
    k = ten_times_smallest(config.data)
    config.retrain = common.retrain(training, common.augment(), k, redraw_every=10)

    config.report.title = f"{name.upper()}-LT, imbalance factor {tokens.imbalance_factor:g}"
    return config


def for_cpu(config):
    """Settings for a tiny network and tens of epochs instead of a thousand. They are ours, not the paper's.

    More and smaller steps, a higher learning rate, a lower temperature, and a weaker augmentation.
    """
    config.pretrain.update(batch_size=128, base_learning_rate=4e-3, temperature=0.2)
    config.pretrain.augment.update(strength=0.5, crop_scale=0.25, blur=False)
    config.baseline.batch_size = 256


def ten_times_smallest(data):
    """k of the paper."""
    return max(1, 10 * int(longtail.exponential_counts(data.largest, CLASSES[data.name], data.imbalance_factor)[-1]))


def shrink(config):
    """The smoke form of the CIFAR experiments: few images, a narrow network of the same kind."""
    # Every class keeps at least one image.
    config.data.largest = max(config.data.largest // 50, math.ceil(config.data.imbalance_factor))
    config.encoder.width = 8
    config.pretrain.batch_size = config.baseline.batch_size = 64
    config.retrain.k = ten_times_smallest(config.data)
    config.probe.per_class = 5
    return common.shorten(config)
