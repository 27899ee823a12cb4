"""The hook of mkdocs: pages from files outside `docs`, the page of all settings, links into the code, and equations."""

import html
import pathlib
import posixpath
import re

import configuration
import mathfont
from latex2mathml import converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Files of the repository that are pages of the site.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "launch/README.md": "scaling.md",
}
ORIGIN = {page: path for path, page in OUTSIDE.items()}
# Files that a page of the site says everything about.
DESCRIBED = {"configs/common.py": "configuration.md"}
LINK = re.compile(r"(!?)\[([^\]\n]*(?:\n[^\]\n]+)?)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)

# A function before its argument, which needs a thin space unless that is in brackets.
FUNCTION = re.compile(r"(?<!<msub>)(?<!<munder>)(<mi>(?:cos|det|exp|log|sin)</mi>)(?!</|<mo[^>]*>&#x00028;)")


def on_files(files, config):
    """Adds the pages that are not files of `docs`."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    files.append(File.generated(config, "configuration.md", content=configuration.page()))
    return files


def on_post_build(config):
    """Writes the font of the equations beside the style sheet that names it."""
    pathlib.Path(config["site_dir"], "math.woff").write_bytes(mathfont.woff())


def on_page_markdown(markdown, page, config, files):
    """Returns the page with links that hold on the site."""
    source = page.file.src_uri
    origin = ORIGIN.get(source, f"docs/{source}")
    return LINK.sub(lambda match: _link(match, origin, source, config["repo_url"]), markdown)


def on_page_content(content, page, config, files):
    """Returns the page with equations as MathML, which browsers show without a script."""
    return EQUATION.sub(_equation, content)


def _link(match, origin, source, repository):
    """A link in the file `origin` of the repository, rewritten for the page `source` of the site."""
    image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    page = (
        OUTSIDE.get(path) or DESCRIBED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    )
    if page:
        page = posixpath.relpath(page, posixpath.dirname(source) or ".")
        return f"{image}[{text}]({page}{anchor})"
    if not (ROOT / path).exists():
        return match[0]  # mkdocs says that there is no such file
    return f"[{text}]({repository.rstrip('/')}/blob/main/{path})" if repository else text


def _equation(match):
    display = "block" if match[1] == "div" else "inline"
    tex = html.unescape(match[2]).strip()
    mathml = FUNCTION.sub(r'\1<mspace width="0.17em"/>', converter.convert(tex, display=display))
    unknown = re.search(r"\\[A-Za-z]+", mathml)
    if unknown:
        raise PluginError(f"equation {tex!r}: {unknown[0]} is not known to latex2mathml")
    return f'<div class="equation">{mathml}</div>' if display == "block" else mathml
