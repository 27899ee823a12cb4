"""Long-tailed image recognition in JAX. See README.md."""

__version__ = "0.1.0"


def load(workdir):
    """The classifier of a finished run: `predict(images) -> probabilities (n, C)` and `class_names`.

    Args:
      workdir: what --workdir named, also in a bucket. The training data are not needed.

    Raises:
      BadInput: there is no finished run.
    """
    from lt_jax.serve import classifier  # here, so that importing lt_jax waits for nothing

    return classifier.load(workdir)
