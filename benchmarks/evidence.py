"""One thing changed at a time, over many seeds, each variant paired with the first one of its table.

    python benchmarks/evidence.py WHAT [--seeds=10] [--config=configs/digits_lt.py] [--workdir=runs/evidence]

WHAT is one of the tables below: `roads` (how the subset is drawn), `redraw`, `k`, `trainable`, and, with a pretraining
of their own for each variant, `m`, `n`, `loss`, `negatives`. A seed is pretrained once and serves all variants that do
not change the pretraining. Runs are kept in the work directory; the same command again continues. The table goes to
benchmarks/results/evidence_WHAT.json, whatever it shows.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import digits

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEVER = 1_000_000

# Name of the table -> variant -> flags; the first variant is what the others are compared with.
RETRAINED = {
    "roads": {name: [f"retrain.method={name}"] for name in ("uniform", "rank_one", "eigen", "paper")},
    "redraw": {
        "never": [f"retrain.redraw_every={NEVER}"],
        **{f"every {r} epochs": [f"retrain.redraw_every={r}"] for r in (1, 10, 50)},
    },
    "k": {f"k = {k}": [f"retrain.k={k}", f"probe.per_class={k}"] for k in (4, 6, 10, 20, 40)},
    "trainable": {"whole network": ["retrain.trainable=all"], "head alone": ["retrain.trainable=head"]},
}
PRETRAINED = {
    "m": {f"m = {m}": [f"pretrain.m={m}"] for m in (0, 1, 2, 4)},
    "n": {f"n = {n}": [f"pretrain.n={n}"] for n in (4, 16, 64)},
    "loss": {"paper": ["pretrain.loss=paper"], "official": ["pretrain.loss=official"]},
    "negatives": {
        "sampled": ["pretrain.negatives=sampled"],
        "expected": ["pretrain.negatives=expected"],
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*RETRAINED, *PRETRAINED))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--config", default="configs/digits_lt.py")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "evidence")
    options = parser.parse_args()
    variants = {**RETRAINED, **PRETRAINED}[options.what]
    found = {
        name: [measured(options, flags, seed) for seed in range(options.seeds)] for name, flags in variants.items()
    }
    first = next(iter(found.values()))
    table, gains = {}, {}
    for name, results in found.items():
        table[name] = {g: digits.summary([r[g] for r in results]) for g in digits.GROUPS}
        pairs = list(zip(results, first, strict=True))
        gains[name] = {g: digits.interval([r[g] - f[g] for r, f in pairs]) for g in digits.GROUPS}
    show(table, gains, options.seeds)
    command = f"python benchmarks/evidence.py {options.what} --seeds={options.seeds}"
    kept = {"seeds": options.seeds, "config": options.config, "accuracy": table, "gain over the first": gains}
    digits.write(kept, f"evidence_{options.what}.json", command)


def measured(options, flags, seed):
    """`test` of result.json of one variant and seed; run where it has not been."""
    base = options.workdir / "pretrained" / f"seed{seed}"
    own = options.workdir / options.what / flags[0].replace("=", "_") / f"seed{seed}"
    words = [f"--config={options.config}", f"--config.seed={seed}"]
    if options.what in PRETRAINED:
        changed = [f"--config.{flag}" for flag in flags]
        run(own, *words, *changed, "--config.stages=('pretrain','retrain','evaluate')")
    else:
        run(base, *words, "--stage=pretrain")
        changed = [f"--config.{flag}" for flag in flags]
        run(own, *words, *changed, f"--config.init_from={base}", "--config.stages=('retrain','evaluate')")
    return json.loads((own / "result.json").read_text())["test"]


def run(workdir, *words):
    if (workdir / "result.json").exists():
        return
    command = [sys.executable, "-m", "lt_jax.main", f"--workdir={workdir}", *words]
    subprocess.run(command, check=True, cwd=ROOT)


def show(table, gains, seeds):
    print(
        f"\ntest accuracy in per cent, mean ± standard deviation over {seeds} seeds; then what it gains over the first"
    )
    print(f"{'':20}" + "".join(f"{group:>14}" for group in digits.GROUPS))
    for number, (name, cells) in enumerate(table.items()):
        line(name, cells, "std")
        if number:
            line("  paired, 95 %", gains[name], "half_width_95")


def line(name, cells, spread):
    print(f"{name:20}" + "".join(f"{digits.cell(cells[g], spread):>14}" for g in digits.GROUPS))


if __name__ == "__main__":
    main()
