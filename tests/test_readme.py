"""Tables of README.md and docs match benchmarks/results; configs and links of the README exist."""

import importlib.util
import pathlib
import re

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
