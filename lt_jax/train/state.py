"""The state of a training run, one frozen pytree, and its named streams of random numbers."""

import zlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """`params` are trained; `frozen` are parameters that are used and stay as they are."""

    step: jax.Array  # () int32, steps done
    params: Any
    frozen: Any
    batch_stats: Any
    opt_state: Any
    bad_step: jax.Array  # () int32, the first step whose loss or gradient was not finite; -1 = none

    def variables(self) -> dict[str, Any]:
        """What flax wants."""
        return {"params": {**self.frozen, **self.params}, "batch_stats": self.batch_stats}


def create(variables: dict[str, Any], tx: optax.GradientTransformation, trainable: str = "all") -> TrainState:
    """A fresh state of `variables`; with trainable="head" all other parameters are frozen."""
    params = dict(variables["params"])
    trained = {name: value for name, value in params.items() if trainable == "all" or name == trainable}
    frozen = {name: value for name, value in params.items() if name not in trained}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        frozen=frozen,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(trained),
        bad_step=jnp.full((), -1, jnp.int32),
    )


def stream(seed: int, name: str) -> jax.Array:
    """The key of a named stream. Fold the step in where it is used; nothing depends on the steps before."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def number(seed: int, name: str) -> int:
    """A seed below 2**31 of the same stream, for libraries that want a number."""
    return zlib.crc32(f"{name}/{seed}".encode()) & 0x7FFFFFFF
