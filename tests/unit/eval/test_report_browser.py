"""The page in headless Chromium: it requests nothing, logs no errors, and fits a phone screen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dpd_eval.report import write_report
from tests.drawn_results import audit, evaluation, soft, write_json, write_set
from tests.unit.eval.chromium import Chromium, find_chromium

EXECUTABLE = find_chromium()
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here: apt-get install chromium"),
]
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] / 255 + below[i] * (1 - top[3] / 255));
  const ground = rgba(getComputedStyle(document.body).backgroundColor);
  document.querySelectorAll('details').forEach(details => details.open = true);
  let least = 99;
  for (const element of document.querySelectorAll('p, td, th, li, h1, h2, h3, summary, caption, .tone, .chart text')) {
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const behind = over(rgba(style.backgroundColor), ground);
    const [one, two] = [light(rgba(svg ? style.fill : style.color)), light(behind)].sort((a, b) => b - a);
    least = Math.min(least, (one + 0.05) / (two + 0.05));
  }
  return least;
})()
"""
LONG = tuple(f"{'Herbaceous' * 3}Vegetation{i}" for i in range(12))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert EXECUTABLE is not None
    with Chromium(EXECUTABLE, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page with every section, long names, and markup in place of text."""
    folder = tmp_path_factory.mktemp("page")
    students, baselines = ("convnet", "resnet", "mobilenetv2", "vit-tiny"), ("random", "herding", "k-means", "full")
    whole = evaluation(students=students, baselines=baselines, classes=("<script>alert(1)</script>", *LONG))
    few = soft(evaluation(students=students, pairs={10: 2}, classes=("<script>alert(1)</script>", *LONG), bonus=0.1))
    few = replace(few, recipe=replace(few.recipe, name="own", cutmix=0.0))
    paths = [
        write_json(folder / "hard.json", whole.to_dict()),
        write_json(folder / "soft.json", few.to_dict()),
        write_json(folder / "audit.json", audit()),
        write_json(folder / "bench.json", {"timings": [{"what": "x" * 200, "seconds": 3.5}]}),
        write_set(folder / "set0", ("<img src=x onerror=alert(1)>", *LONG), ipc=10),
    ]
    write_report(paths, folder / "page.html")
    return folder / "page.html"


def test_the_browser_tells_of_requests_and_complaints(browser: Chromium, tmp_path: Path) -> None:
    """Control: the checks below do find what they look for."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://localhost:9/a.png"><link rel="stylesheet" href="b.css"><script>throw 1</script>')
    browser.open(bad)
    assert {url.rsplit("/", 1)[1] for url in browser.requests(bad)} == {"a.png", "b.css"}
    assert any("Uncaught" in said for said in browser.complaints())
    assert browser.evaluate(CONTRAST) == 99  # it has no text
    good = tmp_path / "good.html"
    good.write_text('<!DOCTYPE html><title>good</title><body style="background: white"><p style="color: #808080">good')
    browser.open(good)
    assert 3.9 < browser.evaluate(CONTRAST) < 4.0  # the known contrast of #808080 on white: 3.95
    assert browser.requests(good) == browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_it_loads_nothing_says_nothing_and_fits(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.requests(page) == []
    assert browser.complaints() == []
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)") is True
    browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.requests(page) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out_from_its_ground(browser: Chromium, page: Path, dark: bool) -> None:
    """WCAG 2.1 contrast of at least 4.5, shaded cells too; canvas resolves every colour that CSS mixes."""
    browser.open(page, dark=dark)
    assert browser.evaluate(CONTRAST) >= 4.5


def test_light_and_dark_differ_and_paper_is_white(browser: Chromium, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, dark=False)
    assert browser.evaluate(ground) == "rgb(255, 255, 255)"
    browser.open(page, dark=True)
    assert browser.evaluate(ground) == "rgb(20, 23, 27)"
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.evaluate(ground) == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    hidden = "[...document.querySelectorAll('details:not(.long)')].filter(d => d.offsetHeight < 40).length"
    assert browser.evaluate(hidden) == 0  # closed blocks are printed
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def test_it_prints(browser: Chromium, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
