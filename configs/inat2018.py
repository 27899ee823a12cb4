"""iNaturalist 2018: 437,513 training images of 8142 classes (1000 to 2), 24,426 to test on (its val split).

    python -m lt_jax.main --config=configs/inat2018.py --workdir=runs/inat2018 --config.data.dir=DIR
    python -m lt_jax.main --config=configs/inat2018.py:smoke            # the same path on a generated tree

Data: the archive train_val2018 of the iNaturalist 2018 competition, unpacked in DIR, with train2018.json and
val2018.json beside it; or the lists iNaturalist18_train.txt and iNaturalist18_val.txt in their place, in DIR or in the
folder that --config.data.list names. With --config.data.tfds=True: `i_naturalist2018` as prepared by
tensorflow-datasets below DIR.
Recipe: OURS, not the authors'; configs/large.py says why. Hardware: eight GPUs or TPU cores. We have not run it.
Published by the authors: 74.0 %, by an unpublished recipe.
"""

from configs import large


def get_config(arg=""):
    return large.recipe("inat2018", arg, "iNaturalist 2018")
