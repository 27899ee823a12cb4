"""Precomputes images and arrays for the report: thumbnails, inclusion probabilities, features of some test images.

They are small files, so that the report needs neither the images nor JAX.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from lt_jax import data, ipdpp, methods
from lt_jax.core import files
from lt_jax.data import decode
from lt_jax.ipdpp import rank_one
from lt_jax.methods import selectors
from lt_jax.stages import experiment as experiments
from lt_jax.stages import features as features_lib
from lt_jax.stages import pretrain, probe

POINTS = 2000  # test images whose features are kept
_CLASSES, _IMAGES, _SIDE = 10, 10, 64  # classes that are shown, images of each that were chosen and not chosen, pixels
Features = Callable[[Any], np.ndarray]
_LAWS = 6  # classes whose inclusion probabilities are worked out


def write(experiment: experiments.Experiment, final: Features | None) -> None:
    """Writes `features/shown.npz`, and after a retraining `thumbnails.npz` and `inclusion.npz`.

    Args:
      final: images -> features of the final network; None where the run has no network of its own.
    """
    workdir, dataset = experiment.workdir, experiment.dataset
    files.write_npz(workdir / "features" / "shown.npz", **shown(experiment, final))
    last = last_round(workdir) if "retrain" in experiment.config.stages else None
    if last is None:
        return
    drawn = files.read_npz(workdir / "subsets" / f"{last}.npz")
    files.write_npz(workdir / "inclusion.npz", round=last, **inclusion(drawn, dataset.train.labels))
    files.write_npz(workdir / "thumbnails.npz", round=last, **thumbnails(drawn, dataset.train))


def last_round(workdir: epath.Path) -> int | None:
    """The number of the newest subset, None where there is none."""
    folder = workdir / "subsets"
    return max((int(path.stem) for path in folder.glob("*.npz")), default=None) if folder.exists() else None


def shown(experiment: experiments.Experiment, final: Features | None) -> dict[str, Any]:
    """Test features by encoder, with labels and positions (n,).

    The encoders are frozen, or random or loaded, probe and final; features are (n, d). At most POINTS images, equally
    many of every class as far as there are any.
    """
    dataset, labels = experiment.dataset, experiment.dataset.test.labels
    positions = probe.balanced_subset(labels, max(1, POINTS // max(len(np.unique(labels)), 1)), 0)[:POINTS]
    features: dict[str, Any] = {"positions": positions, "labels": labels[positions]}
    file = experiment.workdir / "features" / "test.features.npy"
    if {"features", "probe"} & set(experiment.config.stages) and file.exists():  # not of an earlier config
        with file.open("rb") as content:
            name = "frozen" if features_lib.is_frozen(experiment.config) else "probe"
            features[name] = np.load(content)[positions].astype(np.float32)
    if len(dataset.image_shape) != 3 or "frozen" in features:
        return features
    split = dataset.test.images
    images = split[positions] if dataset.test.in_memory else split.select(positions)
    first = experiment.under_new_head(pretrain.first(experiment), "probe/blank")
    features["loaded" if experiment.config.encoder.weights else "random"] = experiment.extract(first, images)[0]
    if final is not None:
        features["final"] = final(images)
    return features


def inclusion(drawn: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """The chance of each training image to be in the subset, (n,), NaN where it is not known or not worked out.

    Besides: labels, log_p, and chosen, whether it is in the subset.
    """
    k, log_p, text = int(drawn["k"]), drawn["log_p"], str(drawn["method"])
    method = methods.name_of("SELECTORS", text)
    counts = np.bincount(labels)
    chance = np.full(len(labels), np.nan, np.float32)
    chance[(counts <= k)[labels]] = 1.0
    pad_to = int(counts[counts <= rank_one.CHAIN].max(initial=0))  # one program for all classes that are not large
    for c in _spread(np.argsort(-counts, kind="stable")[: (counts > k).sum()], _LAWS):
        members = np.flatnonzero(labels == c)
        if method == "uniform":
            chance[members] = k / len(members)
        elif method in selectors.EXACT:  # the others have no law that could be written down
            power = methods.bracketed(text, "retrain.method").get("scale_power", int(drawn["scale_power"]))
            scale = None if power == 1 else float(len(members)) ** -power
            law = ipdpp.inclusion_probabilities(None, k, log_probabilities=log_p[members], scale=scale, pad_to=pad_to)
            chance[members] = np.asarray(law)
    chosen = np.zeros(len(labels), bool)
    chosen[drawn["indices"]] = True
    title = methods.title("SELECTORS", method)
    about = {"k": k, "method": text, "title": title}
    return {"labels": labels, "log_p": log_p, "chosen": chosen, "inclusion": chance, **about}


def thumbnails(drawn: dict[str, np.ndarray], split: data.Split) -> dict[str, Any]:
    """Some images of some classes: images (n, s, s, 3) uint8, labels, chosen, log_p and positions (n,).

    Classes from the largest to the smallest; of each those that were chosen, then those that were not, each from the
    hardest to the easiest.
    """
    counts = np.bincount(split.labels)
    chosen = np.zeros(len(split.labels), bool)
    chosen[drawn["indices"]] = True
    positions: list[int] = []
    for c in _spread(np.argsort(-counts, kind="stable")[: (counts > 0).sum()], _CLASSES):
        for is_chosen in (True, False):
            members = np.flatnonzero((split.labels == c) & (chosen == is_chosen))
            positions += _spread(members[np.argsort(drawn["log_p"][members], kind="stable")], _IMAGES).tolist()
    where = np.array(positions, np.int64)
    return {
        "images": np.stack([_small(_pixels(split, position)) for position in positions]),
        "labels": split.labels[where],
        "chosen": chosen[where],
        "log_p": drawn["log_p"][where],
        "positions": where,
    }


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the items, evenly spaced, first and last among them."""
    return items[np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))] if len(items) else items


def _pixels(split: data.Split, position: int) -> np.ndarray:
    if split.in_memory:
        return split.images[position]
    return split.images.views(int(position), decode.centre_box)[0]


def _small(pixels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(pixels)
    if max(picture.size) > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(picture)
