"""Functions from features to logits, defined by parameters and a kind.

    logits = A x + B [x ; help]        help = P(class | cluster of x), if there are clusters

linear            A x = x a; one bias for the sum
cosine            A x = s cos(x, a) with a learnt scale s; one bias for the sum
cosine_released   A x = 16 x/(1 + |x|) . a/|a|: fixed scale, no bias

With hidden units, A and B each have their own ReLU layer before them.

Source: the released code of arXiv 2208.02567.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lt_jax import losses
from lt_jax.core import errors
from lt_jax.dlsa import scaling

KINDS = ("linear", "cosine", "cosine_released")
_SCALE = 16.0  # scale of a cosine: initial value if learnt, fixed in the released form


def raw_logits(params: dict[str, jax.Array], x: jax.Array, help: jax.Array | None, kind: str) -> jax.Array:
    """Logits A x + B [x ; help], (B, C), of x (B, D) and help (B, C) or None."""
    wide = x if help is None else jnp.concatenate([x, help], axis=1)
    if "hidden_a" in params:
        x, wide = (_hidden(params, name, inputs) for name, inputs in (("hidden_a", x), ("hidden_b", wide)))
    if kind == "linear":
        return _product(x, params["a"]) + _product(wide, params["b"]) + params["bias"][None, :]
    if kind == "cosine":
        return params["scale"] * (_cosine(x, params["a"]) + _cosine(wide, params["b"])) + params["bias"][None, :]
    return _SCALE * (_squashed_cosine(x, params["a"]) + _squashed_cosine(wide, params["b"]))


def create(key: jax.Array, width: int, classes: int, helped: bool, kind: str, hidden: int = 0) -> dict[str, jax.Array]:
    """New parameters: weights uniform in +-1/sqrt(number of inputs), biases 0."""
    k_a, k_b, k_hidden_a, k_hidden_b = jax.random.split(key, 4)
    inputs_a = width
    inputs_b = width + classes * helped
    params = {}
    if hidden:
        params = {
            "hidden_a": _uniform(k_hidden_a, inputs_a, hidden), "hidden_a_bias": jnp.zeros(hidden),
            "hidden_b": _uniform(k_hidden_b, inputs_b, hidden), "hidden_b_bias": jnp.zeros(hidden),
        }  # fmt: skip
        inputs_a = inputs_b = hidden
    params |= {"a": _uniform(k_a, inputs_a, classes), "b": _uniform(k_b, inputs_b, classes)}
    if kind != "cosine_released":
        params["bias"] = jnp.zeros(classes)
    return {**params, "scale": jnp.asarray(_SCALE)} if kind == "cosine" else params


def start_from(
    params: dict[str, jax.Array], head: dict[str, Any], scaled: scaling.Scaling, kind: str
) -> dict[str, jax.Array]:
    """The parameters with A taken from a trained linear head on the unscaled features; B stays random.

    A linear classifier also takes the bias; a cosine classifier uses only the directions of the columns.

    Args:
      head: kernel (D, C) and bias (C,).

    Raises:
      BadInput: the head has another shape, or the classifier has hidden units or unit-length rows.
    """
    mean, deviation, unit = scaled
    shape = (len(mean), params["a"].shape[1])
    if "hidden_a" in params:
        raise errors.BadInput("config.dlsa.classifier.hidden: expected 0 with a classifier that starts from a head")
    if unit is not None:
        raise errors.BadInput(
            "config.dlsa.classifier.standardise: expected coordinates or none with a classifier that starts from a "
            "head, found a form that changes the length of items"
        )
    if jnp.shape(head["kernel"]) != shape or jnp.shape(head["bias"]) != shape[1:]:
        raise errors.BadInput(
            f"initial: expected kernel {shape} and bias {shape[1:]}, found {jnp.shape(head['kernel'])} and "
            f"{jnp.shape(head['bias'])}"
        )
    kernel, bias = scaling.of_raw(head, mean, deviation)
    return {**params, "a": kernel, **({"bias": bias} if kind == "linear" else {})}


def _hidden(params: dict[str, Any], name: str, x: jax.Array) -> jax.Array:
    return jax.nn.relu(_product(x, params[name]) + params[f"{name}_bias"][None, :])


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x, kernel, precision=losses.PRECISION)


def _cosine(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _product(x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6), _directions(kernel))


def _squashed_cosine(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x/(1 + |x|) . w/|w|: close to the cosine for long x, close to 0 for short x."""
    length = jnp.sqrt(jnp.maximum((x**2).sum(axis=1, keepdims=True), 1e-24))  # keeps the gradient finite at x = 0
    return _product(x / (1.0 + length), _directions(kernel))


def _directions(kernel: jax.Array) -> jax.Array:
    return kernel / jnp.maximum(jnp.linalg.norm(kernel, axis=0), 1e-6)[None, :]


def _uniform(key: jax.Array, inputs: int, outputs: int) -> jax.Array:
    return jax.random.uniform(key, (inputs, outputs), minval=-(inputs**-0.5), maxval=inputs**-0.5)
