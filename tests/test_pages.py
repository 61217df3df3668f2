"""The report page: whole, self-contained, escaped, readable without eyes."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgm_dali.report.pages import KeyFigure, Picture, Report, Section, Table, write_report
from mgm_dali.report.saving import save_animation

NASTY = '<script>alert("1 & 2")</script>'
VOID = {"meta", "img"}


class Page(HTMLParser):
    """The page as a reader gets it: tags with their attributes, and text; nesting is checked."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    Image.new("RGB", (300, 150)).save(tmp_path / "a name & more.png", dpi=(150, 150))
    save_animation(np.zeros((2, 256, 256, 3), np.uint8), tmp_path / "clip.mp4")
    pictures = (
        Picture("a name & more.png", NASTY, f'{NASTY} "quoted"'),
        Picture("clip.mp4", "A clip.", "A shape moves."),
    )
    table = Table((NASTY, "top-1"), (("tube", "17.2%"), (NASTY, "24.0%")), NASTY)
    report = Report(
        NASTY,
        f"One.\n\nTwo {NASTY}.",
        (KeyFigure(NASTY, NASTY, NASTY),),
        (Section(NASTY, NASTY, pictures, table), Section("Empty")),
    )
    return Page(write_report(tmp_path, report))


def test_text_in_the_page_is_escaped(page: Page) -> None:
    assert not page.all("script")
    # title, h1, summary, 3 of the key figure, heading, text, caption, table's caption, head, cell
    assert page.text.count(NASTY) == 12
    assert page.all("img")[0]["alt"] == f'{NASTY} "quoted"'


def test_every_picture_of_the_page_exists(page: Page, tmp_path: Path) -> None:
    sources = [tag["src"] for tag in page.all("img") + page.all("video")]
    assert sources == ["a%20name%20%26%20more.png", "clip.mp4"]
    assert all((tmp_path / name).is_file() for name in ("a name & more.png", "clip.mp4"))


def test_a_page_with_a_missing_picture_is_not_written(tmp_path: Path) -> None:
    section = Section("Masks", pictures=(Picture("masks.png", "", ""),))
    with pytest.raises(FileNotFoundError, match=r"masks\.png"):
        write_report(tmp_path, Report("title", "", sections=(section,)))
    assert not list(tmp_path.iterdir())


def test_the_page_asks_nothing_of_the_network(page: Page) -> None:
    addresses = [
        value for _, tag in page.tags for key, value in tag.items() if key in ("src", "href")
    ]
    assert addresses and not any("//" in (address or "") for address in addresses)
    assert not page.all("link") and "url(" not in page.text and "@import" not in page.text


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    assert all(tag.get("alt") for tag in page.all("img"))
    assert all(tag.get("aria-label") and "controls" in tag for tag in page.all("video"))
    assert all(tag["scope"] == "col" for tag in page.all("th"))


def test_a_picture_takes_its_size_on_paper(page: Page) -> None:
    picture = page.all("img")[0]
    assert (picture["width"], picture["height"]) == ("192", "96")  # 2 x 1 inches


def test_columns_of_numbers_are_aligned_to_the_right(page: Page) -> None:
    assert [tag.get("class") for tag in page.all("th")] == [None, "number"]
    assert [tag.get("class") for tag in page.all("td")] == [None, "number"] * 2


def test_an_empty_line_starts_a_paragraph(page: Page) -> None:
    assert len(page.all("p")) == 3  # two of the summary, one of the section
