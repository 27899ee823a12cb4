"""The long-tail protocol: class counts, the canonical subset, shot groups.

The recipe is the one of LDAM-DRW (Cao et al., NeurIPS 2019), used by almost every later paper on CIFAR-LT; the
thresholds of the shot groups are those of OLTR (Liu et al., CVPR 2019).
"""

import numpy as np

from lt_jax import errors


def exponential_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Class c gets `int(largest * (1 / imbalance_factor) ** (c / (C - 1)))` images, TRUNCATED. -> (C,) ints."""
    if num_classes == 1:
        return np.array([largest])
    ratio = 1.0 / imbalance_factor
    return np.array([int(largest * ratio ** (c / (num_classes - 1.0))) for c in range(num_classes)])


def step_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """The first half of the classes gets `largest` images, the rest `int(largest / imbalance_factor)`. -> (C,) ints."""
    counts = np.full(num_classes, int(largest * (1.0 / imbalance_factor)))
    counts[: num_classes // 2] = largest
    return counts


def counts(profile: str, largest: int, num_classes: int, imbalance_factor: float, labels: np.ndarray) -> np.ndarray:
    """The counts (C,) that `config.data` asks for; `labels` are those of the whole training set."""
    if profile == "all":
        return np.bincount(labels, minlength=num_classes)
    profiles = {"exponential": exponential_counts, "step": step_counts}
    if profile not in profiles:
        raise errors.BadInput(f"config.data.profile: expected one of all, {', '.join(profiles)}, found {profile!r}")
    return profiles[profile](largest, num_classes, imbalance_factor)


def canonical_indices(labels: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """The canonical subset: one generator, class by class, positions shuffled, the first `counts[c]` taken.

    Args:
      labels: (N,) in the order of the original files; another order gives other images.
      counts: (C,) images wanted of each class.

    Returns:
      (sum of counts,) positions in recipe order: class 0 first, NOT sorted.

    Raises:
      BadInput: a class holds fewer images than wanted.
    """
    generator = np.random.RandomState(seed)
    chosen = []
    for c, count in enumerate(counts):
        positions = np.where(labels == c)[0]
        if len(positions) < count:
            raise errors.BadInput(f"class {c} holds {len(positions)} images, {count} are wanted of it")
        generator.shuffle(positions)
        chosen.append(positions[:count])
    return np.concatenate(chosen)


def shot_groups(counts: np.ndarray, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Boolean masks over classes by TRAINING counts: many > `many`, few < `few`, medium between, both ends included."""
    counts = np.asarray(counts)
    return {"many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few}
