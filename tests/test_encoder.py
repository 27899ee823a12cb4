"""Encoders against their published definitions."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from lt_jax import encoder, errors


def options(name, width=64, stem_stride=1):
    return ml_collections.ConfigDict({"name": name, "width": width, "stem": "small", "stem_stride": stem_stride})


def shapes(name, width):
    network = encoder.build(options(name, width), "float32")
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "width", "parameters", "features"),
    [
        # torchvision's counts with a 3x3 stem instead of 7x7 and without the last layer: 11,689,512 - 513,000 - 7,680.
        ("resnet18", 64, 11_168_832, 512),
        ("resnet34", 64, 21_276_992, 512),  # 21,797,672 - 513,000 - 7,680
        ("resnet32", 16, 463_504, 64),  # 464,154 in the CIFAR experiments, less a last layer of 650
    ],
)
def test_parameter_counts(name, width, parameters, features):
    out, variables = shapes(name, width)
    assert out.shape == (2, features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


def test_unknown_name():
    with pytest.raises(errors.BadInput, match=r"config.encoder.name: expected one of .*resnet18.* found 'resnet19'"):
        encoder.build(options("resnet19"), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_networks_give_float32_and_unit_embeddings(dtype):
    network = encoder.contrastive(options("resnet_small", 4), (16, 8), dtype)
    variables = encoder.initialise(network, jax.random.key(0), (8, 8, 3))
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 3))
    out = jax.jit(network.apply)(variables, images)
    assert out.dtype == jnp.float32 and out.shape == (5, 8)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), 1.0, rtol=1e-5)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_initialise_is_what_flax_would_make():
    network = encoder.classifier(options("resnet_small", 4), 3, "float32")
    variables = encoder.initialise(network, jax.random.key(0), (8, 8, 3))
    whole = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda x: x.shape, whole)
    features = network.apply(variables, jnp.ones((2, 8, 8, 3)), method="features")
    assert features.shape == (2, 16)
