"""Data sets by name. Each function returns an `images.Raw`: all splits in the order of the original files."""

from collections.abc import Callable
from typing import Any

from lt_jax.data.images import Raw
from lt_jax.data.sources import archives, folders, lists, parquet, records, tables

SOURCES: dict[str, Callable[[Any], Raw]] = {
    "digits": archives.digits,
    "cifar10": archives.cifar10,
    "cifar100": archives.cifar100,
    "imagenet_lt": lists.imagenet_lt,
    "places_lt": lists.places_lt,
    "inat2018": lists.inat2018,
    "folder": folders.folder,
    "table": tables.table,
    "parquet": parquet.parquet,
    "features": tables.features,
    "prepared": records.prepared,
}
