"""Packs a data set and wheels for a machine without a network, and unpacks them there.

    python benchmarks/accelerator_pack.py unpack PACKED DIR

A packed folder holds `manifest.json`, `labels.npz`, the images as lossless WebP sheets of 32 x 32 tiles, and `wheels/`.
Unpacked, it is the official binary archive of CIFAR: every image that the canonical subset chooses is at its original
position with its label, so the configs read it unchanged. The images that the subset leaves out are black; training on
them would be wrong, and the coarse labels of CIFAR-100, which nothing here reads, are 0.
"""

import importlib.metadata
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 2**20
LIMIT = 60 * MIB  # bytes of packed data, wheels and tracked repository together
SIDE, TILES = 32, 32  # pixels of an image; images in a row and rows in a sheet
PYTHON = "3.12"  # of the borrowed machine
GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # pip matches each manylinux tag exactly
CONFIGS = {"cifar10_lt": "cifar10", "cifar100_lt": "cifar100"}
ARCHIVES = {  # folder, training files, test file, label bytes before the pixels
    "cifar10": ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1),
    "cifar100": ("cifar-100-binary", ["train.bin"], "test.bin", 2),
}


class TooLarge(Exception):
    """The packed folder and the repository exceed the limit of the transfer."""


def settings(name, folder, imbalance_factor=100):
    """Returns the `data` section of a config, reading from this folder."""
    import importlib

    config = importlib.import_module(f"configs.{name}").get_config(f"{imbalance_factor}").data
    config.dir = str(folder)
    return config


def pack(name, folder, to, wheels=False):
    """Writes the packed folder and returns its manifest.

    Args:
      name: a key of CONFIGS.
      folder: holds the official archive.
      to: the packed folder; it is written anew, except for `results`.
      wheels: also download the wheels that the borrowed machine lacks.

    Raises:
      TooLarge: the sum of packed folder and tracked repository is above LIMIT.
    """
    from lt_jax import data
    from lt_jax.data import longtail, sources

    config = settings(name, folder)
    raw, dataset = sources.SOURCES[config.name](config), data.load(config)
    labels = raw.train.labels
    counts = longtail.counts(
        config.profile, config.largest, dataset.num_classes, config.imbalance_factor, labels, config.counts
    )
    positions = longtail.canonical_indices(labels, counts, seed=config.seed)
    sheets = store(to, dataset.train.images, positions, labels, dataset.test.images, dataset.test.labels)
    manifest = {
        "config": name, "data": config.name, "commit": commit(), "images": len(positions), "sheets": sheets,
        "index_digest": dataset.index_digest, "digest": dataset.digest,
        "wheels": download(lacking(), to / "wheels") if wheels else [],
    }  # fmt: skip
    (to / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{name}: {len(positions)} training and {len(dataset.test.labels)} test images")
    print(f"chosen positions {dataset.index_digest}\nimages and labels {dataset.digest}")
    check_size(to)
    return manifest


def check_size(to, limit=LIMIT):
    """Prints what travels, and raises TooLarge if it is more than `limit` bytes."""
    sizes = {"packed data": size_of(to, "*"), "wheels": size_of(to / "wheels", "*.whl"), "repository": tracked_bytes()}
    sizes["in all"] = sum(sizes.values())
    print(", ".join(f"{part} {size / MIB:.1f} MiB" for part, size in sizes.items()))
    if sizes["in all"] > limit:
        travelling = sizes["in all"] / MIB
        raise TooLarge(f"{to}: expected at most {limit / MIB:g} MiB with the repository, found {travelling:.1f} MiB")


def store(to, images, positions, labels, test_images, test_labels):
    """Writes sheets and labels.npz into an emptied folder; returns the number of images in each sheet.

    Args:
      images: chosen training images, (n, 32, 32, 3) uint8.
      positions: (n,) of them in the original order.
      labels: of all training images in the original order.
    """
    to.mkdir(parents=True, exist_ok=True)
    for stale in (*to.glob("*.webp"), *to.glob("wheels/*.whl")):
        stale.unlink()
    arrays = {"train_labels": labels, "positions": positions, "test_labels": test_labels}
    np.savez_compressed(to / "labels.npz", **{key: np.asarray(values, np.int32) for key, values in arrays.items()})
    return {"train": write_sheets(to, "train", images), "test": write_sheets(to, "test", test_images)}


def restore(packed, sheets):
    """Returns images and labels of both splits, (train, labels), (test, labels); what was not chosen is black."""
    with np.load(packed / "labels.npz") as arrays:
        labels, positions, test_labels = (arrays[key] for key in ("train_labels", "positions", "test_labels"))
    images = np.zeros((len(labels), SIDE, SIDE, 3), np.uint8)
    images[positions] = read_sheets(packed, "train", sheets["train"])
    return (images, labels), (read_sheets(packed, "test", sheets["test"]), test_labels)


def write_sheets(to, split, images):
    """Writes images (n, 32, 32, 3) uint8 as SPLIT_00.webp and on; returns the number of images in each."""
    counts = []
    for number, start in enumerate(range(0, len(images), TILES * TILES)):
        part = images[start : start + TILES * TILES]
        (to / f"{split}_{number:02}.webp").write_bytes(encode(part))
        counts.append(len(part))
    return counts


def encode(images):
    """Returns the bytes of one sheet. Quality is effort here: at 100 the file is 2 % smaller in 20 times the time."""
    rows = -(-len(images) // TILES)
    padded = np.zeros((rows * TILES, SIDE, SIDE, 3), np.uint8)
    padded[: len(images)] = images
    sheet = padded.reshape(rows, TILES, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, TILES * SIDE, 3)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return buffer.getvalue()


def decode(content, count):
    """Returns the first `count` images of a sheet, (count, 32, 32, 3) uint8."""
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    rows = len(sheet) // SIDE
    return sheet.reshape(rows, SIDE, TILES, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)[:count]


def read_sheets(packed, split, counts):
    parts = [decode((packed / f"{split}_{i:02}.webp").read_bytes(), count) for i, count in enumerate(counts)]
    return np.concatenate(parts)


def unpack(packed, folder):
    """Writes the official binary archive below `folder`, checks its digests with lt_jax, and returns the manifest."""
    from lt_jax import data

    manifest = json.loads((packed / "manifest.json").read_text())
    subfolder, train_files, test_file, label_bytes = ARCHIVES[manifest["data"]]
    train, test = restore(packed, manifest["sheets"])
    (folder / subfolder).mkdir(parents=True, exist_ok=True)
    parts = np.array_split(records(*train, label_bytes), len(train_files))
    parts.append(records(*test, label_bytes))
    for file, rows in zip((*train_files, test_file), parts, strict=True):
        (folder / subfolder / file).write_bytes(rows.tobytes())
    dataset = data.load(settings(manifest["config"], folder))
    for key in ("index_digest", "digest"):
        if getattr(dataset, key) != manifest[key]:
            sys.exit(f"{packed}: {key}: expected {manifest[key]}, found {getattr(dataset, key)}; pack it again")
    return manifest


def records(images, labels, label_bytes):
    """Returns (n, label bytes + 3072) uint8: the label, then the red, green and blue planes."""
    rows = np.zeros((len(images), label_bytes + images[0].size), np.uint8)
    rows[:, label_bytes - 1] = labels
    rows[:, label_bytes:] = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return rows


def lacking(machine=None):
    """Returns the distributions that lt_jax requires, directly or not, and the borrowed machine lacks.

    The requirements of what is on the machine already are followed only where an extra adds them.
    """
    from packaging.requirements import Requirement

    machine = machine or {canonical(name) for name in packages()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    queue, seen, missing = [Requirement(text) for text in project["dependencies"]], set(), set()
    while queue:
        requirement = queue.pop()
        name, extras = canonical(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in machine:
            missing.add(name)
        queue += needs(name, extras, name in machine)
    return sorted(missing)


def needs(name, extras, only_extras):
    """Returns the requirements of an installed distribution on the borrowed machine's Python."""
    from packaging.requirements import Requirement

    version = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.3"}
    required = []
    try:
        texts = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name}: not installed here, so its requirements are unknown; install lt_jax with its dependencies")
    for text in texts:
        requirement = Requirement(text)
        plain = requirement.marker is None or requirement.marker.evaluate({**version, "extra": ""})
        by_extra = not plain and any(requirement.marker.evaluate({**version, "extra": extra}) for extra in extras)
        if by_extra or (plain and not only_extras):
            required.append(requirement)
    return required


def packages():
    """Returns the names of the distributions of the borrowed machine."""
    lines = (ROOT / "benchmarks" / "accelerator_packages.txt").read_text().splitlines()
    return " ".join(line for line in lines if not line.startswith("#")).split()


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def download(names, to):
    """Writes one wheel of each distribution into the folder and returns their file names."""
    to.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    versions = ["-c", str(ROOT / "launch" / f"constraints-{PYTHON}.txt")]
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["--platform=manylinux2014_x86_64"]
    target = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *tags, "--platform=any"]
    for name in names:
        fetch = [*pip, "download", "--no-deps", *target, *versions, "-d", str(to), name]
        if subprocess.run(fetch, stderr=subprocess.DEVNULL, check=False).returncode:
            build(name, to, [*pip, "wheel", "--no-deps", *versions])
    return sorted(file.name for file in to.glob("*.whl"))


def build(name, to, command):
    """Builds a wheel of a distribution that is published as source only; it must be pure Python."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "-w", folder, name], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        if not wheel.name.endswith("-none-any.whl"):
            sys.exit(f"{wheel.name}: expected a wheel for Python {PYTHON} on x86-64 Linux, or pure Python")
        (to / wheel.name).write_bytes(wheel.read_bytes())


def size_of(folder, pattern):
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def tracked_bytes():
    """Returns the bytes of the files that git tracks or does not ignore, which travel too."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sum((ROOT / name).lstat().st_size for name in set(names) if name and (ROOT / name).exists())


def commit():
    return git("describe", "--always", "--dirty").strip() or "unknown"


def git(*words):
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # the borrowed machine may have none
        return ""


sys.path.insert(0, os.fspath(ROOT))

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "unpack":
        sys.exit(__doc__.split("\n\n")[1].strip())
    result = unpack(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    print(f"chosen positions {result['index_digest']}\nimages and labels {result['digest']}")
