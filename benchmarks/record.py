"""Records the measures of a finished run, with its commit, versions and devices.

    python -m lt_jax.main --config=... --workdir=DIR
    python benchmarks/record.py --workdir=DIR --name=NAME --command="python -m lt_jax.main --config=..."

Writes benchmarks/results/NAME.json, which also holds the seconds of each stage.
"""

import argparse
import json
import pathlib

import keep

GROUPS = ("overall", "many", "medium", "few", "worst_class")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True)
    options = parser.parse_args()
    result, run = (json.loads((options.workdir / name).read_text()) for name in ("result.json", "run.json"))
    stages = {p.stem: json.loads(p.read_text()) for p in sorted((options.workdir / "stages").glob("*.json"))}
    rows = {method["title"]: method["test"] for method in result["methods"].values()}
    accuracy = {name: {group: measures[group] for group in GROUPS} for name, measures in rows.items()}
    for name, measures in accuracy.items():
        print(f"{name:24}" + "".join(f"{keep.percent(measures[g]):>12}" for g in GROUPS))
    about = {key: run[key] for key in ("versions", "devices", "seed")}
    seconds = {name: stage["seconds"] for name, stage in stages.items() if isinstance(stage.get("seconds"), float)}
    digest = result["dataset"]["index_digest"]
    keep.write(
        {"commit": run["commit"], **about, "index_digest": digest, "seconds": seconds, "accuracy": accuracy},
        f"{options.name}.json",
        options.command,
    )


if __name__ == "__main__":
    main()
