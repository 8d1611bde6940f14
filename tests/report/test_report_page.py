"""report.html is the report of report.md with all that it shows, and clips to look at."""

import numpy as np
import pytest
from report.test_report import tables, write_run

from ikem.data.dataset import PreparedDataset
from ikem.report import report
from ikem.report.examples import examples
from ikem.report.pictures import PICTURES
from ikem.report.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a reported run, of whose pictures one is drawn."""
    config = write_run(tmp_path_factory.mktemp("run"), bodies=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ikem.report.write.PICTURES", {"accuracy": PICTURES["accuracy"]})
        report(config)
    return config


def test_clips_went_as_the_evaluation_says(run):
    found = examples(Run.read(run.run, PreparedDataset(run.data.folder)))
    (wrong,) = found["went wrong"]  # the third test clip of the first class
    assert (wrong.name, wrong.label) == ("clip5", "sit down")
    assert [name for name, _ in wrong.guesses] == ["stand up", "wave", "sit down"]
    # Of each class the surest, first of those of which one went wrong.
    right = [(clip.name, clip.label) for clip in found["went right"]]
    assert right == [("clip3", "sit down"), ("clip17", "wave"), ("clip11", "stand up")]
    assert all(clip.guesses[0][0] == clip.label for clip in found["went right"])


def test_an_evaluation_that_says_nothing_of_clips_has_none(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ikem.report.write.PICTURES", {})
    config = write_run(tmp_path)
    with np.load(config.run / "evaluation.npz") as arrays:
        kept = {name: values for name, values in arrays.items() if not name.startswith(("classes", "scores"))}
    np.savez(config.run / "evaluation.npz", **kept)
    report(config)
    page = (config.run / "report.html").read_text()
    assert "went wrong" not in page
    assert "plotly" not in page


def test_holds_what_report_md_says_and_all_that_it_shows(run):
    text, page = ((run.run / f"report.{kind}").read_text() for kind in ("md", "html"))
    rows = [line for line in tables(text) if not line[0].startswith("---")]
    assert page.count("<tr>") == len(rows)
    assert all(f">{cell}</t" in page for row in rows for cell in row if cell and "`" not in cell)
    assert 'src="data:image/png;base64,' in page
    assert "pictures/accuracy.png" not in page
    assert len(page) < 10_000_000


def test_tables_are_sorted_and_clips_are_played(run, opened, tmp_path):
    window = opened(run.run / "report.html")
    table = window.locator("table").first

    def column(place):
        return table.locator("tbody tr").evaluate_all(
            "(rows, place) => rows.map((r) => r.cells[place].innerText)", place
        )

    numbers = [float(cell) for cell in column(5) if cell]
    table.locator("th button").nth(5).click()
    assert column(5) == [f"{number:.1f}" for number in sorted(numbers, reverse=True)] + [""] * (
        len(column(5)) - len(numbers)
    )
    table.locator("th button").nth(5).click()
    assert [float(cell) for cell in column(5) if cell] == sorted(numbers)
    table.locator("th button").nth(1).click()
    assert column(1) == sorted(column(1), key=str.lower)
    assert [title.strip() for title in window.locator("h3").all_inner_texts()][:1] == ["Clips that went wrong"]
    players = window.locator(".player")
    assert players.count() == 2
    assert "taken for" in players.first.inner_text()
    players.nth(1).get_by_role("button", name="play").click()
    window.wait_for_function("!document.querySelectorAll('output')[1].textContent.startsWith('1 ')")
    assert players.first.locator("output").inner_text() == "1 / 12"
    window.screenshot(path=tmp_path / "report.png", full_page=True)
