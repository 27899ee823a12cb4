"""ImageNet-LT: 115,846 training images of 1000 classes (1280 to 5), 50,000 to test on.

    python -m lt_jax.main --config=configs/imagenet_lt.py --workdir=runs/imagenet_lt --config.data.dir=DIR
    python -m lt_jax.main --config=configs/imagenet_lt.py:smoke         # the same path on a generated tree

Data: ILSVRC 2012 from image-net.org (training and validation archives), unpacked as DIR/train/WNID/*.JPEG and
DIR/val/WNID/*.JPEG; and ImageNet_LT_train.txt, ImageNet_LT_val.txt and ImageNet_LT_test.txt of the OLTR project, in
DIR or in the folder that --config.data.list names. With --config.data.tfds=True: `imagenet_lt` as prepared by
tensorflow-datasets below DIR.
Recipe: OURS, not the authors'; configs/large.py says why. Hardware: eight GPUs or TPU cores. We have not run it.
Published by the authors: 51.7 %, by an unpublished recipe.
"""

from configs import large


def get_config(arg=""):
    return large.recipe("imagenet_lt", arg, "ImageNet-LT")
