"""A small long-tailed mixture of Gaussians, and DLSA settings of a matching size."""

import ml_collections
import numpy as np
import pytest


@pytest.fixture
def config():
    return ml_collections.ConfigDict(
        {
            "depth": 2, "share": 0.3, "min_items": 20, "rest_counts": "all",
            "filter": {
                "clusters": 6, "blocks": 2, "centre_deviation": 0.05, "epochs": 4, "batch_size": 64,
                "learning_rate": 0.05, "likelihood_weight": 1.0, "balance_weight": 1.0, "purity_weight": 0.02,
                "class_weight_power": 2.0, "min_purity": 0.7, "min_size": 3, "max_size": 1000,
            },
            "classifier": {
                "kind": "linear", "loss": "balanced_softmax", "sampling": "instance", "learning_rate": 0.02,
                "momentum": 0.9, "weight_decay": 0.0, "epochs": 30, "batch_size": 64,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def gaussians():
    """Returns features (n, 4), labels (n,), test features and test labels: four classes of 120, 40, 20, 8 items."""
    rng = np.random.default_rng(0)
    means = 3.0 * rng.normal(size=(4, 4))
    labels, test = np.repeat(np.arange(4), (120, 40, 20, 8)), np.repeat(np.arange(4), 50)
    draw = [means[y] + rng.normal(size=(len(y), 4)) for y in (labels, test)]
    return draw[0].astype(np.float32), labels, draw[1].astype(np.float32), test
