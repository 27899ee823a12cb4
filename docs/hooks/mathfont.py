"""The font of equations, for machines that have none: the part of STIX Two Math that equations use, as a web font.

The font comes with the package ziamath, under the SIL Open Font License 1.1, whose text stays in the file.
"""

import importlib.resources
import io

from fontTools import subset

RANGES = (
    (0x20, 0x7E), (0xB0, 0xB7), (0x391, 0x3F5),  # Latin, signs, Greek
    (0x2010, 0x2070), (0x2190, 0x2194), (0x2200, 0x22FF), (0x27E6, 0x27EB),  # dashes, arrows, operators, brackets
    (0x1D434, 0x1D467), (0x1D6E2, 0x1D71B), (0x210E, 0x210E),  # italic letters
    (0x1D53C, 0x1D53C), (0x1D7D9, 0x1D7D9),  # E of an expectation, 1 of an indicator
)  # fmt: skip


def woff():
    """Returns the content of the web font."""
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"])
    with importlib.resources.as_file(importlib.resources.files("ziamath.fonts") / "STIXTwoMath-Regular.ttf") as path:
        font = subset.load_font(path, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[code for first, last in RANGES for code in range(first, last + 1)])
    subsetter.subset(font)
    content = io.BytesIO()
    subset.save_font(font, content, options)
    return content.getvalue()
