"""The long-tail protocol: class counts, the canonical subset, shot groups.

The subset recipe is from LDAM-DRW (Cao et al., NeurIPS 2019) and used by most later papers on CIFAR-LT; the thresholds
of the shot groups are from OLTR (Liu et al., CVPR 2019).
"""

import numpy as np

from lt_jax.core import errors


def exponential_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Counts (C,): `int(largest * (1 / imbalance_factor) ** (c / (C - 1)))` for class c, TRUNCATED."""
    if num_classes == 1:
        return np.array([largest])
    ratio = 1.0 / imbalance_factor
    return np.array([int(largest * ratio ** (c / (num_classes - 1.0))) for c in range(num_classes)])


def step_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Counts (C,): `largest` for the first half of the classes, `int(largest / imbalance_factor)` for the others."""
    counts = np.full(num_classes, int(largest * (1.0 / imbalance_factor)))
    counts[: num_classes // 2] = largest
    return counts


def pareto_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Counts (C,) of a power law: `int(largest * (c + 1) ** -a)`; the last class has `largest / imbalance_factor`.

    They fall faster than the exponential profile at first and slower later (a Pareto tail, as in OLTR).
    """
    if num_classes == 1:
        return np.array([largest])
    power = np.log(imbalance_factor) / np.log(num_classes)
    # Rounding errors must not truncate the last count to one less than largest / imbalance_factor.
    return np.array([int(largest * (c + 1.0) ** -power + 1e-9) for c in range(num_classes)])


PROFILES = ("all", "counts", "exponential", "step", "pareto")


def counts(
    profile: str,
    largest: int,
    num_classes: int,
    imbalance_factor: float,
    labels: np.ndarray,
    explicit_counts: tuple[int, ...] = (),
) -> np.ndarray:
    """Counts (C,) of the profile in `config.data`; `labels` are those of the whole training set."""
    if profile == "all":
        return np.bincount(labels, minlength=num_classes)
    if profile == "counts":
        if len(explicit_counts) != num_classes or min(explicit_counts) < 0:
            raise errors.BadInput(
                f"config.data.counts: expected {num_classes} numbers from 0, found {len(explicit_counts)}"
            )
        return np.array(explicit_counts)
    profiles = {"exponential": exponential_counts, "step": step_counts, "pareto": pareto_counts}
    if profile not in profiles:
        raise errors.BadInput(f"config.data.profile: expected one of {', '.join(PROFILES)}, found {profile!r}")
    return profiles[profile](largest, num_classes, imbalance_factor)


def canonical_indices(labels: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Positions of the canonical subset: one generator shuffles class by class, the first `counts[c]` are taken.

    Args:
      labels: (N,) in the order of the original files; another order gives other images.
      counts: (C,) number of images to take of each class.

    Returns:
      (sum of counts,) positions in recipe order: class 0 first, NOT sorted.

    Raises:
      BadInput: a class has fewer images than requested.
    """
    generator = np.random.RandomState(seed)
    chosen = []
    for c, count in enumerate(counts):
        positions = np.where(labels == c)[0]
        if len(positions) < count:
            raise errors.BadInput(f"class {c} has {len(positions)} images, but {count} are requested")
        generator.shuffle(positions)
        chosen.append(positions[:count])
    return np.concatenate(chosen)


def shot_groups(counts: np.ndarray, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Boolean masks over classes by TRAINING counts: many > `many`, few < `few`, medium between, both ends included."""
    counts = np.asarray(counts)
    return {"many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few}
