"""Stage `features`: features of all images on disk, which heads and DLSA are fitted on."""

from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import errors, files
from lt_jax.stages import experiment as experiments
from lt_jax.stages import probe
from lt_jax.train import cache

MIRRORED = "train_mirrored"  # features of the mirrored training images, of `config.encoder.flips`


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `features/{train,test,validation}.*.npy`.

    They are features of your own, or those of the encoder that `is_frozen` describes, or those of the pretrained one.

    Raises:
      BadInput: there is no finished pretraining, or the weights are not those of this encoder.
    """
    config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
    if len(dataset.image_shape) == 1:  # features
        for name, split in {"train": dataset.train, **dataset.evaluated}.items():
            files.write_npy(workdir / "features" / f"{name}.features.npy", split.images)
            files.write_npy(workdir / "features" / f"{name}.labels.npy", split.labels)
    elif is_frozen(config):
        _frozen(experiment)
    else:
        measures = probe.plain(experiment, experiment.encoder())
        files.write_json(workdir / "probe.json", probe.by_split({"plain": measures, "official": None}))
    return {}


def is_frozen(config: Any) -> bool:
    """Whether the features are those of the encoder as it was loaded: there are weights, and no pretraining."""
    has_weights = bool("encoder" in config and config.encoder.weights)
    return has_weights and "features" in config.stages and not config.init_from and "pretrain" not in config.stages


def has_mirrored(config: Any) -> bool:
    """Whether there are features of the mirrored training images too."""
    return is_frozen(config) and bool(config.encoder.get("flips"))


def _frozen(experiment: experiments.Experiment) -> None:
    """Writes features of the encoder as it was loaded; what is on disk already of the same input is used."""
    config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
    variables = experiment.initial(experiment.network, "features", config.encoder.weights)
    files.write_npz(_encoder_file(workdir), **_flat(experiments.encoder_of(variables)))
    digests = files.read_json(workdir / "run.json")["data"]
    names = {name: name for name in ("train", *dataset.evaluated)}  # of the features -> the split that they are of
    if has_mirrored(config):
        names[MIRRORED] = "train"
    for name, split_name in names.items():
        split = getattr(dataset, split_name)
        view = ("whole" if split.in_memory else "centre") + (", mirrored" if name == MIRRORED else "")
        extractor = experiment.extract_mirrored if name == MIRRORED else experiment.extract
        key = cache.key(config, dataset.image_shape, view, digests["splits"][split_name], digests["weights"])
        cache.features(workdir, name, key, extractor, variables, split.images)
        files.write_npy(workdir / "features" / f"{name}.labels.npy", split.labels)


def encoder(workdir: epath.Path) -> dict[str, Any]:
    """The frozen encoder of a run: {"params": {"encoder"}, "batch_stats": {"encoder"}}.

    Raises:
      BadInput: the stage was not run.
    """
    file = _encoder_file(workdir)
    if not file.exists():
        raise errors.BadInput(f"no {file}: run --stage=features first")
    tree: dict[str, Any] = {"params": {"encoder": {}}, "batch_stats": {"encoder": {}}}
    for path, value in files.read_npz(file).items():
        *above, last = path.split("/")
        at = tree
        for name in above:
            at = at.setdefault(name, {})
        at[last] = value
    return tree


def _encoder_file(workdir: epath.Path) -> epath.Path:
    return workdir / "features" / "encoder.npz"


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, np.ndarray]:
    """ "a/b/c" -> array of nested dictionaries."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{path}{name}/") if isinstance(value, dict) else {path + name: np.asarray(value)}
    return flat


def read(workdir: epath.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (memory-mapped where the disk is local) and labels of a split.

    Raises:
      BadInput: the run has none.
    """
    folder = workdir / "features"
    paths = [folder / f"{split}.{kind}.npy" for kind in ("features", "labels")]
    for path in paths:
        if not path.exists():
            raise errors.BadInput(f"no {path}: run --stage=features first")
    if "://" not in str(folder):
        features, labels = np.load(paths[0], mmap_mode="r"), np.load(paths[1])
    else:
        features, labels = (np.load(path.open("rb")) for path in paths)
    return (features.astype(np.float32) if features.dtype == np.float16 else features), labels


def check_same_data(dataset: Any, labels: np.ndarray, folder: epath.Path) -> None:
    """Raises BadInput where features with these labels are not those of the training images."""
    if len(labels) != len(dataset.train.labels) or (labels != dataset.train.labels).any():
        raise errors.BadInput(f"the features in {folder} are of other images than config.data describes")
