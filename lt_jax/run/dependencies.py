"""Which settings a stage is computed from: what its digest is made of."""

import json
from typing import Any

import ml_collections

# What a finished stage was computed from. Logging, device and host keys, and what changes memory alone are in no
# digest. Files count by their content (lt_jax.run.inputs), not by their path.
_TRUNK = ("seed", "data", "encoder", "dtype")
_METHOD = ("pretrain", "probe", "baseline", "heads", "retrain", "dlsa", "evaluate", "method", "stages")
BLOCKS = {
    "pretrain": (*_TRUNK, "pretrain"),
    "probe": (*_TRUNK, "pretrain", "probe"),
    "baseline": (*_TRUNK, "baseline"),
    "heads": (*_TRUNK, "baseline", "probe", "heads"),
    "retrain": (*_TRUNK, "pretrain", "retrain"),
    "features": (*_TRUNK, "pretrain", "probe"),
    "dlsa": (*_TRUNK, "pretrain", "probe", "dlsa", "evaluate"),
    "separability": (*_TRUNK, "pretrain", "probe", "dlsa"),
    "evaluate": (*_TRUNK, *_METHOD),
    "report": (*_TRUNK, *_METHOD, "report"),
}
FILES = ("data.dir", "data.list", "data.classes", "encoder.weights")  # keys whose content is digested, not their value
_NOT_DIGESTED = {
    *(tuple(key.split(".")) for key in FILES),
    ("data", "workers"), ("encoder", "remat"), ("pretrain", "ring"), ("evaluate", "every_epochs"),
}  # fmt: skip
_ONLY_FOR: dict[tuple[str, ...], tuple[str, ...]] = {("dlsa", "compare_with"): ("separability", "report")}


def resolved(config: ml_collections.ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """Plain nested dicts, as written to `config.json`."""
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    return json.loads(json.dumps(tree, default=list))


def of_stage(config: ml_collections.ConfigDict | dict[str, Any], stage: str) -> dict[str, Any]:
    """Dotted key -> value of everything that `stage` is computed from.

    Settings of experts, of a contrastive objective beside the baseline's loss, of enlarging, of flips and of DLSA count
    only where there are any.
    """
    tree = resolved(config)
    flat = {}
    for top in BLOCKS[stage]:
        if top in tree:
            flat.update(flattened(tree[top], (top,)))
    paths = {path for path in flat if path not in _NOT_DIGESTED and stage in _ONLY_FOR.get(path, (stage,))}
    paths -= {path for path in paths if path[0] == "baseline" and _is_unused(path[1], tree["baseline"])}
    if not tree.get("encoder", {}).get("input_size"):
        paths -= {("encoder", "input_size"), ("encoder", "resample")}
    if not tree.get("encoder", {}).get("flips"):
        paths -= {("encoder", "flips")}
    if "dlsa" in tree and not tree["dlsa"]["filter"].get("components"):
        paths -= {("dlsa", "filter", "components")}
    if stage in ("evaluate", "report") and "dlsa" not in tree["stages"]:
        paths -= {path for path in paths if path[0] == "dlsa"}
    return {".".join(path): value for path, value in flat.items() if path in paths}


def _is_unused(key: str, baseline: dict[str, Any]) -> bool:
    if key in ("experts", "diversity"):
        return baseline.get("experts", 1) == 1
    if key == "contrastive_projector" and (baseline.get("consistency") or baseline.get("tripartite")):
        return False
    if key in ("consistency", "tripartite"):
        return not baseline[key]
    if key == "trainable":
        return baseline[key] == "all"
    return key.startswith("contrastive") and not baseline.get("contrastive")


def flattened(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path of keys -> value of a nested dictionary."""
    if not isinstance(tree, dict):
        return {path: tree}
    flat = {}
    for name, value in tree.items():
        flat.update(flattened(value, (*path, name)))
    return flat
