"""The report page of a run. Reads only the files of the work directory and does not import JAX."""

from lt_jax.report.page import run

__all__ = ["run"]
