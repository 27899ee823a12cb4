"""The tokens behind the colon of `--config=configs/NAME.py:TOKENS`, and the knobs that all experiments share.

Batch sizes and learning rates always mean the GLOBAL batch. `smoke` changes sizes and durations; where a
folder or a large set has no data.dir, it also generates images.
"""

import difflib

import ml_collections

HEADS = ("logit_adjustment", "tau_norm", "crt", "nearest_class_mean", "whitened_class_mean")
ON_FEATURES = (  # on the features of a frozen encoder, which have many coordinates: of unit length, or they overfit
    "balanced_linear",
    "linear(scaling='unit')",
    "logit_adjustment",
    "tau_norm",
    "lws",
    "crt(scaling='unit')",
    "nearest_class_mean",
    "whitened_class_mean",
    "cosine_mean",
    "maxnorm",
    "samn",
    "adapter",
)


def parse(arg, **known):
    """`"50,smoke,encoder=resnet18"` -> a namespace of `known` defaults, overridden.

    A number is the imbalance factor and a bare word is a switch; `key=value` takes the type of the default.

    Raises:
      ValueError: an unknown token; the message names the known ones.
    """
    values = {"smoke": False, **known}
    for token in filter(None, (arg or "").split(",")):
        key, equals, text = token.partition("=")
        if not equals and _is_number(token) and "imbalance_factor" in values:
            key, value = "imbalance_factor", float(token)
        elif key not in values or (not equals and not isinstance(values[key], bool)):
            close = difflib.get_close_matches(key, values, 1)
            hint = f"did you mean {close[0]}?" if close else f"expected a number or {', '.join(values)}"
            raise ValueError(f"config argument {token!r} is unknown: {hint}")
        else:
            value = _cast(key, text, values[key]) if equals else True
        values[key] = value
    return ml_collections.ConfigDict(values)


def _is_number(token):
    return token.replace(".", "", 1).isdigit()


def _cast(key, text, default):
    try:
        return text.lower() in ("1", "true", "yes") if isinstance(default, bool) else type(default)(text)
    except ValueError as error:
        raise ValueError(f"config argument {key}={text}: expected a {type(default).__name__}") from error


def base():
    """The settings that every experiment has."""
    config = ml_collections.ConfigDict()
    config.method = "bns_ipdpp"  # a recipe, whose classifier is the final one; no effect where heads are alone
    config.stages = (  # what --stage=all runs
        "pretrain",
        "probe",
        "baseline",
        "heads",
        "retrain",
        "evaluate",
        "report",
    )
    config.heads = HEADS  # entries of lt_jax.methods.HEADS, fitted on the frozen features of the baseline; without a
    # baseline on those of stage features, and then an option may be a list to choose from: "tau_norm(tau=[1.0, 1.5])"
    config.seed = 0  # of networks, batches, augmentation and the k-DPP; the data have data.seed
    config.dtype = "float32"  # compute type of the networks; parameters, losses and statistics stay float32
    config.init_from = ""  # another work directory, whose finished pretraining is used

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50  # a line of metrics.jsonl each so many steps
    log.tensorboard = False  # the same numbers as TensorBoard events in tensorboard/STAGE of the work directory

    config.profile = profile = ml_collections.ConfigDict()
    profile.steps = ""  # "10:15" traces steps 10 to 14 of every training into profile/STAGE, for xprof or Perfetto

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_seconds = 300.0  # the most work that a kill can lose
    checkpoint.every_steps = 0  # save at each multiple of it as well; 0 = by time alone
    checkpoint.keep = 2  # newest checkpoints kept of each stage

    config.host = host = ml_collections.ConfigDict()
    host.distributed = "auto"  # several processes: "auto" where the environment says so, "on" on Cloud TPU, or "off"
    host.heartbeat_seconds = 30  # a process that is silent for so long counts as lost
    host.start_seconds = 300  # the processes wait so long for each other at the start
    host.shard_params = False  # each device keeps its part of parameters and optimiser: less memory, more traffic
    host.steps_per_execution = 0  # most training steps in one program, of images held on the device; 0 = by backend
    host.keep_memory = True  # on a CPU the C library keeps freed memory for the next step, instead of returning it
    host.compile_cache = "~/.cache/lt_jax/jax"  # compiled programs are kept here between runs; "" = nowhere

    config.evaluate = evaluate = ml_collections.ConfigDict()
    evaluate.batch_size = 500  # images in one forward pass; also where features are extracted
    evaluate.every_epochs = 0  # validation images are evaluated after each so many epochs of training; 0 = at the end
    evaluate.ece_bins = 15  # confidence bins of the expected calibration error

    config.report = report = ml_collections.ConfigDict()
    report.title = "Long-tailed recognition"  # of the page
    return config


def data(name, largest, imbalance_factor, many=100, few=20):
    """A long-tailed subset of a balanced data set."""
    config = ml_collections.ConfigDict()
    config.name = name  # a key of lt_jax.data.sources.SOURCES
    config.dir = ""  # folder that holds the archive or images; empty: the environment variable LT_JAX_DATA
    config.list = ""  # the table or features file, or the folder of the official lists; empty: inside dir
    config.classes = ""  # a file with the class names of a table, one a line; empty: as the table has them
    config.tfds = False  # read the ArrayRecord form that tensorflow-datasets has prepared below dir
    config.generated = 0  # classes of a generated JPEG tree in the true layout, where dir is empty; 0 = real data
    config.image_size = 0  # side in pixels of what is cropped from image files, and of arrays under a frozen encoder;
    # 0 = that of the images that `encoder.weights` were trained on, else 224
    config.hold = False  # decode image files once, to squares of image_size, and keep them on the device: small sets
    config.workers = -1  # processes that decode image files; 0 = none but this one, -1 = as many as cores
    config.splits = "auto"  # of a folder: by what it holds; "folders": DIR/train/CLASS; "none": every folder is a class
    config.on_bad_image = "error"  # or "skip": unreadable training images are left out, counted and listed
    config.test_share = 0.2  # of each class, held out where the source has no test split
    config.validation = 0.0  # share of each class held out of training where the source has no validation split
    config.validation_unused = 0  # images of each class for such a split, of those that the subset leaves; 0 = none
    config.folds = 0  # stratified folds of the chosen training images, one of which is the validation split; 0 = none
    config.fold = 0  # the fold that is held out, from 0 on
    config.profile = "exponential"  # or "step", "pareto", "counts", or "all" for every image
    config.counts = ()  # images of each class where the profile is "counts"
    config.imbalance_factor = float(imbalance_factor)  # largest class over smallest
    config.largest = largest  # images of the largest class
    config.seed = 0  # of the choice of images; 0 is the canonical subset
    config.many = many  # classes with more training images are "many"
    config.few = few  # classes with fewer training images are "few"
    return config


def encoder(name, width, stem="small", stem_stride=1):
    """The network that computes features of images."""
    config = ml_collections.ConfigDict()
    config.name = name  # a key of lt_jax.models.ENCODERS; "" = the network that `weights` are of
    config.width = width  # channels of the first stage of a ResNet, or of a head in vit_small and vit_base
    config.stem = stem  # "small": 3x3, patches of 4; "imagenet": 7x7 with stride 2 and max-pool, patches of 16
    config.stem_stride = stem_stride  # 2 halves a small image at once
    config.remat = False  # compute each block again in the backward pass: less memory, a third more time
    config.weights = ""  # a .safetensors, .npz, .pt or .pth file, or "efficientnet_lite0" once installed; "" = random
    config.init = "he"  # of convolutions: normal by fan-out; "torch": as PyTorch starts all its layers (docs/bns.md)
    config.mean = ()  # taken from each channel of an image in [0, 1] ...
    config.std = ()  # ... which is then divided by this; () = as `weights` were trained, without weights 0 and 1
    config.flips = False  # heads on a frozen encoder are also fitted on features of the mirrored training images
    config.input_size = 0  # side that smaller images are enlarged to on the device; 0 = data.image_size where weights
    # whose image size is known are frozen, else as they are
    config.resample = ""  # how: "bilinear" or "bicubic"; "" = as `weights` were trained
    return config


def training(epochs, batch_size, base_learning_rate, warmup_epochs):
    """One training run: by default AdamW with betas (.9, .95), linear warm-up and cosine decay to zero, per step."""
    config = ml_collections.ConfigDict()
    config.epochs = float(epochs)  # passes over the training set
    config.steps = 0  # durations in steps instead of epochs, where above 0
    config.batch_size = batch_size  # images, over all devices and hosts
    config.accumulate = 1  # parts of a batch that go through the network in turn: less memory; 1 in pretraining
    config.base_learning_rate = base_learning_rate  # for 256 images; the rate itself is this * batch_size / 256
    config.warmup_epochs = float(warmup_epochs)  # the rate rises linearly over them
    config.schedule = "cosine"  # after the warm-up; or "step": times decay_factor at decay_epochs, or "constant"
    config.decay_epochs = ()  # of the "step" schedule
    config.decay_factor = 0.1  # of the "step" schedule
    config.optimizer = "adamw"  # or "sgd", whose weight decay is coupled (L2), as in PyTorch
    config.momentum = 0.9  # of sgd
    config.nesterov = False  # momentum of Nesterov's form, in sgd
    config.weight_decay = 0.05  # by default on weights only
    config.decay_norms = False  # weight decay on biases and norms too, as PyTorch's optimizers do by default
    config.clip_norm = 0.0  # largest norm of the gradient; 0 = no limit
    config.ema = 0.0  # decay of a moving average of weights and BatchNorm statistics, which is evaluated; 0 = none
    return config


def standard_cifar(epochs=200.0):
    """The recipe of most published CIFAR-LT results (LDAM, NeurIPS 2019): SGD at .1 for a batch of 128.

    The rate rises over 5 epochs and falls by 100 at 80 % and at 90 % of the epochs, 160 and 180 of 200.
    """
    config = training(epochs, batch_size=128, base_learning_rate=0.2, warmup_epochs=5 * min(1.0, epochs / 200))
    config.update(optimizer="sgd", weight_decay=2e-4, decay_norms=True)
    config.update(schedule="step", decay_epochs=(0.8 * epochs, 0.9 * epochs), decay_factor=0.01)
    return config


def pretrain(training, augment, projector, temperature=0.5, n=16):
    """Contrastive pretraining."""
    config = training
    config.loss = "bns"  # the paper's, Eq. 12; an entry of lt_jax.methods.CONTRASTIVE
    config.temperature = temperature  # of the similarities
    config.m = 1  # same-class partners of each anchor, in the query view
    config.n = n  # balanced negatives of each anchor
    config.negatives = "sampled"  # or "expected": the mean over the draw, no draw
    config.ring = False  # send keys round the devices instead of gathering them: for very large batches
    config.projector = projector  # widths of the projector; the last one is the embedding
    config.augment = augment
    return config


def baseline(training, augmentation, contrastive_augment=None):
    """A classifier trained on all images, by a loss and, where it is named, a contrastive objective beside it."""
    config = training
    config.loss = "cross_entropy"  # an entry of lt_jax.methods.SUPERVISED
    config.trainable = "all"  # "last_block" and the head, "head", "none": of a network with `encoder.weights`
    config.head = "linear"  # or "cosine": cosines times 30, for the loss "ldam"; or "unit_kernel", for BCE3S
    config.reweight = ""  # or "effective_number": weights of the classes, in any loss
    config.reweight_from = 0.0  # share of the epochs before the weights; .8 is deferred re-weighting (DRW)
    config.sampling = "instance"  # an entry of lt_jax.methods.ORDERS, as "class_balanced": every class as often
    config.experts = 1  # copies of the last two stages of the encoder, whose logits are averaged
    config.diversity = 0.45  # reward of experts that differ from their mean
    config.tripartite = 0.0  # weight of the likeness of mixed views and the last image of a class (BCE3S); 0 = none
    config.consistency = 0.0  # weight of the agreement of a mixup and a CutMix view (GLMC); 0 = one view
    config.contrastive = ""  # or an entry of lt_jax.methods.CONTRASTIVE, trained on further views of each image
    config.contrastive_weight = 1.0  # of its loss, beside that of the classifier
    config.contrastive_projector = (512, 128)  # widths of its projector; the last one is the embedding
    config.contrastive_augment = contrastive_augment or augment()  # of its views
    config.augment = augmentation
    return config


def probe(training, augment, per_class):
    """Linear probing of the pretrained encoder."""
    config = training
    config.per_class = per_class  # images a class of the `official` protocol's subset; 0 = without that protocol
    config.augment = augment
    return config


def retrain(training, augment, k, redraw_every, head_epochs=5.0):
    """The second stage: a classifier on balanced subsets."""
    config = training
    config.method = "rank_one"  # an entry of lt_jax.methods.SELECTORS: rank_one and eigen are exact
    config.k = k  # images kept of a class that has more
    config.scale_power = 1  # a kernel of p_i p_j / N^scale_power: 1 is the paper's, 2 the released code's
    config.redraw_every = redraw_every  # R: epochs between two draws of the subset
    config.trainable = "all"  # "all" fine-tunes the network as the released code does, "head" as the text says
    config.head_epochs = head_epochs  # passes of the head that gives the first p, on frozen features; then discarded
    config.augment = augment
    return config


def dlsa(clusters, depth):
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
    fit.standardise = "coordinates"  # or "none", as released; centred items of length 1, "unit", or sqrt(D), "sphere"
    fit.components = 0  # principal components that the flow sees, each of variance 1; 0 = all coordinates
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
    head.standardise = "coordinates"  # or another of filter.standardise
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


def on_features(config, weights, network="", batch_size=64, clusters=20):
    """Changes a config to heads on the features of a frozen encoder, one of which is selected by cross-validation.

    The token `method=dlsa` takes DLSA in place of the heads. Its flow sees the first principal components: the features
    of strong encoders have more coordinates than a few hundred images can tell the density of.

    Args:
      config: with the block data.
      weights: for `encoder.weights`.
      network: its name; "" = the one that the weights are of.
      batch_size: images in one forward pass.
      clusters: of DLSA.
    """
    config.method = ""
    config.stages = ("features", "heads", "evaluate", "report")
    config.heads = ON_FEATURES
    config.encoder = encoder(network, width=64, stem="imagenet")
    config.encoder.weights = weights
    config.evaluate.batch_size = batch_size
    config.dlsa = dlsa(clusters, depth=1)
    config.dlsa.min_items = 60
    config.dlsa.filter.update(standardise="sphere", components=32, batch_size=256, learning_rate=0.02, min_size=3)
    config.dlsa.classifier.standardise = "sphere"
    return config


def finetune(config):
    """Changes a config of heads on the features of an encoder to one that trains the last block of that encoder too."""
    mild = augment(crop_scale=0.5, strength=0.0, grey=0.0, blur=False)
    config.baseline = baseline(training(10, 64, base_learning_rate=1e-3, warmup_epochs=1), mild)
    config.baseline.update(trainable="last_block", loss="logit_adjustment")
    config.log.every_steps = 5
    config.stages = ("baseline", "heads", "evaluate", "report")
    config.heads = tuple(name for name in HEADS if name != "logit_adjustment")
    return config


def every_key():
    """A config with every key there is, to check other configs against; only the types of its values matter."""
    config = base()
    config.data = data("digits", largest=1, imbalance_factor=1)
    config.encoder = encoder("resnet18", width=64)
    config.encoder.update(mean=(0.0,), std=(1.0,))
    config.pretrain = pretrain(training(1, 1, 1.0, 1), augment(), projector=(1,))
    config.baseline = baseline(training(1, 1, 1.0, 1), augment())
    config.probe = probe(training(1, 1, 1.0, 1), augment(), per_class=1)
    config.retrain = retrain(training(1, 1, 1.0, 1), augment(), k=1, redraw_every=1)
    config.dlsa = dlsa(clusters=1, depth=1)
    return config


def augment(crop_scale=0.08, flip=0.5, strength=1.0, grey=0.2, blur=True):
    """SimCLR augmentation; with strength=0, grey=0, blur=False it is crop and flip. Names as in lt_jax.augment."""
    config = ml_collections.ConfigDict()
    config.crop_scale = crop_scale  # smallest share of the area that a random resized crop keeps; 1.0 = no crop
    config.pad = 0  # pixels of black around an image of which a random part of its own size is taken; 0 = none
    config.flip = flip  # probability of a horizontal flip
    config.strength = strength  # s of the colour jitter (.8s, .8s, .8s, .2s), applied with probability .8
    config.grey = grey  # probability of a grey image
    config.blur = blur  # Gaussian blur, sigma U(.1, 2), of a tenth of the side, at least 3x3
    config.policy = ""  # or "trivial" (TrivialAugment), "autoaugment" (its policy for CIFAR-10): after the rest
    config.cutout = 0.0  # side of the grey square, as a share of the image's; 0 = none
    config.mix = ""  # or an entry of lt_jax.methods.MIXES, as "mixup", where a classifier is trained
    return config


def shorten(config):
    """The smoke form: the same code path, sizes and durations cut to seconds."""
    for stage, epochs in (("pretrain", 2), ("baseline", 2), ("retrain", 2)):
        config[stage].update(epochs=float(epochs), warmup_epochs=0.0)
    config.retrain.update(redraw_every=1, head_epochs=5.0)
    config.probe.update(epochs=2.0, warmup_epochs=0.0)
    config.log.every_steps = 1
    return config
