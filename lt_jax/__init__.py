"""Long-tailed image recognition in JAX. See README.md."""

__version__ = "0.2.0"


def load(workdir, method=None, tau=None):
    """The classifier of a finished run: `predict(images) -> probabilities (n, C)` and `class_names`.

    Args:
      workdir: what --workdir named, also in a bucket. The training data are not needed.
      method: one of the methods in result.json; None is the selected one: the first within one standard error of the
        best on validation images, or the final one of a run without any.
      tau: moves the answers between frequent classes (below 0) and rare ones (above 0), by post-hoc logit adjustment.

    Raises:
      BadInput: there is no finished run, or it has no such method.
    """
    from lt_jax.serve import classifier  # here, so that importing lt_jax waits for nothing

    return classifier.load(workdir, method, tau)
