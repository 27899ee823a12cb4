"""`--stage=export`: the classifier of a finished run as one file that JAX with flatbuffers calls, for any batch."""

from typing import Any

import jax
import numpy as np
from etils import epath
from jax import export

from lt_jax.core import errors, extras, files, log
from lt_jax.serve import classifier

PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4  # of a probability, between the network and its exported copy
_BATCHES = (1, 3, 8)  # that the two are compared on


def run(config: Any, workdir: epath.Path) -> None:
    """Writes `export/classifier.jax` and `export/classifier.json`, reads them again and compares.

    Raises:
      BadInput: no finished run.
      RunFailed: the exported copy answers otherwise; it is removed.
    """
    extras.load("flatbuffers", "export", "--stage=export: writing the file")
    model = classifier.load(workdir)
    folder = workdir / "export"
    files.write_bytes(folder / "classifier.jax", serialised(model))
    about = {"class_names": model.class_names, "image_shape": model.image_shape, "platforms": PLATFORMS}
    files.write_json(folder / "classifier.json", about)
    apart = difference(model, (folder / "classifier.jax").read_bytes())
    if not apart <= _TOLERANCE:
        folder.rmtree()
        raise errors.RunFailed(
            f"export: probabilities of the loaded copy are off by up to {apart:.2g}, {_TOLERANCE:g} is allowed; "
            "the copy is removed"
        )
    log.say(f"{folder / 'classifier.jax'} answers as the network does, to {apart:.1g}")


def serialised(model: classifier.Classifier) -> bytes:
    """uint8 (b, h, w, c) -> probabilities (b, C), for any b, weights included."""
    (b,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, *model.image_shape), np.uint8)
    return bytes(export.export(jax.jit(model.probabilities), platforms=PLATFORMS)(images).serialize())


def difference(model: classifier.Classifier, content: bytes) -> float:
    """The largest difference of a probability on generated images, in batches of several sizes."""
    copy = export.deserialize(bytearray(content))
    generator = np.random.default_rng(0)
    found = []
    for size in _BATCHES:
        images = generator.integers(0, 256, (size, *model.image_shape), np.uint8)
        found.append(np.abs(np.asarray(copy.call(images)) - model.predict(images)).max())
    return float(np.max(found))
