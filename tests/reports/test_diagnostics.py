from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptuning.reports.diagnostics import draw_attention, draw_norms, draw_similarity
from ptuning.reports.style import ONE_COLUMN, TWO_COLUMNS, save_figure


def _norms(num_layers: int, num_points: int, saved_at: int | None = 10) -> Any:
    course = [[1.0 + 0.1 * layer + 0.01 * point for layer in range(num_layers)] for point in range(num_points)]
    return draw_norms(
        title="tickets",
        layers=range(num_layers),
        steps=[10 * (point + 1) for point in range(num_points)],
        keys=course,
        values=course,
        real_keys=[2.0 + layer for layer in range(num_layers)],
        real_values=[1.0] * num_layers,
        saved_at=saved_at,
    )


def test_attention_is_a_map_of_layers_by_heads_from_the_bottom_up() -> None:
    attention = [[0.0, 0.0, 0.0], [0.1, 0.2, 0.34]]
    figure = draw_attention(attention, title="tickets")
    axes, bar = figure.axes
    (image,) = axes.images
    assert image.get_array().tolist() == attention and not axes.yaxis_inverted()
    assert (image.norm.vmin, image.norm.vmax) == (0.0, pytest.approx(0.4)), "nothing is white, whatever the most is"
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("head", "layer", "attention on virtual tokens")
    assert [text.get_text() for text in axes.texts] == [".00", ".00", ".00", ".10", ".20", ".34"]
    assert figure.get_figwidth() == ONE_COLUMN


def test_many_heads_take_two_columns_and_leave_the_numbers_out() -> None:
    figure = draw_attention([[0.5] * 32 for _ in range(24)], title="tickets")
    assert figure.get_figwidth() == TWO_COLUMNS and not figure.axes[0].texts


def test_norms_are_a_line_a_layer_with_real_tokens_dashed() -> None:
    figure = _norms(3, 4)
    keys, values = figure.axes
    assert [keys.get_title(), values.get_title()] == ["keys", "values"]
    solid = [line for line in keys.lines if line.get_linestyle() == "-"]
    dashed = [line for line in keys.lines if line.get_linestyle() == "--"]
    (saved,) = [line for line in keys.lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in solid] == [
        [1.0 + 0.1 * layer + 0.01 * point for point in range(4)] for layer in range(3)
    ]
    assert [list(line.get_ydata())[0] for line in dashed] == [2.0, 3.0, 4.0]
    assert [line.get_color() for line in solid] == [line.get_color() for line in dashed]
    assert list(saved.get_xdata()) == [10, 10]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["layer 2", "layer 1", "layer 0", "virtual tokens", "real tokens", "saved"]


def test_many_layers_have_a_colour_bar_instead_of_names(tmp_path: Path) -> None:
    figure = _norms(24, 2, saved_at=None)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["virtual tokens", "real tokens"]
    assert figure.axes[-1].get_ylabel() == "layer"
    save_figure(figure, tmp_path / "many")


def test_similarity_between_tasks_is_pairs_by_layers() -> None:
    pairs = [("tickets", "entities"), ("tickets", "answers-of-a-very-long-name"), ("entities", "answers")]
    found = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.9]]
    figure = draw_similarity(pairs, [4, 5], found, found, between="tasks", chance=0.15)
    keys, values, bar = figure.axes
    assert keys.images[0].get_array().tolist() == values.images[0].get_array().tolist() == found
    assert [label.get_text() for label in keys.get_xticklabels()] == ["4", "5"]
    names = [label.get_text() for label in keys.get_yticklabels()]
    assert names == ["tickets – entities", "tickets – …of-a-very-long-name", "entities – answers"]
    assert "chance, 0.15" in bar.get_ylabel() and list(bar.lines[-1].get_ydata()) == [0.15, 0.15]


def test_similarity_between_layers_is_a_square_with_ones_on_its_diagonal() -> None:
    pairs = [("1", "3"), ("1", "5"), ("3", "5")]
    figure = draw_similarity(pairs, [1, 3, 5], [(0.1,), (0.2,), (0.3,)], [(0.4,)] * 3, between="layers", chance=0.1)
    expected = [[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]
    assert figure.axes[0].images[0].get_array().tolist() == expected


@pytest.mark.parametrize("num_layers", [1, 12])
def test_all_of_them_can_be_written(num_layers: int, tmp_path: Path) -> None:
    pairs = [("a", "b")]
    for name, figure in (
        ("attention", draw_attention([[0.0] * 2] * num_layers, title="a & b <c>")),
        ("norms", _norms(num_layers, 1)),
        (
            "similarity",
            draw_similarity(
                pairs, range(num_layers), [[1.0] * num_layers], [[0.0] * num_layers], between="tasks", chance=0.2
            ),
        ),
    ):
        for path in save_figure(figure, tmp_path / name):
            assert path.stat().st_size > 1000
