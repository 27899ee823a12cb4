"""Reading a finished run: its `config.json` and `result.json`, which must belong together."""

from typing import Any

from etils import epath

from lt_jax.core import errors, files
from lt_jax.run import dependencies


def digests(config: Any, workdir: epath.Path) -> dict[str, str | None]:
    """What the run is made from now: digests of data, weights and settings; None where nothing is recorded.

    The graph writes them to `run.json` before any stage, and evaluation copies them into its result.

    Args:
      config: the config of the run, or its `config.json`.
    """
    settings = dependencies.of_stage(config, "evaluate")
    settings.pop("seed")  # the result has it by itself
    data = (files.read_json(workdir / "run.json") or {}).get("data", {})
    splits = data.get("splits", {})
    return {
        "data": data.get("digest"),
        "train": splits.get("train"),
        "test": splits.get("test"),
        "weights": data.get("weights"),
        "config": files.json_digest(settings),
    }


def read(workdir: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, result) of a finished run.

    Raises:
      BadInput: the run is not finished, or a later call with other settings or images has not finished yet.
    """
    config, result = (files.read_json(workdir / name) for name in ("config.json", "result.json"))
    if config is None or result is None:
        raise errors.BadInput(f"no finished run in {workdir}: expected its config.json and result.json")
    if "methods" not in result:
        raise errors.BadInput(f"{workdir} was made by lt_jax 0.1: run the same command again, or use that version")
    check(workdir, config, result)
    return config, result


def check(workdir: epath.Path, config: Any, result: dict[str, Any]) -> None:
    """Raises BadInput where the result was made from other settings or images than the run has now."""
    then, now = result.get("digests", {}), digests(config, workdir)
    if result["seed"] != config["seed"]:
        raise errors.BadInput(f"{workdir}: result.json is of seed {result['seed']}, config.json of {config['seed']}")
    for key, words in (("config", "settings"), ("data", "images"), ("weights", "encoder weights")):
        if then.get(key) and then[key] != now[key]:
            raise errors.BadInput(
                f"{workdir}: result.json was made from other {words} than the run has now; "
                "run the same command again to finish it"
            )
