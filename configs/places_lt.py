"""Places-LT: 62,500 training images of 365 classes (4980 to 5), 36,500 to test on.

    python -m lt_jax.main --config=configs/places_lt.py --workdir=runs/places_lt --config.data.dir=DIR
    python -m lt_jax.main --config=configs/places_lt.py:smoke           # the same path on a generated tree

Data: Places365-Standard, small images (256 x 256), from the Places project of MIT, unpacked as DIR/train/CLASS/*.jpg
and DIR/val/CLASS/*.jpg; and Places_LT_train.txt, Places_LT_val.txt and Places_LT_test.txt of the OLTR project, in DIR
or in the folder that --config.data.list names.
Recipe: OURS, not the authors'; configs/large.py says why. Hardware: eight GPUs or TPU cores. We have not run it.
Published results on this set commonly start from ImageNet weights; this recipe trains from scratch, so compare with
care.
"""

from configs import large


def get_config(arg=""):
    return large.recipe("places_lt", arg, "Places-LT")
