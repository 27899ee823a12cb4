"""Measures images per second of the input: decode and crop at 224 pixels, worker processes, SimCLR views.

    python benchmarks/input.py [--seconds 1.0] [--rounds 7] [--no-write]

Decoding is compared with Pillow and with the raw decoder. The photographs are the two that scikit-learn contains, cut
into 64 JPEG files of 500 x 375 pixels, the usual size in ImageNet, at quality 90. `pillow` is open, convert, crop and
bilinear resize, as torchvision does with Pillow. The rows of one comparison are measured in turn, round by round, so
that other work on the machine affects all of them equally; the figure is the median over the rounds. The SimCLR
pipeline of the released code (torchvision on Pillow images in loader processes) is reimplemented in Pillow and NumPy
with the same operations and probabilities, and runs in one process per core. Writes benchmarks/results/input.json;
with --no-write it only prints.
"""

import argparse
import importlib.metadata
import io
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE, SMALL = 224, 32


def photographs():
    """64 JPEG files, as bytes."""
    from sklearn import datasets

    generator, contents = np.random.default_rng(0), []
    for i in range(64):
        whole = Image.fromarray(datasets.load_sample_images().images[i % 2])
        left, top = int(generator.integers(0, 140)), int(generator.integers(0, 52))
        buffer = io.BytesIO()
        whole.crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def rate(function, items, seconds):
    """Returns items per second of processor time, which other programs on the machine do not change."""
    function(items[0])
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        function(items[count % len(items)])
        count += 1
    return count / (time.process_time() - began)


def decode_rows(contents, seconds, rounds):
    """Name -> images per second and core."""
    import cv2
    import simplejpeg

    from lt_jax.data import decode

    generator = np.random.default_rng(1)

    def pillow_crop(content):
        opened = Image.open(io.BytesIO(content)).convert("RGB")
        (box,) = decode.random_boxes(generator, 1, 0.08)(opened.size[::-1])
        top, left, height, width = box
        region = (left, top, left + width, top + height)
        return np.asarray(opened.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=region))

    rows = {
        "raw decoder (simplejpeg)": simplejpeg.decode_jpeg,
        "raw decoder, our options": lambda x: simplejpeg.decode_jpeg(x, fastupsample=True, fastdct=True),
        "raw decoder (opencv)": lambda x: cv2.imdecode(np.frombuffer(x, np.uint8), cv2.IMREAD_COLOR_RGB),
        "raw decoder (pillow)": lambda x: np.asarray(Image.open(io.BytesIO(x)).convert("RGB")),
        "ours, decode + random crop": lambda x: decode.crops(x, "", decode.random_boxes(generator, 1, 0.08), SIZE),
        "ours, one decode, two crops": lambda x: decode.crops(x, "", decode.random_boxes(generator, 2, 0.08), SIZE),
        "ours, centre crop": lambda x: decode.crops(x, "", decode.centre_box, SIZE),
        "pillow, decode + random crop": pillow_crop,
    }
    rates = {name: [] for name in rows}
    for _ in range(rounds):
        for name, function in rows.items():
            rates[name].append(rate(function, contents, seconds / 4))
    return {name: statistics.median(values) for name, values in rates.items()}


def worker_rows(contents, folder, seconds, rounds):
    """Returns workers -> images per second of the whole pipeline, from files, in wall-clock time."""
    from lt_jax.data import Split, batches, images
    from lt_jax.sampling import orders

    entries = []
    for i, content in enumerate(contents):
        pathlib.Path(folder, f"{i}.jpg").write_bytes(content)
        entries.append((f"{i}.jpg", i % 8, 0))
    rates = {1: [], 2: []}
    for _ in range(max(1, rounds // 2)):
        for workers in rates:
            part = images.dataclasses.replace(images.files(folder, entries), size=SIZE, workers=workers)
            order = orders.Order(np.zeros(len(entries), int), 32, 0)
            fed = batches.feed(Split(part, part.labels.astype(np.int32)), order, 32, 0, 0.08)
            for step in range(8):  # warm-up: the workers start and fill their buffers
                fed(step)
            began, step = time.monotonic(), 8
            while time.monotonic() - began < seconds * 3:
                fed(step)
                step += 1
            rates[workers].append((step - 8) * 32 / (time.monotonic() - began))
            fed.close()
    return {str(workers): statistics.median(values) for workers, values in rates.items()}


def plain_view(pixels, generator):
    """Returns one SimCLR view of a (32, 32, 3) image as the released code makes it: Pillow, then a float array."""
    from lt_jax.data import decode

    (box,) = decode.random_boxes(generator, 1, 0.08)(pixels.shape[:2])
    top, left, height, width = box
    image = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    image = image.resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    if generator.random() < 0.5:
        image = ImageOps.mirror(image)
    if generator.random() < 0.8:
        for operation in generator.permutation(4):
            image = _jittered(image, operation, generator)
    if generator.random() < 0.2:
        image = image.convert("L").convert("RGB")
    line = np.exp(-0.5 * np.array([-1, 0, 1]) ** 2 / generator.uniform(0.1, 2.0) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    image = image.filter(ImageFilter.Kernel((3, 3), kernel.ravel().tolist(), scale=1.0))
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255.0


def _jittered(image, operation, generator):
    if operation < 3:
        kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
        return kind(image).enhance(generator.uniform(0.2, 1.8))
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int16) + int(generator.uniform(-0.2, 0.2) * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


def _plain_worker(pixels, seconds, seed, gate, results):
    generator, count = np.random.default_rng(seed), 0
    plain_view(pixels[0], generator)
    gate.wait()
    began, busy = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        np.stack([plain_view(pixels[(count + i) % len(pixels)], generator) for i in range(64)])
        count += 64
    results.put((count / (time.monotonic() - began), count / (time.process_time() - busy)))


def plain_rate(pixels, seconds, processes):
    """Returns views per second of `processes` loader processes together: in wall-clock time and in processor time."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_plain_worker, args=(pixels, seconds, i, gate, results)) for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [sum(column) for column in zip(*(results.get() for _ in workers), strict=True)]
    for worker in workers:
        worker.join()
    return rates


def device_rate(pixels, seconds):
    """Returns views per second of the jitted pipeline: in wall-clock time and in processor time.

    Each step uses new random numbers. Processor time is that of all cores; it has no meaning with an accelerator.
    """
    import jax

    from configs import common
    from lt_jax import augment

    options = common.augment(strength=1.0)
    batch = jax.device_put(np.tile(pixels, (1024 // len(pixels), 1, 1, 1)))
    run = jax.jit(lambda key, step, x: augment.apply(jax.random.fold_in(key, step), x, options))
    key, step = jax.random.key(0), 0
    run(key, 0, batch).block_until_ready()
    began, busy = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        step += 1
        run(key, step, batch).block_until_ready()
    views = step * len(batch)
    return [views / (time.monotonic() - began), views / (time.process_time() - busy) * (os.cpu_count() or 1)]


def environment():
    import jax

    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((x.split(":")[1].strip() for x in lines if "model name" in x), platform.machine())
    packages = ("simplejpeg", "opencv-python-headless", "pillow", "grain", "numpy", "jax")
    return {
        "device": str(jax.devices()[0].device_kind), "cpu": cpu, "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(), "commit": commit.stdout.strip() or "unknown",
        "load_average": os.getloadavg()[0], "command": " ".join(["python benchmarks/input.py", *sys.argv[1:]]),
    }  # fmt: skip


def table(result):
    decoded, workers, views = result["decode_per_core"], result["workers"], result["simclr_32"]
    raw, ours = decoded["raw decoder (simplejpeg)"], decoded["ours, decode + random crop"]
    lines = [f"{name:<32}{value:>10.0f} images/s a core {value / raw:>8.2f} of raw" for name, value in decoded.items()]
    lines += [f"ours over pillow, decode + crop  {ours / decoded['pillow, decode + random crop']:>9.2f} times"]
    lines += [f"pipeline, {n} worker{'s' * (n != '1')}{value:>21.0f} images/s" for n, value in workers.items()]
    lines += [f"scaling from 1 to 2 workers      {workers['2'] / workers['1']:>9.2f} times"]
    lines += [f"SimCLR at 32, {name:<32}{value:>8.0f} views/s" for name, value in views.items()]
    lines += [
        f"on the device over pillow, by {by:<15}{times:>6.2f} times" for by, times in result["simclr_ratio"].items()
    ]
    return "\n".join(lines)


def main():
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each row; the median counts")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    contents = photographs()
    result = {"bytes_per_file": round(statistics.mean(map(len, contents)))}
    result["decode_per_core"] = decode_rows(contents, arguments.seconds, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        result["workers"] = worker_rows(contents, folder, arguments.seconds, arguments.rounds)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(x)).resize((SMALL, SMALL))) for x in contents])
    cores, rows = os.cpu_count() or 1, []
    for _ in range(max(1, arguments.rounds // 2)):
        rows.append(plain_rate(pixels, arguments.seconds * 2, cores) + device_rate(pixels, arguments.seconds * 2))
    plain, plain_busy, device, device_busy = (statistics.median(column) for column in zip(*rows, strict=True))
    result["simclr_32"] = {
        f"pillow, {cores} processes": plain, "on the device": device,
        f"pillow, {cores} cores' processor time": plain_busy, f"device, {cores} cores' processor time": device_busy,
    }  # fmt: skip
    result["simclr_ratio"] = {"clock": device / plain, "processor time": device_busy / plain_busy}
    print(table(result))
    if not arguments.no_write:
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / "input.json").write_text(json.dumps({"environment": environment(), **result}, indent=1) + "\n")


sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    main()
