"""Every program of a run lowers for TPU and CUDA on a machine that has neither: the cheapest guard for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from configs import common, digits_lt, dlsa_digits
from lt_jax import ipdpp, losses, methods, models, optim
from lt_jax.dlsa import batches, filter, objective
from lt_jax.dlsa import flow as flows
from lt_jax.models import projectors
from lt_jax.train import mixed_steps, sharding, state, steps

PLATFORMS = ("tpu", "cuda")
CLASSES, IMAGES, BATCH = 10, 64, 16


def lower(function, *arguments):
    """The program of a function for the accelerators, with the devices of a mesh where arguments are on one."""
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    assert "stablehlo." in exported.mlir_module()
    return exported


def held():
    """What a step reads besides its batch."""
    images = np.zeros((IMAGES, 16, 16, 3), np.uint8)
    labels = (np.arange(IMAGES) % CLASSES).astype(np.int32)
    classes = losses.Classes.of(np.bincount(labels))
    return {"images": images, "labels": labels, "classes": classes, "key": np.zeros(2, np.uint32)}


def training(network, settings, objective=None, beside=None):
    """(optimizer, abstract state) of a network, with an objective of embeddings of width 8 and modules beside it."""
    optimizer = optim.create(settings, 4, IMAGES)

    def create():
        variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
        own, memory = objective.start(jax.random.key(0), CLASSES, 8) if objective else ({}, None)
        params = {"objective": own} if own else {}
        for name, module in (beside or {}).items():
            width = 8 if name == "predictor" else 16
            params[name] = module.init(jax.random.key(0), jnp.zeros((1, width)))["params"]
        variables = {**variables, "params": {**variables["params"], **params}}
        return state.create(variables, optimizer, memory=memory)

    return optimizer, jax.eval_shape(create)


def settings_of(stage, augments=False, **changes):
    """The settings of a stage; with `augments` every kind of augmentation is on, which is most of a program's text."""
    block = digits_lt.get_config("smoke")[stage]
    every = {"policy": "trivial", "cutout": 0.5, "blur": True, "pad": 2}
    none = {"crop_scale": 1.0, "strength": 0.0, "grey": 0.0, "blur": False}
    block.augment.update(every if augments else none)
    block.update(changes)
    return block


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.CONTRASTIVE)
def test_pretraining(name):
    settings = settings_of("pretrain")
    network = models.contrastive(common.encoder("resnet_small", 4), (16, 8), "bfloat16")
    optimizer, current = training(network, settings, methods.CONTRASTIVE[name])
    step = steps.pretrain(network, optimizer, methods.CONTRASTIVE[name], settings.augment)
    lower(step, current, held(), np.zeros((BATCH, 2), np.int32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bns", "paco", "proco"])
def test_joint_training(name):
    settings, objective_of = settings_of("baseline"), methods.CONTRASTIVE[name]
    encoder = common.encoder("resnet_small", 4)
    network, projector = models.classifier(encoder, CLASSES, "bfloat16"), models.contrastive(encoder, (8,), "bfloat16")
    optimizer, current = training(network, settings, objective_of, {"projector": projector.head})
    contrast = steps.Contrast(objective_of, projector.head, 0.5, settings.contrastive_augment)
    mix = methods.MIXES["mixup"]
    step = steps.joint(network, optimizer, settings.augment, losses.logit_adjustment, mix, contrast)
    lower(step, current, held(), np.zeros((BATCH, 2 + objective_of.partners), np.int32))


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.SUPERVISED)
def test_supervised_training(name):
    settings = settings_of("baseline", optimizer="sgd", ema=0.99, clip_norm=1.0)
    network = models.classifier(common.encoder("resnet_small", 4), CLASSES, "bfloat16")
    optimizer, current = training(network, settings)
    loss = methods.SUPERVISED[name]
    lower(steps.classify(network, optimizer, settings.augment, loss), current, held(), np.zeros(BATCH, np.int32))


@pytest.mark.slow
def test_experts():
    settings = settings_of("baseline")
    network = models.classifier(common.encoder("resnet_small", 4), CLASSES, "bfloat16", "cosine", experts=3)
    optimizer, current = training(network, settings)
    loss = functools.partial(losses.ride, loss=losses.ldam, diversity=0.45)
    step = steps.classify(network, optimizer, settings.augment, loss, method="each")
    lower(step, current, held(), np.zeros(BATCH, np.int32))


@pytest.mark.slow
def test_consistent_training():
    settings, encoder = settings_of("baseline"), common.encoder("resnet_small", 4)
    network = models.classifier(encoder, CLASSES, "bfloat16")
    modules = {"projector": projectors.Projector((8,)), "predictor": projectors.Projector((8,))}
    optimizer, current = training(network, settings, beside={**modules, "plain_head": network.head})
    parts = mixed_steps.Consistency({**modules, "plain_head": network.head}, 10.0, 100)
    step = mixed_steps.consistent(network, optimizer, settings.augment, parts)
    lower(step, current, held(), np.zeros((BATCH, 1), np.int32))


@pytest.mark.slow
def test_tripartite_training():
    settings, encoder = settings_of("baseline"), common.encoder("resnet_small", 4)
    network, projector = models.classifier(encoder, CLASSES, "bfloat16", "unit_kernel"), projectors.Projector((8,))
    optimizer, current = training(network, settings, beside={"projector": projector})
    current = current.replace(memory=jnp.zeros((CLASSES, 8)))
    loss = methods.entry("SUPERVISED", "sigmoid_bce(negatives=0.4)", "baseline.loss")
    parts = mixed_steps.Tripartite(projector, loss, 0.1, 1.0, first_epoch=2)
    lower(
        mixed_steps.tripartite(network, optimizer, settings.augment, parts), current, held(), np.zeros(BATCH, np.int32)
    )


@pytest.mark.parametrize("name", ["cutmix", "remix"])
def test_mixed_images_in_accumulated_parts(name):
    settings = settings_of("baseline", augments=True)
    network = models.classifier(common.encoder("resnet_small", 4), CLASSES, "float32")
    optimizer, current = training(network, settings)
    step = steps.classify(network, optimizer, settings.augment, mix=methods.MIXES[name], accumulate=4)
    lower(step, current, held(), np.zeros(BATCH, np.int32))


FAMILIES = (
    "resnet32",
    "resnet50",
    "resnext50",
    "vit_small",
    "dinov2_small_registers",
    "convnext_tiny",
    "clip_base32",
    "efficientnet_lite0",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_encoders(name):
    network = models.classifier(common.encoder(name, 64), CLASSES, "bfloat16")
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    lower(steps.infer(network), variables, np.zeros((4, 32, 32, 3), np.uint8))


def test_pretraining_by_the_ring_on_eight_devices():
    settings = settings_of("pretrain", augments=True)
    network = models.contrastive(common.encoder("resnet_small", 4), (16, 8), "float32")
    optimizer, current = training(network, settings)
    objective_of = methods.entry("CONTRASTIVE", "bns(ring=True)", "pretrain.loss")
    mesh = sharding.mesh(BATCH)
    assert mesh.size == 8
    arguments = sharding.put_replicated((jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), current), held()), mesh)
    batch = sharding.put_batch(np.zeros((BATCH, 2), np.int32), mesh)
    exported = lower(steps.pretrain(network, optimizer, objective_of, settings.augment), *arguments, batch)
    assert exported.nr_devices == 8
    assert "stablehlo.collective_permute" in exported.mlir_module()


@pytest.mark.parametrize("method", ["rank_one", "eigen"])
@pytest.mark.parametrize("n", [12, 100])
def test_sampler(method, n):
    lower(lambda key, p: ipdpp.sample(key, p, 5, method=method), jax.random.key(0), np.full(n, 0.5, np.float32))


def test_flow_filter():
    config = dlsa_digits.get_config().dlsa.filter
    flow = flows.create(jax.random.key(0), 6, config.clusters, config.blocks, config.centre_deviation)
    carry = objective.start(jax.random.key(1), flow, config.clusters)
    scaled = (np.zeros(6, np.float32), np.ones(6, np.float32), None)
    constants = {"centres": flow.centres, "scaling": scaled, "weights": np.full(CLASSES, 0.1, np.float32)}
    pieces = (np.zeros((3, 2 * BATCH, 6), np.float32).reshape(3, BATCH, 2, 6), np.zeros((3, BATCH), np.int64))
    lower(batches.compiled_scan(objective.step, objective.static(config)), carry, constants, pieces)
    fitted = filter.FlowFilter(flow, *scaled[:2], np.zeros((config.clusters, CLASSES), np.float32))
    lower(lambda fitted, x: fitted(x), fitted, np.zeros((4, 6), np.float32))


def test_lowering_fails_for_what_an_accelerator_lacks():
    with pytest.raises(Exception, match="callback|platform|lower"):
        lower(functools.partial(jax.scipy.linalg.schur, output="real"), np.eye(3, dtype=np.float32))
