"""Compares draws of IP-DPP: rank_one, eigen, the exact k-DPP of DPPy, and one in NumPy. One table, one figure.

    python benchmarks/ipdpp.py [--sizes 500,1000,...] [--methods rank_one,eigen,numpy,dppy] [--dppy-python PATH]

Every measurement runs in a separate process, so that its first draw is cold and its peak memory is not shared. DPPy
needs numpy and scipy but not this project: --dppy-python names an interpreter that has DPPy 0.3.3. Writes
benchmarks/results/ipdpp.json, docs/ipdpp_time.svg and the table of docs/ipdpp.md. With --to it writes the
results there and nothing else; with --no-write it only prints; --write-docs writes the figure and the table again from
the last results.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = (500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000, 10_000_000)
LARGEST = {"rank_one": 10**7, "numpy": 5000, "eigen": 5000, "dppy": 5000}
CLASSES, IMAGES, LARGEST_CLASS = 8142, 437_513, 1000


def chosen(n):
    """Returns k: n / 10, or n / 100 for classes too large for a kernel matrix."""
    return n // 10 if n <= 10_000 else n // 100


def difficulties(n, order="shuffled"):
    p = np.random.default_rng(n).beta(2, 1, n)
    return {"shuffled": p, "sorted": np.sort(p), "reversed": np.sort(p)[::-1]}[order]


def numpy_draw(rng, p, k):
    """Draws by Kulesza & Taskar (2011) in NumPy float64, with elementary symmetric polynomials scaled row by row."""
    n = len(p)
    s = np.outer(p, p) / n
    np.fill_diagonal(s, 0)
    np.fill_diagonal(s, 1 - s.sum(axis=1))
    values, vectors = np.linalg.eigh(s)
    odds = np.maximum(values, 0) * (k / max(n - k, 1) / values.mean())
    coins = odds / (1 + odds)
    table = np.zeros((n + 1, k + 1))
    table[0, 0] = 1
    for i, coin in enumerate(coins):
        table[i + 1] = (1 - coin) * table[i]
        table[i + 1, 1:] += coin * table[i, :-1]
    selected, left = [], k
    for i in range(n, 0, -1):
        if left and rng.random() * table[i, left] < coins[i - 1] * table[i - 1, left - 1]:
            selected.append(i - 1)
            left -= 1
    rows = vectors[:, selected]
    norms, directions, items = (rows**2).sum(axis=1), np.zeros((n, k)), []
    for j in range(k):
        item = rng.choice(n, p=np.maximum(norms, 0) / np.maximum(norms, 0).sum())
        column = (rows @ rows[item] - directions[:, :j] @ directions[item, :j]) / np.sqrt(norms[item])
        directions[:, j], norms = column, norms - column**2
        norms[item] = 0
        items.append(item)
    return np.sort(items)


def seconds(function, repeats):
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        function(i)
        times.append(time.perf_counter() - start)
    return times


def peak_mib():
    """Returns the peak memory of this process: VmHWM, since ru_maxrss survives exec and would include the parent."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_jax(method, n, k, order, repeats):
    import jax

    from lt_jax import ipdpp

    log_p = np.log(difficulties(n, order)).astype(np.float32)
    keys = [jax.block_until_ready(jax.random.key(i)) for i in range(repeats + 1)]
    before = peak_mib()

    def draw(i):
        jax.block_until_ready(ipdpp.sample(keys[i], None, k, method, log_probabilities=log_p))

    (cold,) = seconds(draw, 1)
    warm = seconds(lambda i: draw(i + 1), repeats)
    return {"cold_s": cold, "warm_s": warm, "peak_mib": peak_mib(), "before_mib": before}


def measure_numpy(n, k, repeats):
    p, rng = difficulties(n), np.random.default_rng(0)
    before = peak_mib()
    return {
        "warm_s": seconds(lambda i: numpy_draw(rng, p, k), repeats),
        "peak_mib": peak_mib(),
        "before_mib": before,
    }


def measure_dppy(n, k, repeats):
    """Measures draws together with their eigendecomposition, which every new p needs."""
    from dppy.finite_dpps import FiniteDPP

    p = difficulties(n)
    s = np.outer(p, p) / n
    np.fill_diagonal(s, 0)
    np.fill_diagonal(s, 1 - s.sum(axis=1))
    before = peak_mib()

    def draw(i):
        FiniteDPP("likelihood", L=s).sample_exact_k_dpp(size=k, random_state=i)

    return {"warm_s": seconds(draw, repeats), "peak_mib": peak_mib(), "before_mib": before}


def class_sizes():
    """Returns the sizes of 8142 classes of 2 to 1000 images, 437,513 in total: a power law fitted by bisection."""
    low, high = 0.0, 3.0
    ranks = np.arange(1, CLASSES + 1)
    for _ in range(60):
        exponent = (low + high) / 2
        sizes = np.clip(LARGEST_CLASS * ranks ** (-exponent), 2, LARGEST_CLASS).astype(int)
        low, high = (exponent, high) if sizes.sum() > IMAGES else (low, exponent)
    middle = CLASSES // 2
    sizes = np.clip(LARGEST_CLASS * ranks ** (-high), 2, LARGEST_CLASS).astype(int)
    missing = IMAGES - sizes.sum()
    sizes[middle : middle + missing] += 1
    assert sizes.sum() == IMAGES and sizes.min() >= 2 and sizes.max() == LARGEST_CLASS
    return sizes


def measure_classes(k, repeats):
    import jax

    from lt_jax import ipdpp

    sizes = class_sizes()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), sizes))
    log_p = np.log(difficulties(IMAGES)).astype(np.float32)
    before = peak_mib()

    def draw(i):
        ipdpp.select_balanced(jax.random.key(i), None, labels, k, log_probabilities=log_p)

    (cold,) = seconds(draw, 1)
    return {"cold_s": cold, "warm_s": seconds(draw, repeats), "peak_mib": peak_mib(), "before_mib": before}


def run_one(task):
    """Measures one task in this process and prints one JSON line."""
    method, n, k, repeats = task["method"], task["n"], task["k"], task["repeats"]
    if method == "classes":
        result = measure_classes(k, repeats)
    elif method in ("rank_one", "eigen"):
        result = measure_jax(method, n, k, task["order"], repeats)
    else:
        result = {"numpy": measure_numpy, "dppy": measure_dppy}[method](n, k, repeats)
    print(json.dumps(result))


def spawn(task, python):
    """Measures in a new process; returns the result, or {"skipped": reason}."""
    command = [python, str(pathlib.Path(__file__).resolve()), "--task", json.dumps(task)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def tasks(sizes, methods):
    for n in sizes:
        for method in methods:
            if n <= LARGEST[method]:
                repeats = 1 if n >= 5000 else 3
                if method == "rank_one":
                    repeats = 1000 if n <= 10_000 else 100 if n <= 10**5 else 20 if n <= 10**6 else 5
                yield {"method": method, "n": n, "k": chosen(n), "order": "shuffled", "repeats": repeats}
    if "rank_one" in methods:
        for order in ("sorted", "reversed"):
            for n in [n for n in sizes if n == 10**6]:
                yield {"method": "rank_one", "n": n, "k": chosen(n), "order": order, "repeats": 20}


def describe(task, result):
    if "skipped" in result:
        return {**task, **result}
    warm = np.array(result["warm_s"])
    summary = {"median_s": float(np.median(warm)), "worst_s": float(warm.max()), **result}
    return {**task, **summary, "draw_mib": result["peak_mib"] - result["before_mib"]}


def line(row, dppy):
    name = f"{row['method']}{'' if row['order'] == 'shuffled' else ' (' + row['order'] + ')'}"
    head = f"{name:22s} {row['n']:>10,d} {row['k']:>8,d}"
    if "skipped" in row:
        return f"{head}  not run: {row['skipped']}"
    ratio = f"{dppy[row['n']] / row['median_s']:>10,.1f}" if row["n"] in dppy else f"{'-':>10s}"
    cold = f"{row['cold_s']:>9.2f}" if "cold_s" in row else f"{'-':>9s}"
    return (
        f"{head} {row['median_s'] * 1e3:>12,.2f} {row['worst_s'] * 1e3:>12,.2f} {cold} "
        f"{row['draw_mib']:>10,.0f} {ratio}"
    )


def table(rows):
    dppy = {r["n"]: r["median_s"] for r in rows if r["method"] == "dppy" and "median_s" in r}
    header = f"{'method':22s} {'N':>10s} {'k':>8s} {'median ms':>12s} {'worst ms':>12s} {'cold s':>9s} "
    return "\n".join([header + f"{'memory MiB':>10s} {'x DPPy':>10s}", *(line(row, dppy) for row in rows)])


NAMES = {"rank_one": "`rank_one`", "eigen": "`eigen`", "numpy": "NumPy, float64", "dppy": "DPPy 0.3.3, exact"}
START, END = "<!-- table: written by benchmarks/ipdpp.py -->", "<!-- end of table -->"


def duration(seconds):
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def markdown_line(row, dppy):
    name = NAMES.get(row["method"], f"{CLASSES} classes of 2..{LARGEST_CLASS} images")
    name += "" if row["order"] == "shuffled" else f", {row['order']} items"
    head = f"| {name} | {row['n']:,} | {row['k']:,} |"
    if "skipped" in row:
        return f"{head} not run | | | | |"
    ratio = f"{dppy[row['n']] / row['median_s']:,.0f}" if row["n"] in dppy and row["method"] != "dppy" else ""
    cold = duration(row["cold_s"]) if "cold_s" in row else ""
    times = f"{duration(row['median_s'])} | {duration(row['worst_s'])} | {cold}"
    return f"{head} {times} | {row['draw_mib']:,.0f} | {ratio} |"


def markdown(results):
    """Returns the table of docs/ipdpp.md from the content of benchmarks/results/ipdpp.json."""
    run, rows = results["environment"], results["rows"]
    dppy = {r["n"]: r["median_s"] for r in rows if r["method"] == "dppy" and "median_s" in r}
    intro = (
        f"One run of `{run['command']}` on {run['cores']} cores of {run['cpu']}, commit {run['commit'][:12]}; load "
        f"average at its end {run['load_average']:.1f}. Where that is well above the number of cores, other programs "
        "were\nrunning: read the ratios. Cold is the first draw of a process, compilation included; memory is the "
        "growth of\nthe process's peak, compiler included.\n"
    )
    header = (
        "| method | N | k | median | worst | cold | memory MiB | times DPPy |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    return "\n".join([intro, header, *(markdown_line(row, dppy) for row in rows)])


def write_docs():
    path = ROOT / "docs" / "ipdpp.md"
    before, after = path.read_text().split(START)
    results = json.loads((ROOT / "benchmarks" / "results" / "ipdpp.json").read_text())
    path.write_text(before + START + "\n" + markdown(results) + "\n" + END + after.split(END)[1])
    figure(results["rows"], ROOT / "docs" / "ipdpp_time.svg")


def figure(rows, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ipdpp"
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(6.4, 4))
    names = {"rank_one": "lt_jax rank_one (exact)", "eigen": "lt_jax eigen (exact)"}
    names |= {"numpy": "NumPy, eigendecomposition", "dppy": "DPPy 0.3.3, exact k-DPP"}
    for method, marker in (("dppy", "s"), ("numpy", "^"), ("eigen", "D"), ("rank_one", "o")):
        points = [
            (r["n"], r["median_s"])
            for r in rows
            if r["method"] == method and r["order"] == "shuffled" and "median_s" in r
        ]
        if points:
            axes.loglog(*zip(*sorted(points), strict=True), marker=marker, label=names[method])
    axes.set_xlabel("items in the class, N")
    axes.set_ylabel("seconds for one draw (warm, median)")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})


def environment():
    import jax

    commit = os.environ.get("LT_JAX_COMMIT")  # where files travel without git
    if not commit:
        rev_parse = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        commit = subprocess.run(rev_parse, capture_output=True, text=True, check=False).stdout.strip()
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = str(jax.devices()[0].device_kind)
    arguments = re.sub(r"(--dppy-python[ =])\S+", r"\1PATH", " ".join(sys.argv[1:]))
    return {
        "device": device, "cpu": cpu, "cores": cores, "jax": jax.__version__, "numpy": np.__version__,
        "python": platform.python_version(), "commit": commit or "unknown", "load_average":
        os.getloadavg()[0], "command": "python benchmarks/ipdpp.py " + arguments,
    }  # fmt: skip


def as_text(environment, rows):
    """Returns JSON text with one line per row, since a row holds the times of many single draws."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"environment": {json.dumps(environment)},\n"rows": [\n{lines}\n]}}\n'


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--methods", default=",".join(LARGEST))
    parser.add_argument("--dppy-python", default=sys.executable, help="an interpreter that has DPPy 0.3.3")
    parser.add_argument("--no-classes", action="store_true", help="leave out the 8142 classes")
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--to", type=pathlib.Path, help="a file for the results, in place of results and docs here")
    parser.add_argument("--write-docs", action="store_true", help="measure nothing; table and figure of the last run")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.task:
        run_one(json.loads(arguments.task))
        return
    if arguments.write_docs:
        write_docs()
        return
    rows = []
    for task in tasks([int(n) for n in arguments.sizes.split(",")], arguments.methods.split(",")):
        rows.append(describe(task, spawn(task, arguments.dppy_python if task["method"] == "dppy" else sys.executable)))
        print(line(rows[-1], {}), flush=True)
    if not arguments.no_classes:
        task = {"method": "classes", "n": IMAGES, "k": 20, "order": "shuffled", "repeats": 5}
        rows.append(describe(task, spawn(task, sys.executable)))
    print("\n" + table(rows))
    if arguments.to:
        arguments.to.write_text(as_text(environment(), rows))
    elif not arguments.no_write:
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / "ipdpp.json").write_text(as_text(environment(), rows))
        write_docs()


if __name__ == "__main__":
    main()
