"""`--stage=export`: writes the classifier of a finished run as one file that JAX can call for any batch size.

Reading the file needs jax and flatbuffers.
"""

import jax
import numpy as np
from etils import epath
from jax import export

from lt_jax.core import errors, extras, files, log
from lt_jax.serve import classifier

PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4  # allowed difference of a probability between the network and its exported copy
_BATCHES = (1, 3, 8)  # batch sizes on which the two are compared


def run(workdir: epath.Path, method: str = "", tau: float = 0.0) -> None:
    """Writes `export/classifier.jax` and `export/classifier.json`, reads them back and compares the predictions.

    Args:
      workdir: of the run.
      method, tau: as for `lt_jax.load`.

    Raises:
      BadInput: the run is not finished, or flatbuffers is not installed.
      RunFailed: the exported copy predicts other probabilities; it is removed.
    """
    extras.load("flatbuffers", "export", "--stage=export: writing the file")
    model = classifier.load(workdir, method, tau)
    folder = workdir / "export"
    files.write_bytes(folder / "classifier.jax", serialised(model))
    about = {
        "method": model.method,
        "tau": tau,
        "class_names": model.class_names,
        "image_shape": model.image_shape,
        "platforms": PLATFORMS,
    }
    files.write_json(folder / "classifier.json", about)
    largest_difference = difference(model, (folder / "classifier.jax").read_bytes())
    if not largest_difference <= _TOLERANCE:
        folder.rmtree()
        raise errors.RunFailed(
            f"export: probabilities of the loaded copy are off by up to {largest_difference:.2g}, "
            f"{_TOLERANCE:g} is allowed; the copy is removed"
        )
    log.say(f"{folder / 'classifier.jax'} matches the network to within {largest_difference:.1g}")


def serialised(model: classifier.Classifier) -> bytes:
    """The serialised function from uint8 (b, h, w, c) to probabilities (b, C), for any b; includes the weights."""
    (b,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, *model.image_shape), np.uint8)
    return bytes(export.export(jax.jit(model.probabilities), platforms=PLATFORMS)(images).serialize())


def difference(model: classifier.Classifier, content: bytes) -> float:
    """Largest difference of a probability between model and copy, on generated images in several batch sizes."""
    copy = export.deserialize(bytearray(content))
    generator = np.random.default_rng(0)
    differences = []
    for size in _BATCHES:
        images = generator.integers(0, 256, (size, *model.image_shape), np.uint8)
        differences.append(np.abs(np.asarray(copy.call(images)) - model.predict(images)).max())
    return float(np.max(differences))
