"""Streams of decoded images: batches do not depend on the number of workers and hosts or on the first step."""

import io
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import batches, decode, stream
from lt_jax.sampling import orders, partners


@pytest.fixture(scope="module")
def dataset():
    config = common.data("folder", largest=0, imbalance_factor=1.0)
    config.update(profile="all", generated=3, image_size=16, workers=0)
    return data.load(config)


def feed(dataset, own_key=True, host=0, hosts=1, workers=0):
    images = dataset.train.images
    object.__setattr__(images, "workers", workers)
    order = partners.PartnerOrder(dataset.train.labels, 8, 1, seed=3)
    return batches.feed(dataset.train, order, 8, 5, 0.3, own_key=own_key, host=host, hosts=hosts)


@pytest.fixture(scope="module")
def first_five(dataset):
    with_no_worker = feed(dataset)
    first_batches = [with_no_worker(step) for step in range(5)]
    with_no_worker.close()
    return first_batches


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_shapes_and_labels(dataset, first_five):
    order = partners.PartnerOrder(dataset.train.labels, 8, 1, seed=3)
    for step, batch in enumerate(first_five):
        assert batch["images"].shape == (8, 3, 16, 16, 3) and batch["images"].dtype == np.uint8
        np.testing.assert_array_equal(batch["labels"], dataset.train.labels[order(step)[:, 0]])
        assert not np.array_equal(batch["images"][:, 0], batch["images"][:, 2])  # two crops of the anchor


def test_can_start_at_any_step(dataset, first_five):
    fed = feed(dataset)
    for step in (3, 4, 1, 2):
        assert same(fed(step), first_five[step])
    fed.close()


def test_workers_do_not_change_the_batches(dataset, first_five):
    fed = feed(dataset, workers=2)
    try:
        assert all(same(fed(step), first_five[step]) for step in (0, 1, 2, 3))
    finally:
        fed.close()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_split_the_same_global_batch(dataset, first_five, hosts):
    feeds = [feed(dataset, host=h, hosts=hosts) for h in range(hosts)]
    for step in (0, 1, 2):
        parts = [fed(step) for fed in feeds]
        assert all(len(part["labels"]) == 8 // hosts for part in parts)
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert same(whole, first_five[step])
    for fed in feeds:
        fed.close()


def test_hosts_must_divide_the_batch(dataset):
    with pytest.raises(errors.BadInput, match="batch of 8 cannot be split over 3 hosts"):
        feed(dataset, hosts=3)


def test_a_new_order_takes_effect_at_the_next_step(dataset):
    order = orders.Order(np.zeros(4, int), 8, seed=0)
    fed = batches.feed(dataset.train, orders.Subset([0, 1, 2, 3], order), 8, 5, 0.3)
    assert set(fed(0)["labels"]) == {0} and fed(0)["images"].shape == (8, 16, 16, 3)
    last = np.flatnonzero(dataset.train.labels == 2)[:1].repeat(4)
    fed.use(orders.Subset(last, order))
    assert set(fed(1)["labels"]) == {2}
    fed.close()


def test_clean_batches_cover_a_split_once(dataset):
    parts = list(batches.clean_batches(dataset.test.images, 4))
    images = np.concatenate([batch[mask] for batch, mask in parts])
    assert len(images) == len(dataset.test.labels) and all(len(batch) == 4 for batch, _ in parts)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, dataset.test.images.views(i, decode.centre_box)[0])


def test_unreadable_image_raises_an_error_with_its_name(dataset, tmp_path):
    images = dataset.train.images.select(np.arange(8))
    paths = images.paths.copy()
    (tmp_path / "broken.jpg").write_bytes(b"")
    paths[5] = str(tmp_path / "broken.jpg")
    object.__setattr__(images, "paths", paths)
    fed = stream.Stream(stream.Clean(images), 4, workers=0)
    assert fed(0)["images"].shape == (4, 16, 16, 3)
    with pytest.raises(errors.BadInput, match="broken.jpg: the file is empty"):
        fed(1)


def test_a_killed_worker_raises_a_clear_error(dataset):
    fed = feed(dataset, workers=1)
    fed(0)
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(errors.RunFailed, match="a process that reads images has ended"):
        for step in range(1, 50):
            fed(step)
            time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("box", [(20, 32, 200, 240), (0, 0, 300, 400), (10, 300, 70, 90)])
def test_crops_match_pillow(box):
    """Includes boxes for which the decoder reads at half or a quarter of the size."""
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    whole = Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=95)
    (crop,) = decode.crops(buffer.getvalue(), "x", lambda _: [box], 64)
    top, left, height, width = box
    part = whole.crop((left, top, left + width, top + height))
    truth = np.asarray(part.resize((64, 64), Image.Resampling.BOX), int)
    assert np.abs(crop - truth).mean() < 3
    moved = np.asarray(whole.crop((0, 40, width, 40 + height)).resize((64, 64), Image.Resampling.BOX), int)
    assert np.abs(crop - moved).mean() > 9


def test_random_boxes_fit():
    boxes = decode.random_boxes(np.random.default_rng(0), 500, 0.08)((40, 50))
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 40).all() and (left + width <= 50).all()
    assert (height * width / 2000).min() < 0.15 and (height * width / 2000).max() > 0.85
