from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import colors

from ptuning.errors import MissingDependencyError
from ptuning.reports.style import (
    DOTS_PER_INCH,
    ONE_COLUMN,
    PALETTE,
    TWO_COLUMNS,
    house_style,
    new_figure,
    save_figure,
    series_style,
    shades,
)


def _drawn() -> Any:
    with house_style():
        figure, (left, right) = new_figure(width=TWO_COLUMNS, height=2.0, columns=2, sharey=True)
        left.plot([1, 2, 3], [0.2, 0.5, 0.7], label="a method", **series_style(0))
        right.plot([1, 2, 3], [0.1, 0.3, 0.2], **series_style(1, markers=False))
        left.set_title("scores")
        left.legend()
    return figure


def test_a_figure_is_written_as_svg_with_its_text_and_as_png_of_its_size(tmp_path: Path) -> None:
    vector, bitmap = save_figure(_drawn(), tmp_path / "new" / "tickets.v2")
    assert [vector.name, bitmap.name] == ["tickets.v2.svg", "tickets.v2.png"]
    assert sorted(path.name for path in vector.parent.iterdir()) == ["tickets.v2.png", "tickets.v2.svg"]
    assert ">a method</text>" in vector.read_text() and ">scores</text>" in vector.read_text()
    header = bitmap.read_bytes()
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (round(TWO_COLUMNS * DOTS_PER_INCH), 2 * DOTS_PER_INCH)


def test_equal_figures_are_equal_files_without_dates(tmp_path: Path) -> None:
    first, second = save_figure(_drawn(), tmp_path / "one"), save_figure(_drawn(), tmp_path / "two")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert "<dc:date>" not in first[0].read_text()
    assert b"Software" not in first[1].read_bytes()


def test_what_the_user_has_set_stays_and_does_not_change_a_figure(tmp_path: Path) -> None:
    plain, _ = save_figure(_drawn(), tmp_path / "plain")
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        own, _ = save_figure(_drawn(), tmp_path / "own")
        assert dict(matplotlib.rcParams) == before
    assert own.read_bytes() == plain.read_bytes()


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ptuning.reports.style import house_style, new_figure, save_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "with house_style():\n"
        "    figure, _ = new_figure(height=1.0)\n"
        "save_figure(figure, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "empty")], check=True)


def test_no_two_series_look_the_same() -> None:
    styles = [tuple(series_style(index).items()) for index in range(28)]
    assert len(set(styles)) == 28
    without = [tuple(series_style(index, markers=False).items()) for index in range(28)]
    assert len(set(without)) == 28


def test_colours_of_the_palette_are_told_apart_without_colour_vision_by_marker() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
    markers = [series_style(index)["marker"] for index in range(10)]
    assert len(set(markers)) == 10


@pytest.mark.parametrize("count", [1, 2, 6, 24])
def test_shades_go_from_light_to_dark(count: int) -> None:
    luminance = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in shades(count)]
    assert len(luminance) == count and luminance == sorted(luminance, reverse=True)
    assert len({colors.to_hex(shade) for shade in shades(count)}) == count


def test_without_matplotlib_the_line_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: new_figure(width=ONE_COLUMN, height=1.0), lambda: house_style().__enter__()):
        with pytest.raises(MissingDependencyError, match=r'not installed. Run: pip install "ptuning\[reports\]"$'):
            draw()
