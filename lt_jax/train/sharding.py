"""The only NamedSharding of the project: one mesh axis, over which the batch is split, and the state where asked."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lt_jax.core import errors

AXIS = "data"
_SMALL = 1024  # an array of fewer numbers is never split: to gather it costs more than to keep it


def mesh(batch_size: int) -> jax.sharding.Mesh:
    """As many devices of each process as divide the global batch; each process holds contiguous rows.

    A batch of 12 on 8 devices runs on 6 of them when there is one process.

    Raises:
      BadInput: the batch cannot be split over the processes.
    """
    hosts = jax.process_count()
    if batch_size % hosts:
        raise errors.BadInput(f"a global batch of {batch_size} cannot be split over {hosts} processes")
    each = next(d for d in range(jax.local_device_count(), 0, -1) if batch_size % (hosts * d) == 0)
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    devices = np.array(ordered).reshape(hosts, -1)[:, :each].reshape(-1)
    return jax.sharding.Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def divisible(batch_size: int) -> int:
    """The batch size, or the next one that can be split over the processes: for passes that mask what is too much."""
    return -(-batch_size // jax.process_count()) * jax.process_count()


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: jax.sharding.Mesh, axis: int = 0) -> NamedSharding:
    """One axis is split."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def per_device(function: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """`function(*arrays)` on each device's rows of the arrays, with collectives over AXIS inside."""
    split = PartitionSpec(AXIS)
    return jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split)


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Every device gets all of it; every process holds the same."""
    everywhere = replicated(mesh)
    return _put(tree, jax.tree.map(lambda _: everywhere, tree))


def put_state(tree: Any, mesh: jax.sharding.Mesh, split: bool = False) -> Any:
    """Every device gets all of it or, with `split`, its part of each large array; every process holds the same.

    A split array is cut along the largest axis that the devices divide. Whole copies of it on a device are deleted:
    whoever made the state still names it.
    """
    if not split:
        return put_replicated(tree, mesh)
    placed = _put(tree, jax.tree.map(lambda x: _part(x, mesh), tree))
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True):
        if isinstance(before, jax.Array) and not after.is_fully_replicated and before.sharding != after.sharding:
            before.delete()
    return placed


def held(tree: Any) -> float:
    """The share of its bytes that one device holds."""
    arrays = jax.tree.leaves(tree)
    return sum(x.addressable_shards[0].data.nbytes for x in arrays) / sum(x.nbytes for x in arrays)


def _part(array: Any, mesh: Any) -> Any:
    shape = np.shape(array)
    fitting = [(size, axis) for axis, size in enumerate(shape) if size % mesh.size == 0]
    if mesh.size == 1 or math.prod(shape) < _SMALL or not fitting:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * max(fitting)[1], AXIS))


def _put(tree: Any, shardings: Any) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    # device_put would gather every array from all processes, to compare them.
    whole = jax.tree.map(fetch, tree)
    return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]), whole, shardings)


def fetch(array: Any) -> np.ndarray:
    """All of an array that may be split over the devices, in every process."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def host() -> dict[str, Any]:
    """Which of how many processes this is."""
    return {"host": jax.process_index(), "hosts": jax.process_count()}


def put_batch(tree: Any, mesh: jax.sharding.Mesh, is_local: bool = False, axis: int = 0) -> Any:
    """Host arrays -> global arrays split over the mesh along an axis.

    Every process holds them whole or, with `is_local`, its own rows.
    """
    sharding = batched(mesh, axis)
    if is_local:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), tree)
