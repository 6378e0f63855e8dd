"""One self-contained HTML page: templates that escape, pictures within the page, no request to anywhere.

A page has a light and a dark colour scheme. Pictures have them too: they are drawn in the colours below, which `svg`
replaces by the variables of ``style.css``.
"""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import class_names, optional, png

LARGEST = 2_000_000  # Bytes of a page.
PURPOSE = "an HTML page"

# Colours to draw with, named after their use. Other colours of a picture do not change with the scheme.
INK = "#010101"
MUTED = "#020202"
LINE = "#030303"
PAPER = "#040404"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}
_STYLE = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "parallel_lenet",
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "xtick.major.size": 3,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 9.5,
    "ytick.major.size": 0,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # The metadata that matplotlib writes by itself.


class Html(str):
    """Text that is HTML already. Templates insert it unchanged, and escape any other text."""

    def __html__(self) -> str:
        """The protocol of template engines for text that is not escaped."""
        return self


def render(template: str, *, package: str = "parallel_lenet.report", scripts: Sequence[str] = (), **values: Any) -> str:
    """The page of a template in the folder ``templates`` of ``package``, or of this package.

    ``scripts`` are JavaScript modules for the end of the page, and the only code that the page allows. Values are
    escaped. Raises ExtraError if jinja2 is missing or does not work, and ValueError if a script could end its element.
    """
    for script in scripts:
        if re.search("</script|<!--", script, re.IGNORECASE):
            raise ValueError("a script must not hold </script or <!--")
    return part(
        template,
        package=package,
        policy=_policy(scripts),
        stylesheet=Html(_source((__package__ or "parallel_lenet.report",), "style.css") or ""),
        scripts=[Html(script) for script in scripts],
        **values,
    )


def part(template: str, *, package: str = "parallel_lenet.report", **values: Any) -> Html:
    """A part of a page, from a template as in `render`. Values are escaped. Raises ExtraError as `render` does."""
    jinja2 = optional.load("report", "jinja2", PURPOSE)
    packages = (package, __package__ or "parallel_lenet.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _source(packages, name)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return Html(environment.get_template(template).render(**values))


def _source(packages: Sequence[str], name: str) -> str | None:
    """The text of a file in the folder ``templates`` of one of the packages."""
    candidates = [files(package).joinpath("templates", name) for package in packages]
    return next((file.read_text("utf-8") for file in candidates if file.is_file()), None)


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: the browser may show pictures of the page and run these scripts, nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; "
        "form-action 'none'"
    )


def data(name: str, value: object) -> Html:
    """JSON for a script, which reads it with ``JSON.parse(document.getElementById(name).textContent)``."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


@contextmanager
def drawing() -> Iterator[None]:
    """Within the block matplotlib draws in the style of the pages. The user's own settings have no effect.

    Raises ExtraError if matplotlib is missing or does not work.
    """
    matplotlib = optional.load("report", "matplotlib", PURPOSE)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(width: float = 420, height: float = 240, margins: tuple[float, float, float, float] | None = None) -> Any:
    """A new figure of matplotlib. Call it within `drawing`. Units are pixels of the page at full size.

    ``margins`` are those left, right, above and below its axes. Without them matplotlib computes the room for texts,
    which takes twice as long to draw.
    """
    module = optional.load("report", "matplotlib", PURPOSE, "matplotlib.figure")
    result = module.Figure(figsize=(width / 72, height / 72), layout=None if margins else "constrained")
    if margins:
        left, right, above, below = margins
        result.subplots_adjust(left / width, below / height, 1 - right / width, 1 - above / height)
    return result


def svg(figure: Any, alt: str) -> Html:
    """A figure of matplotlib as SVG within the page, at most 1.4 times as large as it was drawn.

    ``alt`` describes it for readers who can't see it. Call it within `drawing`.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    text = stream.getvalue()
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    text = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r'(?<=\s)(d|x|y|transform)="[^"]*"', lambda found: _round(found[0]), text)
    text = re.sub(
        "#0[0-9a-f]{5}", lambda found: f"var({_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0], text
    )
    text = re.sub(r">\s+<", "><", text).replace("xlink:href", "href").strip()
    text = _prefix_ids(text, hashlib.sha256(f"{alt}{text}".encode()).hexdigest()[:8])
    label = html.escape(alt)
    return Html(
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {1.4 * width:.0f}px">{text}</svg>'
    )


def _round(attribute: str) -> str:
    """The attribute with its numbers rounded to a hundredth of a pixel."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute)


def _prefix_ids(text: str, prefix: str) -> str:
    """The text with a prefix for each id that it refers to, and without other ids."""
    used_ids = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used_ids else "", text)
    return re.sub(r'(href="|url\()#([^")]+)', rf"\1#{prefix}-\2", text)


def class_name(names: Sequence[str] | None, label: int) -> str:
    """A class as a page shows it: its number, or HTML that shortens a long name if the classes have names.

    The complete name is the tooltip.
    """
    if names is None:
        return str(label)
    name = html.escape(class_names.display_name(names, label))
    return Html(f'<bdi class="class-name" title="{name}">{name}</bdi>')


def image(array: NDArray[np.uint8], alt: str, scale: int = 1, title: str = "") -> Html:
    """An image ``(h, w)`` or ``(h, w, 3)`` of uint8, shown ``scale`` times as large and unblurred.

    ``alt`` describes it, and is empty if the text beside it does. ``title`` is the tooltip.
    """
    height, width = array.shape[:2]
    source = base64.b64encode(png.encode(array)).decode()
    more = f' title="{html.escape(title)}"' if title else ""
    return Html(
        f'<img class="pixels" alt="{html.escape(alt)}"{more} width="{scale * width}" height="{scale * height}" '
        f'src="data:image/png;base64,{source}">'
    )
