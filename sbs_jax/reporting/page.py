"""Finished runs and studies -> tables, figures with their data, and one self-contained HTML page.

Reads what `sbs train`, `sbs study` and `sbs demo` leave behind and never a model, so a report can
be made anywhere, and made again.
"""

import base64
import importlib.util
import json
import os
from collections.abc import Sequence
from typing import Any

from sbs_jax.reporting import figures, sections, study_files
from sbs_jax.reporting.sections import Figure, Section
from sbs_jax.utils import buckets, files, paths
from sbs_jax.utils.buckets import AnyPath, place

PAGE, MARKDOWN, NUMBERS = "report.html", "results.md", "results.json"
_PICTURES = (
    "Without matplotlib there are no pictures; pip install 'sbs_jax[report]' and report again."
)
_NO_PAGE = f"Without jinja2 there is no {PAGE}; pip install 'sbs_jax[report]' and report again."


def write(sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> str:
    """Writes report.html, results.md, results.json, and every picture as PNG, SVG, CSV and JSON.

    Args:
        sources: MODEL_DIRs, study folders, or folders that hold such.
        out: the folder to write to, local or gs://.

    Returns:
        The verdict, tables and remarks as text.

    Raises:
        UserError: a bucket that cannot be read, a folder with neither runs nor studies, a study's
            row that cannot be understood, runs with different test questions in one study, or scipy
            is missing.
    """
    for source in sources:
        buckets.reach(os.fspath(source), "--runs")
    buckets.reach(os.fspath(out), "--out")
    parts = sections.build(study_files.find([place(source) for source in sources]))
    folder = place(out)
    buckets.make_folder(folder)
    for figure in (figure for section in parts for figure in section.figures):
        _write_figure(folder, figure)
    notes = [] if figures.available() else [_PICTURES]
    with_page = importlib.util.find_spec("jinja2") is not None
    if with_page:
        files.write_bytes(folder / PAGE, _html(parts, notes).encode())
    notes += [] if with_page else [_NO_PAGE]
    text = "\n\n".join([*(section.text() for section in parts), *notes])
    markdown = "\n\n".join([*(section.markdown() for section in parts), *notes])
    files.write_lines(folder / MARKDOWN, [markdown, "\n"])
    numbers = json.dumps([section.to_json() for section in parts], indent=1)
    files.write_lines(folder / NUMBERS, [numbers, "\n"])
    return text


def _write_figure(out: AnyPath, figure: Figure) -> None:
    files.write_bytes(out / f"{figure.name}.png", figure.picture.png)
    files.write_bytes(out / f"{figure.name}.svg", figure.picture.svg)
    files.write_lines(out / f"{figure.name}.json", [json.dumps(figure.data, indent=1)])
    files.write_lines(out / f"{figure.name}.csv", [figure.csv()])


def _html(parts: Sequence[Section], notes: Sequence[str]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = _inline
    style, paged, browser = (
        paths.asset(name).read_text(encoding="utf-8")
        for name in ("report.css", "paged.js", "report.js")
    )
    template: Any = environment.from_string(paths.asset(PAGE).read_text(encoding="utf-8"))
    return template.render(
        title=parts[0].title, sections=parts, notes=notes, style=style, script=paged + browser
    )


def _inline(picture: figures.Picture) -> str:
    """A picture as the address of an image that is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
