"""Settings of this process that change no number: where compiled programs are kept, and freed memory."""

import os
from typing import Any

import jax

from lt_jax.core import allocator


def prepare(config: Any) -> None:
    """Applies `config.host` once JAX may start; a compile cache that is set already stays."""
    if config.compile_cache and not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compile_cache))
        # Small programs too: together they take more than a second of each start.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if config.keep_memory and jax.default_backend() == "cpu":
        allocator.keep_freed_memory()
