"""A report as one HTML page beside its pictures: opened from disk, no network, no script.

Text is text: whatever a class or a file is called, it is escaped.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from mgm_dali.files import write_whole

__all__ = ["KeyFigure", "Picture", "Report", "Section", "Table", "write_report"]

CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class KeyFigure:
    """One number that a reader should take home."""

    name: str
    value: str
    note: str = ""
    """What it is to be compared with, such as its interval or chance."""


@dataclass(frozen=True)
class Picture:
    """A PNG, GIF or MP4 in the folder of the page."""

    file: str
    """Path relative to the folder."""
    caption: str
    alt: str
    """What is to be seen, for those who cannot see it."""


@dataclass(frozen=True)
class Table:
    """At least one row; columns of numbers are aligned to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; an empty line in the text starts a paragraph."""

    heading: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    title: str
    summary: str
    key_figures: tuple[KeyFigure, ...] = ()
    sections: tuple[Section, ...] = ()


def write_report(folder: str | Path, report: Report) -> Path:
    """Writes `folder/index.html` and returns its path.

    Raises `FileNotFoundError` if a picture is not there: a page with holes is worse than none.
    """
    folder = Path(folder)
    for section in report.sections:
        for picture in section.pictures:
            if not (folder / picture.file).is_file():
                raise FileNotFoundError(f"{folder / picture.file}: picture of a report is missing")
    page = folder / "index.html"
    write_whole(page, _page(folder, report))
    return page


def _page(folder: Path, report: Report) -> str:
    sections = "\n".join(_section(folder, section) for section in report.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
{_paragraphs(report.summary)}
{_key_figures(report.key_figures)}
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _key_figures(figures: tuple[KeyFigure, ...]) -> str:
    if not figures:
        return ""
    items = "\n".join(
        f"<div><dt>{escape(figure.name)}</dt><dd>{escape(figure.value)}"
        f"<small>{escape(figure.note)}</small></dd></div>"
        for figure in figures
    )
    return f'<dl class="figures">\n{items}\n</dl>'


def _section(folder: Path, section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>", _paragraphs(section.text)]
    parts += [_picture(folder, picture) for picture in section.pictures]
    if section.table is not None:
        parts.append(_table(section.table))
    return "<section>\n" + "\n".join(filter(None, parts)) + "\n</section>"


def _paragraphs(text: str) -> str:
    blocks = (block.strip() for block in text.split("\n\n"))
    return "\n".join(f"<p>{escape(block)}</p>" for block in blocks if block)


def _picture(folder: Path, picture: Picture) -> str:
    source, alt = escape(quote(picture.file)), escape(picture.alt)
    if picture.file.lower().endswith(".mp4"):
        shown = f'<video src="{source}" aria-label="{alt}" controls loop muted playsinline></video>'
    else:
        width, height = _size_on_screen(folder / picture.file)
        shown = (
            f'<a href="{source}"><img src="{source}" alt="{alt}" width="{width}" height="{height}" '
            'loading="lazy"></a>'
        )
    return f"<figure>\n{shown}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"


def _size_on_screen(path: Path) -> tuple[int, int]:
    """Width and height in CSS pixels: a figure has its size on paper, whatever its resolution."""
    with Image.open(path) as image:
        dots_per_inch, _ = image.info.get("dpi", (CSS_PIXELS_PER_INCH, CSS_PIXELS_PER_INCH))
        scale = CSS_PIXELS_PER_INCH / dots_per_inch
        return round(image.width * scale), round(image.height * scale)


def _table(table: Table) -> str:
    is_number = [all(map(_starts_as_number, column)) for column in zip(*table.rows, strict=True)]
    marks = [' class="number"' if number else "" for number in is_number]
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    header = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>'
        for name, mark in zip(table.header, marks, strict=True)
    )
    rows = "\n".join(f"<tr>{_cells(row, marks)}</tr>" for row in table.rows)
    # A table that is wider than a telephone is scrolled by itself, by keyboard too.
    return (
        '<div class="scroll" tabindex="0"><table>'
        f"{caption}\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cells(row: tuple[str, ...], marks: list[str]) -> str:
    cells = zip(row, marks, strict=True)
    return "".join(f"<td{mark}>{escape(text)}</td>" for text, mark in cells)


def _starts_as_number(text: str) -> bool:
    return text.lstrip("+-")[:1].isdigit()


STYLE = """
:root { --ink: #1c2430; --soft: #566070; --paper: #fbfbfa; --card: #ffffff; --line: #d9dde3;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #a3adba; --paper: #14181e; --card: #1d232b; --line: #36404c;
    --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; text-wrap: balance; }
h2 { margin: 3.5rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line);
  font-size: 1.35rem; line-height: 1.3; }
p { max-width: 44rem; margin: .6rem 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: .75rem; margin: 1.75rem 0 0; }
.figures div { display: flex; flex-direction: column; padding: .8rem 1rem;
  border: 1px solid var(--line); border-radius: .5rem; background: var(--card); }
dt { color: var(--soft); font-size: .875rem; }
dd { margin: 0; font-size: 1.6rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
dd small { display: block; margin-top: .2rem; color: var(--soft); font-size: .875rem;
  font-weight: 400; line-height: 1.4; }
figure { margin: 1.5rem 0; }
figure a { display: table; max-width: 100%; }
img, video { display: block; max-width: 100%; height: auto; padding: .5rem;
  border: 1px solid var(--line); border-radius: .5rem; background: #fff; }
figcaption { max-width: 44rem; margin-top: .5rem; color: var(--soft); font-size: .9375rem; }
a:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .4rem; color: var(--soft); font-size: .9375rem; text-align: left; }
th, td { padding: .4rem 1.25rem .4rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
@media print { body { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""
