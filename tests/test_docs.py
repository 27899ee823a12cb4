"""The documentation site: every setting and method is on it, equations become MathML, links hold, nothing is remote."""

import html.parser
import importlib
import pathlib
import re
import subprocess
import sys
import urllib.parse

import ml_collections
import numpy as np
import pytest
from mkdocs import exceptions

from configs import common
from lt_jax import methods

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks():
    """Returns the modules of docs/hooks by name."""
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        return {name: importlib.import_module(name) for name in ("configuration", "pages")}
    finally:
        sys.path.remove(str(DOCS / "hooks"))


def keys_of(config, prefix=""):
    """Dotted keys of the settings of a config."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_setting_is_on_the_page_of_the_configuration(hooks):
    configuration = hooks["configuration"]
    documented = set()
    for name, (_, blocks) in configuration.SECTIONS.items():
        table = configuration.section(*name)
        for knob in configuration.knobs(*name):
            assert f"| `{knob.key}` |" in table and knob.comment
            documented |= {f"{block}.{knob.key}" if block else knob.key for block in blocks}
    assert documented == set(keys_of(common.every_key()))
    assert configuration.page().count("\n## ") == len(configuration.SECTIONS) + 1


def test_defaults_values_and_comments_of_settings(hooks):
    configuration = hooks["configuration"]
    data = {knob.key: knob for knob in configuration.knobs("common", "data")}
    assert data["many"].default == "100" and data["largest"].default == ""
    assert data["image_size"].comment.endswith("that of the images that `encoder.weights` were trained on, else 224")
    heads = {knob.key: knob for knob in configuration.knobs("common", "base")}["heads"]
    assert heads.default.startswith("('logit_adjustment',")
    assert configuration.values("retrain.k") == "at least 1"
    assert configuration.values("encoder.init") == "`he`, `torch`"


def test_a_setting_without_a_comment_is_an_error(hooks, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/common.py").write_text("def base():\n    config = {}\n    config.method = 1\n")
    monkeypatch.setattr(hooks["configuration"], "ROOT", tmp_path)
    with pytest.raises(ValueError, match="method has no comment"):
        hooks["configuration"].knobs("common", "base")


@pytest.mark.parametrize(
    ("page", "tables"),
    [
        ("losses", ["SUPERVISED"]),
        ("contrastive", ["CONTRASTIVE"]),
        ("heads", ["HEADS"]),
        ("samplers", ["ORDERS", "SELECTORS", "MIXES"]),
    ],
)
def test_every_method_has_a_heading_on_the_page_of_its_family(page, tables):
    headings = re.findall(r"^##+ .*$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    described = re.findall(r"`(\w+)`", " ".join(headings))
    names = [name for table in tables for name in getattr(methods, table)]
    assert [name for name in described if name in names] != [] and set(names) <= set(described)


def test_an_equation_becomes_mathml(hooks):
    convert = hooks["pages"].on_page_content
    block = convert(r'<div class="arithmatex">\[ \frac{a}{b} &lt; c \]</div>', None, None, None)
    assert block.startswith('<div class="equation"><math') and "<mfrac>" in block and "arithmatex" not in block
    assert 'display="block"' in block
    inline = convert(r'A <span class="arithmatex">\(\sqrt{x}\)</span>.', None, None, None)
    assert "<msqrt>" in inline and 'display="inline"' in inline
    with pytest.raises(exceptions.PluginError, match="unheardof"):
        convert(r'<span class="arithmatex">\(\unheardof{x}\)</span>', None, None, None)


@pytest.mark.parametrize(
    ("origin", "source", "link", "expected"),
    [
        ("CONTRIBUTING.md", "contributing.md", "[b](docs/bns.md#the-loss)", "[b](bns.md#the-loss)"),
        ("CONTRIBUTING.md", "contributing.md", "[c](CHANGELOG.md)", "[c](changelog.md)"),
        (
            "docs/methods.md",
            "methods.md",
            "[m](../lt_jax/methods/__init__.py)",
            "[m](R/blob/main/lt_jax/methods/__init__.py)",
        ),
        ("docs/methods.md", "methods.md", "[m](../launch/README.md)", "[m](scaling.md)"),
        ("docs/reference/losses.md", "reference/losses.md", "[l](../losses.md)", "[l](../losses.md)"),
        ("docs/index.md", "index.md", "[x](no_such_file.py)", "[x](no_such_file.py)"),
        ("docs/index.md", "index.md", "![p](demo.png)", "![p](demo.png)"),
    ],
)
def test_links_are_rewritten_for_the_site(hooks, origin, source, link, expected):
    pages = hooks["pages"]
    assert pages.LINK.sub(lambda match: pages._link(match, origin, source, "R"), link) == expected


class Targets(html.parser.HTMLParser):
    """The addresses that a page loads or links to, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.linked, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        is_loaded = tag in ("script", "img", "iframe", "source") or (tag == "link" and values.get("rel") != "canonical")
        for name in ("href", "src"):
            if values.get(name):
                (self.loaded if is_loaded else self.linked).append(values[name])


@pytest.mark.slow
def test_the_site_builds_and_its_links_hold(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: Targets(path.read_text()) for path in tmp_path.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    broken = []
    for path, targets in pages.items():
        assert not [url for url in targets.loaded if re.match(r"(\w+:)?//", url)], path
        for url in targets.linked + targets.loaded:
            address = urllib.parse.urlsplit(url)
            if address.scheme or address.netloc:
                continue
            file = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            file = file / "index.html" if file.is_dir() else file
            anchor = urllib.parse.unquote(address.fragment)
            if not file.exists() or (anchor and file in pages and anchor not in pages[file].anchors):
                broken.append(f"{path.relative_to(tmp_path)}: {url}")
    assert not broken
    assert not [path for path in pages if "arithmatex" in path.read_text()]
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text()), style


def test_the_example_of_getting_started_runs():
    text = (DOCS / "getting-started.md").read_text().partition("## Parts in your own code")[2]
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)
    classes, losses = namespace["classes"], namespace["losses"]
    assert losses.balanced_softmax(np.zeros((2, 3)), np.array([0, 2]), classes).shape == (2,)
