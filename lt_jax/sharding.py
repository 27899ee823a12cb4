"""The only NamedSharding of the project: one mesh axis, over which the batch is split."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = "data"


def mesh(batch_size: int) -> jax.sharding.Mesh:
    """As many devices as divide the global batch, of all there are.

    Raises nothing: a batch of 12 on 8 devices runs on 6 of them when there is one process.
    """
    count = len(jax.devices())
    if jax.process_count() == 1:
        count = next(d for d in range(count, 0, -1) if batch_size % d == 0)
    devices = np.array(jax.devices()[:count])
    return jax.sharding.Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis is split."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def per_device(function: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """`function(*arrays)` on each device's rows of the arrays, with collectives over AXIS inside."""
    split = PartitionSpec(AXIS)
    return jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split)


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    return jax.device_put(tree, replicated(mesh))


def host() -> dict[str, int]:
    """Which of how many processes this is."""
    return {"host": jax.process_index(), "hosts": jax.process_count()}


def put_batch(tree: Any, mesh: jax.sharding.Mesh, is_local: bool = False) -> Any:
    """Host arrays -> global arrays split over the mesh; every process holds them whole or, `is_local`, its own rows."""
    sharding = batched(mesh)
    if is_local:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i, x=x: x[i]), tree)


def abstract(make: Callable[..., Any], *arguments: Any) -> Any:
    """Shapes, types and places of what `make(*arguments)` would give, without computing it: what a restore needs."""
    everywhere = replicated(mesh(len(jax.devices())))
    shapes = jax.eval_shape(make, *arguments)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes)
