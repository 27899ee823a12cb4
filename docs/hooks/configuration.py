"""The page of all settings, from the comments beside them in configs/common.py.

python docs/hooks/configuration.py     prints the page
"""

import ast
import dataclasses
import io
import pathlib
import re
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

TRAINED = ("pretrain", "baseline", "probe", "retrain")
AUGMENTED = ("pretrain.augment", "baseline.augment", "baseline.contrastive_augment", "probe.augment", "retrain.augment")
# (file, function) -> the title of its section, and the blocks of the config that it makes.
SECTIONS = {
    ("common", "base"): ("All experiments", ("",)),
    ("common", "data"): ("Data", ("data",)),
    ("common", "encoder"): ("Encoder", ("encoder",)),
    ("common", "training"): ("Training", TRAINED),
    ("common", "augment"): ("Augmentation", AUGMENTED),
    ("common", "pretrain"): ("Contrastive pretraining", ("pretrain",)),
    ("common", "baseline"): ("Baseline", ("baseline",)),
    ("common", "probe"): ("Linear probe", ("probe",)),
    ("common", "retrain"): ("Retraining on a balanced subset", ("retrain",)),
    ("common", "dlsa"): ("DLSA", ("dlsa",)),
}
INTRODUCTION = """\
# Configuration

Every key of a config, from the comments beside it in `configs/common.py`. Each can be
changed on the command line:

```sh
python -m lt_jax.main --config=configs/cifar10_lt.py:100 --config.retrain.k=20 --config.encoder.name=resnet34
```

A key that does not exist, a value of another type and a number out of range are refused in one line. An empty default
means that each config file chooses the value. Batch sizes and learning rates are those of the global batch.

## Config files

Tokens come behind the colon, separated by commas: `configs/cifar10_lt.py:50,smoke`. A number is the imbalance factor,
`smoke` the short form, `method=NAME` a recipe of [the table of methods](methods.md).

"""


@dataclasses.dataclass(frozen=True)
class Knob:
    """A setting: its key within its block, its default as in the code ("" for an argument without one), its comment."""

    key: str
    default: str
    comment: str


def page():
    """Returns the page in Markdown."""
    return INTRODUCTION + config_files() + "".join(section(*name) for name in SECTIONS)


def config_files():
    """Returns the table of config files: what their docstrings begin with."""
    rows = []
    for file in sorted((ROOT / "configs").glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        if file.stem not in ("common", "large", "__init__"):
            rows.append(f"| `configs/{file.name}` | {_cell(text.partition(chr(10) * 2)[0])} |")
    return "\n".join(["| file | experiment |", "|---|---|", *rows]) + "\n"


def section(file, function):
    """Returns the table of the settings that one function defines."""
    title, blocks = SECTIONS[file, function]
    named = " ".join(f"`config.{block}`" for block in blocks if block)
    lines = [f"\n## {title}\n"]
    if named:
        lines.append(f"Keys of {named.replace('` `', '`, `')}.\n")
    lines += ["| key | default | values | meaning |", "|---|---|---|---|"]
    for knob in knobs(file, function):
        prefix = f"{blocks[0]}." if blocks[0] else ""
        cells = (f"`{knob.key}`", f"`{knob.default}`" if knob.default else "", values(prefix + knob.key))
        lines.append(f"| {' | '.join(cells)} | {_cell(knob.comment)} |")
    return "\n".join(lines) + "\n"


def values(key):
    """Returns the values that a key may have, in words; "" where its type alone says so."""
    from lt_jax.run import config, knobs

    if key in config.CHOICES:
        return ", ".join(f"`{choice or repr(choice)}`" for choice in config.CHOICES[key])
    interval = knobs.INTERVALS.get(key, "")
    return knobs._words(interval) if interval not in ("", "(-inf, inf)") else ""


def knobs(file, function):
    """Returns the settings that a function of a config file assigns, in its order.

    Raises:
      ValueError: a setting without a comment.
    """
    text = (ROOT / "configs" / f"{file}.py").read_text()
    (node,) = [x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef) and x.name == function]
    comments, blocks, settings = _comments(text), {"config": ""}, []
    defaults = _constants(text) | _arguments(node)
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Attribute):
            continue
        key = f"{blocks[target.value.id]}{target.attr}"
        if len(statement.targets) == 2:  # config.log = log = ConfigDict()
            blocks[statement.targets[1].id] = f"{key}."
        elif not target.attr.endswith("augment"):  # that is a block of its own
            comment = _comment_of(statement, comments)
            if not comment:
                raise ValueError(f"configs/{file}.py: {key} has no comment")
            settings.append(Knob(key, _default(statement.value, defaults), comment))
    return settings


def _comments(text):
    """{line: (comment, whether the line holds nothing else)} of a source text."""
    lines = text.splitlines()
    tokens = [x for x in tokenize.generate_tokens(io.StringIO(text).readline) if x.type == tokenize.COMMENT]
    return {x.start[0]: (x.string.lstrip("# "), lines[x.start[0] - 1].lstrip().startswith("#")) for x in tokens}


def _comment_of(statement, comments):
    """The comment on the first or last line of a statement, and the whole lines of comment that continue it."""
    for line in (statement.lineno, statement.end_lineno):
        if line in comments:
            parts = [comments[line][0]]
            after = statement.end_lineno + 1
            while after in comments and comments[after][1]:
                parts.append(comments[after][0])
                after += 1
            return " ".join(parts)
    return ""


def _constants(text):
    """{name: value as in the code} of the constants of a source text."""
    assigned = [x for x in ast.parse(text).body if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name)]
    return {x.targets[0].id: ast.unparse(x.value) for x in assigned}


def _arguments(node):
    """{argument: its default as in the code} of a function; "" where it has none."""
    names = [argument.arg for argument in node.args.args]
    defaults = [ast.unparse(default) for default in node.args.defaults]
    return dict(zip(names, [""] * (len(names) - len(defaults)) + defaults, strict=True))


def _default(value, named):
    """A literal as it stands, or what is named: the default of an argument, "" without one, or a constant."""
    names = [x.id for x in ast.walk(value) if isinstance(x, ast.Name) and x.id in named]
    return named[names[0]] if names else ast.unparse(value)


def _cell(text):
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


if __name__ == "__main__":
    print(page())
