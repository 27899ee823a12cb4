"""DLSA on the features of the demo's BNS encoder.

    python -m lt_jax.main --config=configs/dlsa_digits.py
    python -m lt_jax.main --config=configs/dlsa_digits.py --config.init_from=runs/digits_lt   # the demo's encoder

Hardware: two CPU cores, about two minutes; seconds with `init_from`. The published settings (500 clusters, weights for
1,000 classes) cannot hold on 383 images of ten classes, so clusters, sizes and loss weights are our own.
"""

import ml_collections

from configs import common, digits_lt


def get_config(arg=""):
    tokens = common.parse(arg, imbalance_factor=25.0)
    config = digits_lt.get_config(arg)
    for name in ("baseline", "retrain"):
        del config[name]
    config.method = "dlsa"
    config.stages = ("pretrain", "features", "dlsa", "separability", "evaluate", "report")
    config.dlsa = settings(clusters=20, depth=2)
    config.dlsa.filter.update(epochs=40, batch_size=64, learning_rate=0.02, min_size=3)
    config.dlsa.min_items = 60
    config.report.title = "DLSA on handwritten digits, long-tailed"
    if tokens.smoke:
        config.dlsa.filter.epochs = config.dlsa.classifier.epochs = 2
    return config


def settings(clusters, depth):
    """The knobs of DLSA; docs/dlsa.md says which values give the released form."""
    config = ml_collections.ConfigDict()
    config.depth = depth  # times that the items are divided
    config.share = 0.3  # of the items left, those of the highest likelihood, that a depth classifies
    config.min_items = 200  # a depth that is left with fewer training items ends the recursion
    config.threshold = "interpolated"  # quantile of the likelihood; or "order_statistic", as released
    config.share_at = "fitted"  # likelihoods that decide who is taken; or "out_of_fold", where the tail is memorised
    config.folds = 5  # of share_at="out_of_fold": as many more flows at each depth; 2 is cheaper and less exact
    config.last = "left"  # items that the last classifier is trained on; or "everything"
    config.rest_counts = "all"  # class counts in the last classifier's balanced softmax: of "all" items or those "left"
    config.compare_with = ()  # other work directories whose features --stage=separability ranks as well

    config.filter = fit = ml_collections.ConfigDict()
    fit.standardise = "coordinates"  # or "none", as released, or "unit": centred, each item of length 1
    fit.noise = 0.0  # standard deviation of Gaussian noise added to the scaled features in training
    fit.weight_decay = 0.0  # of the flow's matrices
    fit.clusters = clusters  # K equal Gaussians of the base density
    fit.blocks = 2  # of MADE and BatchNorm
    fit.centre_deviation = 0.05  # of the fixed random centres
    fit.epochs = 50  # passes of as many pairs as there are items
    fit.batch_size = 1024  # pairs
    fit.learning_rate = 0.2  # SGD without momentum
    fit.likelihood_weight = 2.0  # of the class-weighted negative log-likelihood
    fit.balance_weight = 1.0  # of log K minus the entropy of the mean posterior
    fit.purity_weight = 0.02  # of what pulls two classes into different clusters
    fit.class_weight_power = 2.0  # q: an item weighs (N_max / N_y)^q
    fit.min_purity = 0.7  # the epoch kept is the one with the most clusters purer than this ...
    fit.min_size = 10  # ... and with more training items than this ...
    fit.max_size = 5000  # ... whose largest cluster has fewer than this

    config.classifier = head = ml_collections.ConfigDict()
    head.standardise = "coordinates"  # or "none", as released, or "unit": centred, each item of length 1
    head.kind = "linear"  # or "cosine" with a learnt scale, or "cosine_released": 16 x/(1+|x|) . w/|w|
    head.hidden = 0  # units of a ReLU layer before the linear or cosine one; 0 = none; of the baselines, too
    head.start = "random"  # or "backbone": from the encoder's linear head; then learning_rate = 1e-4, as released
    head.loss = "balanced_softmax"  # or "cross_entropy"
    head.label_smoothing = 0.0  # weight of the loss that the label leaves to the other classes
    head.unseen = "never"  # a class without training items is no answer; or "possible", as released
    head.sampling = "instance"  # or "class_aware" with replacement, or "class_cycles", as released
    head.learning_rate = 0.01  # SGD
    head.momentum = 0.9  # of SGD; released: 0
    head.weight_decay = 5e-4  # of all weights; released: 0
    head.epochs = 150  # passes over the items that it is trained on
    head.batch_size = 128  # items
    return config
