"""Our recipe for the large sets: ImageNet-LT, Places-LT, iNaturalist 2018, and your own folder.

No recipe was released for them. This one is OURS, not the authors':
- encoder: a ResNet with the stem that ImageNet networks have, since every comparable number uses one; another
  name of lt_jax.models.ENCODERS takes its place with `encoder=resnet50`.
- pretraining: 200 epochs, not the 1000 of CIFAR: an epoch has 10 to 40 times as many images, and contrastive
  pretraining on ImageNet is commonly reported at 100 to 800. Batch 1024, AdamW at 1e-3 * batch / 256, warm-up a tenth
  (at most 10 epochs): as on CIFAR.
- m = 1 partner as on CIFAR; n = 64 negatives rather than 16, since there are 36 to 800 times as many other classes.
- k = 10 * N_min, the paper's rule: 50 on ImageNet-LT and Places-LT (N_min = 5), 20 on iNaturalist (N_min = 2).
- R = 20 epochs between two draws, the value that the released code has for its set of many classes.
- augmentation: SimCLR at 224 pixels with s = 1, the strength it was published with; the crop is made on the host, the
  other operations run on the device.
- groups: many > 100, few < 20 training images, as everybody reports for these sets.
"""

from configs import common

K = {"imagenet_lt": 50, "places_lt": 50, "inat2018": 20}  # 10 * N_min
SIZES = {"imagenet_lt": (200.0, 1024), "places_lt": (200.0, 1024), "inat2018": (200.0, 1024), "folder": (200.0, 256)}


def recipe(name, arg, title, **switches):
    """The whole config of one large set, from its tokens; `switches` are tokens that only this set has."""
    epochs, batch_size = SIZES[name]
    tokens = common.parse(arg, encoder="resnet34", epochs=epochs, k=K.get(name, 50), batch_size=batch_size, **switches)
    config = common.base()
    config.dtype = "bfloat16"
    config.data = common.data(name, largest=0, imbalance_factor=1.0)
    config.data.profile = "all"

    config.encoder = common.encoder(tokens.encoder, width=64, stem="imagenet")

    warmup = min(10.0, tokens.epochs / 10)
    training = common.training(tokens.epochs, tokens.batch_size, 1e-3, warmup)
    config.pretrain = common.pretrain(training, common.augment(), projector=(2048, 128), n=64)

    mild = {"strength": 0.4, "grey": 0.0, "blur": False}
    training = common.training(min(100.0, tokens.epochs), tokens.batch_size, 1e-3, warmup / 2)
    config.baseline = common.baseline(training, common.augment(**mild))

    training = common.training(100, 256, base_learning_rate=1e-3, warmup_epochs=5)
    config.probe = common.probe(training, common.augment(), per_class=tokens.k)

    training = common.training(100, 256, base_learning_rate=1e-3, warmup_epochs=5)
    config.retrain = common.retrain(training, common.augment(**mild), tokens.k, redraw_every=20)

    config.evaluate.batch_size = 256
    config.report.title = title
    if tokens.get("cpu"):
        for_cpu(config)
    return shrink(config) if tokens.smoke else config


def for_cpu(config):
    """A few hundred images on two CPU cores, in minutes: 32 pixels and a small ResNet.

    Contrastive pretraining learns little from so few images (a linear probe stays near chance), so pretraining is short
    and retraining long. Chosen on renderings of four objects (320, 64, 16, 4), two seeds, with a separate test set.
    Cross-entropy is trained on about as many images; none of its other settings was chosen there.
    """
    config.dtype = "float32"
    config.data.update(image_size=32, hold=True)
    config.encoder = common.encoder("resnet_small", width=16, stem_stride=2)
    config.pretrain.update(epochs=100.0, batch_size=64, base_learning_rate=8e-3, warmup_epochs=10.0)
    config.pretrain.update(n=16, projector=(128, 64), weight_decay=0.5)
    config.baseline.update(epochs=600.0, batch_size=64, base_learning_rate=8e-3, warmup_epochs=10.0)
    config.probe.update(epochs=100.0, batch_size=64, base_learning_rate=1e-2, warmup_epochs=5.0)
    config.retrain.update(epochs=1500.0, batch_size=64, base_learning_rate=4e-2, warmup_epochs=5.0)
    config.retrain.update(redraw_every=100, head_epochs=100.0, weight_decay=0.5)
    for stage in ("pretrain", "baseline", "probe", "retrain"):
        config[stage].augment = common.augment(crop_scale=0.4, strength=0.4, grey=0.0, blur=False)


def shrink(config):
    """The smoke form: a generated JPEG tree of six classes in the true layout, a narrow network of the same kind."""
    config.data.generated = 6
    config.data.image_size = 32
    config.data.workers = 1
    config.encoder.width = 4
    for stage in ("pretrain", "baseline", "probe", "retrain"):
        config[stage].batch_size = 16
    config.evaluate.batch_size = 32
    config.retrain.k = config.probe.per_class = 5
    return common.shorten(config)
