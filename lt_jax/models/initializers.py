"""PyTorch's default initialisation of convolutions and linear layers, as an alternative to ours."""

import zlib
from typing import Any

import jax


def torch_default(key: jax.Array, params: Any) -> Any:
    """`params` with kernels and biases drawn as in torch.nn.Conv2d and torch.nn.Linear.

    Both are uniform in +-1/sqrt(fan_in) (`kaiming_uniform_` with a = sqrt(5)): a standard deviation of
    1/sqrt(3 fan_in), 1/2.45 of He initialisation if fan-in and fan-out are equal. Parameters of norms are unchanged.

    Args:
      key: rng key, folded with the path of each parameter.
      params: a tree of Flax parameters; kernels are (..., in, out).
    """

    def draw(path, value):
        last = str(path[-1].key)
        kernel = _kernel_of(params, path[:-1])
        if last not in ("kernel", "bias") or kernel is None:
            return value
        bound = (kernel.size // kernel.shape[-1]) ** -0.5
        name = zlib.crc32("/".join(str(entry.key) for entry in path).encode())
        return jax.random.uniform(jax.random.fold_in(key, name), value.shape, value.dtype, -bound, bound)

    return jax.tree_util.tree_map_with_path(draw, params)


def _kernel_of(params: Any, path: Any) -> Any:
    """The kernel of the layer at this path; None if it has none, like a norm."""
    for entry in path:
        params = params[entry.key]
    return params.get("kernel")
