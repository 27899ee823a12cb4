"""The demo with the k-DPP drawn by an eigendecomposition of each class's kernel instead of the rank-one method.

    python -m lt_jax.main --config=configs/digits_lt_eigen.py

Hardware, duration and numbers as for digits_lt.py: both samplers are exact, only their random numbers differ.
"""

from configs import common, digits_lt


def get_config(arg=""):
    common.parse(arg, imbalance_factor=25.0)
    config = digits_lt.get_config(arg)
    config.retrain.method = "eigen"
    return config
