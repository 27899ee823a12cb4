"""The state of a training run, one frozen pytree, and its named streams of random numbers.

Parameters that are trained beside the network have names of their own in `params`: see `BESIDE`.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

ALL = ("all",)  # every parameter is trained
# Trained with the network and saved with it, but no part of it: those of an objective, and modules beside its head.
BESIDE = ("objective", "projector", "predictor", "plain_head")


class TrainState(flax.struct.PyTreeNode):
    """`params` are trained; `frozen` are parameters that are used and stay as they are."""

    step: jax.Array  # () int32, steps done
    params: Any
    frozen: Any
    batch_stats: Any
    opt_state: Any
    bad_step: jax.Array  # () int32, the first step whose loss or gradient was not finite; -1 = none
    memory: Any = None  # what an objective carries from step to step
    average: Any = None  # moving average {"params", "batch_stats"}, where ema_decay > 0
    ema_decay: float = flax.struct.field(pytree_node=False, default=0.0)

    def variables(self) -> dict[str, Any]:
        """The variables being trained, as `network.apply` takes them."""
        return {"params": _merged(self.frozen, self.params), "batch_stats": self.batch_stats}

    def averaged(self) -> dict[str, Any]:
        """The variables to evaluate and save: the moving average where there is one, else those being trained."""
        if self.average is None:
            return self.variables()
        params = _merged(self.frozen, self.average["params"])
        return {"params": params, "batch_stats": self.average["batch_stats"]}


def create(
    variables: dict[str, Any],
    tx: optax.GradientTransformation,
    trainable: Sequence[str] = ALL,
    ema_decay: float = 0.0,
    memory: Any = None,
) -> TrainState:
    """A fresh state of `variables`.

    Args:
      variables: {"params", "batch_stats"}.
      tx: the optimizer.
      trainable: the parameters that are trained, all others are frozen: names as "head", parts as "encoder/stage4".
      ema_decay: of the moving average; 0 = none.
      memory: what an objective carries from step to step.
    """
    trained, frozen = _split(variables["params"], trainable)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        frozen=frozen,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(tx.init)(trained),  # one program, not one for each shape
        bad_step=jnp.full((), -1, jnp.int32),
        memory=_copy(memory),
        average=_copy({"params": trained, "batch_stats": variables.get("batch_stats", {})}) if ema_decay else None,
        ema_decay=ema_decay,
    )


def _split(params: dict[str, Any], trainable: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the parameters that are trained, those that are frozen)."""
    trained, frozen = {}, {}
    for name, value in params.items():
        parts = [path.partition("/")[2] for path in trainable if path.startswith(f"{name}/")]
        if tuple(trainable) == ALL or name in trainable:
            trained[name] = value
        elif parts:
            trained[name] = {part: value[part] for part in parts}
            frozen[name] = {part: x for part, x in value.items() if part not in parts}
        else:
            frozen[name] = value
    return trained, frozen


def _merged(frozen: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """The parameters that `_split` has split."""
    shared = {name: {**frozen[name], **trained[name]} for name in frozen if name in trained}
    return {**frozen, **trained, **shared}


def part_like(params: Any, like: Any) -> Any:
    """The parameters with the names of `like`, a part of the same tree."""
    return {name: part_like(params[name], x) for name, x in like.items()} if isinstance(like, dict) else params


def of_network(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables without the parameters in `BESIDE`, which evaluation does not need."""
    params = {name: value for name, value in variables["params"].items() if name not in BESIDE}
    return {**variables, "params": params}


def _copy(tree: Any) -> Any:
    """Arrays of their own: a step donates its state, and a donated buffer must not occur twice."""
    return jax.tree.map(jnp.array, tree)


def moved_average(current: TrainState, params: Any, batch_stats: Any) -> Any:
    """The moving average after a step that has led to these values; None where there is none.

    The decay is min(ema_decay, (1 + step) / (10 + step)), so that the first steps do not weigh too much.
    """
    if current.average is None:
        return None
    step = current.step.astype(jnp.float32)
    decay = jnp.minimum(current.ema_decay, (1.0 + step) / (10.0 + step))
    new = {"params": params, "batch_stats": batch_stats}
    return optax.incremental_update(new, current.average, 1.0 - decay)


def stream(seed: int, name: str) -> jax.Array:
    """The key of a named stream. Fold the step in where it is used; nothing depends on the steps before."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def number(seed: int, name: str) -> int:
    """A seed below 2**31 of the same stream, for libraries that want a number."""
    return zlib.crc32(f"{name}/{seed}".encode()) & 0x7FFFFFFF
