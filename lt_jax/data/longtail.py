"""The long-tail protocol: class counts, the canonical subset, shot groups.

The recipe is the one of LDAM-DRW (Cao et al., NeurIPS 2019), used by almost every later paper on CIFAR-LT; the
thresholds of the shot groups are those of OLTR (Liu et al., CVPR 2019).
"""

import numpy as np

from lt_jax.core import errors


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


def pareto_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """A power law: class c gets `int(largest * (c + 1) ** -a)`, a such that the last gets 1 / imbalance_factor.

    -> (C,) ints. It falls faster than the exponential profile at first and slower later (a Pareto tail, as in OLTR).
    """
    if num_classes == 1:
        return np.array([largest])
    power = np.log(imbalance_factor) / np.log(num_classes)
    # The last count is largest / imbalance_factor but for rounding; it must not be truncated to one less.
    return np.array([int(largest * (c + 1.0) ** -power + 1e-9) for c in range(num_classes)])


PROFILES = ("all", "counts", "exponential", "step", "pareto")


def counts(
    profile: str,
    largest: int,
    num_classes: int,
    imbalance_factor: float,
    labels: np.ndarray,
    given: tuple[int, ...] = (),
) -> np.ndarray:
    """The counts (C,) that `config.data` asks for; `labels` are those of the whole training set."""
    if profile == "all":
        return np.bincount(labels, minlength=num_classes)
    if profile == "counts":
        if len(given) != num_classes or min(given) < 0:
            raise errors.BadInput(f"config.data.counts: expected {num_classes} numbers from 0, found {len(given)}")
        return np.array(given)
    profiles = {"exponential": exponential_counts, "step": step_counts, "pareto": pareto_counts}
    if profile not in profiles:
        raise errors.BadInput(f"config.data.profile: expected one of {', '.join(PROFILES)}, found {profile!r}")
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
