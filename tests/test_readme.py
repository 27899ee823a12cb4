"""Tables of README.md and docs match benchmarks/results; configs and links of the README exist."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

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
