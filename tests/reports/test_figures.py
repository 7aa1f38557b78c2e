from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from ptuning.reports.figures import AVERAGE, MAJORITY, figures
from ptuning.reports.outcomes import Comparison
from ptuning.reports.style import house_style

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with house_style():
        yield


def _titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def _labels(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_figures_are_made_where_the_data_have_them(study: Comparison, outcome: Make, comparison: Make) -> None:
    assert list(figures(study)) == [
        "backbone_size",
        "trained_parameters_small",
        "learning_curves_small",
        "trained_parameters_large",
        "learning_curves_large",
        "depth",
        "length",
    ]
    assert list(figures(comparison(outcome("bitfit"), outcome("lora")))) == ["trained_parameters", "learning_curves"]
    assert figures(comparison(outcome("bitfit", curve=[]))) == {}
    assert figures(comparison(outcome("bitfit", score=None))) == {}


def test_there_is_a_panel_a_task_and_a_line_a_method(study: Comparison) -> None:
    figure = figures(study)["backbone_size"]
    assert _titles(figure) == ["rte (accuracy)", "boolq (accuracy)", AVERAGE]
    assert _labels(figure) == ["p-tuning-v2", "prompt-tuning", "fine-tuning", "prompting"]


def test_sizes_and_scores_are_where_they_belong(study: Comparison) -> None:
    panel = figures(study)["backbone_size"].axes[0]
    (x, y) = panel.lines[0].get_data()
    assert list(x) == [22_000_000, 330_000_000]
    assert list(y) == pytest.approx([62.2, 70.2])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["22M", "330M"]


def test_names_of_sizes_that_are_near_each_other_do_not_meet(outcome: Make, comparison: Make) -> None:
    """BERT-large and RoBERTa-large, which the paper has both."""
    sizes = {"small": 110_000_000, "bert": 335_000_000, "roberta": 355_000_000, "largest": 1_500_000_000}
    made = [
        outcome("bitfit", task, backbone=name, counts={"trained": 9, "head": 1, "backbone": count, "transformer": 5})
        for task in ("rte", "boolq")
        for name, count in sizes.items()
    ]
    for panel in figures(comparison(*made))["backbone_size"].axes:
        assert [label.get_text() for label in panel.get_xticklabels()] == ["110M", "355M", "1.5B"]
        assert list(panel.get_xticks(minor=True)) == [335_000_000]


def test_methods_look_the_same_in_all_figures(study: Comparison) -> None:
    made = figures(study)
    colours = []
    for name in ("trained_parameters_small", "learning_curves_small", "backbone_size"):
        handles, labels = made[name].axes[0].get_legend_handles_labels()
        drawn = dict(zip(labels, handles, strict=True))["prompt-tuning"]
        line = drawn[0] if isinstance(drawn, tuple) else drawn
        colours.append((line.get_color(), line.get_marker()))
    assert len(set(colours)) == 1


def test_what_trains_nothing_is_a_line_across(study: Comparison) -> None:
    figure = figures(study)["trained_parameters_small"]
    assert "prompting" in _labels(figure)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "prompting"]
    assert list(line.get_ydata()) == pytest.approx([53.2, 53.2])


def test_both_sides_of_a_depth_sweep_end_at_all_layers(study: Comparison, outcome: Make, comparison: Make) -> None:
    to_all = [outcome("p-tuning-v2", "rte", 0.9, part="depth", place={"layers": "all"}), *study.outcomes]
    panel = next(axes for axes in figures(comparison(*to_all))["depth"].axes if axes.get_title().startswith("rte"))
    assert len(panel.lines) == 2
    for line in panel.lines:
        assert (list(line.get_xdata()), line.get_ydata()[-1]) == ([1, 3, 6, 7], 90.0)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "3", "6", "all"]


def test_trained_parameters_are_on_whole_decades_in_every_panel(outcome: Make, comparison: Make) -> None:
    """Also where few cells are finished, whose own range may have no label, or many that overlap."""
    made = comparison(outcome("bitfit", "rte"), outcome("lora", "rte"), outcome("bitfit", "ner"))
    panels = [panel for panel in figures(made)["trained_parameters"].axes if panel.get_visible()]
    limits = {panel.get_xlim() for panel in panels}
    assert len(panels) > 1 and len(limits) == 1
    low, high = (math.log10(limit) for limit in limits.pop())
    assert low == pytest.approx(round(low)) and high == pytest.approx(round(high)) and high > low
    points = [float(x) for panel in panels for line in panel.lines for x in line.get_xdata()]
    assert points and low < min(map(math.log10, points)) and max(map(math.log10, points)) < high


def test_curves_are_means_over_seeds(study: Comparison) -> None:
    (x, y) = figures(study)["learning_curves_small"].axes[0].lines[0].get_data()
    assert list(x) == [1, 2, 3]
    assert list(y) == pytest.approx([62.2 / 3, 62.2 * 2 / 3, 62.2])


def test_sweeps_have_a_line_for_each_side_and_each_way(study: Comparison) -> None:
    made = figures(study)
    assert _labels(made["depth"]) == ["top layers (last:k)", "bottom layers (first:k)"]
    assert list(made["depth"].axes[0].lines[0].get_xdata()) == [1, 3, 6]
    assert _labels(made["length"]) == ["embeddings (none)", "reparameterized (mlp)"]
    ticks = [label.get_text() for label in made["length"].axes[0].get_xticklabels()]
    assert ticks == ["1", "4", "16", "64", "128"]


@pytest.mark.parametrize(
    ("splits", "chosen_by", "axis"),
    [
        (("test", "test"), "validation rows", "validation rows (%)"),
        (
            ("validation", "test"),
            "rows cut from train, and validation rows where test is reported",
            "rows to choose by (%)",
        ),
    ],
)
def test_where_test_rows_are_reported_those_of_validation_have_chosen(
    splits: tuple[str, str], chosen_by: str, axis: str, outcome: Make, comparison: Make
) -> None:
    tasks = dict(zip(("rte", "ner"), splits, strict=True))
    made = comparison(*(outcome(m, task, split=own) for m in ("bitfit", "lora") for task, own in tasks.items()))
    drawn = figures(made)
    assert f"chosen by other rows: {chosen_by}" in " ".join(drawn["trained_parameters"].get_suptitle().split())
    assert " ".join(drawn["learning_curves"].get_suptitle().split()).endswith(f"are chosen by: {chosen_by}")
    assert drawn["learning_curves"].axes[0].get_ylabel() == axis
    assert _titles(drawn["learning_curves"])[1] == "ner (accuracy, test)"


def _lines(panel: Any, label: str) -> list[Any]:
    return [line for line in panel.lines if line.get_label() == label]


def test_the_most_frequent_answer_is_marked_where_it_is_not_below_all_scores(outcome: Make, comparison: Make) -> None:
    """There it would leave them no room; and a part of the results may be older than that number."""
    tasks = {"among": 0.75, "below": 0.5, "unknown": None, "above": 0.85}
    made = [
        outcome(method, task, score, majority_score=majority, seed=seed)
        for task, majority in tasks.items()
        for seed in (11, 12)
        for method, score in (("bitfit", 0.7), ("lora", 0.8))
    ]
    figure = figures(comparison(*made))["trained_parameters"]
    at = {panel.get_title().partition(" ")[0]: panel for panel in figure.axes}
    (line,) = _lines(at["among"], MAJORITY)
    assert list(line.get_ydata()) == pytest.approx([75.0, 75.0])
    assert not _lines(at["below"], MAJORITY) and not _lines(at["unknown"], MAJORITY)
    assert at["below"].get_ylim()[0] > 60.0
    (line,) = _lines(at["above"], MAJORITY)
    assert list(line.get_ydata()) == pytest.approx([85.0, 85.0]) and at["above"].get_ylim()[1] > 85.0
    assert _labels(figure) == ["bitfit", "lora", MAJORITY]


def test_it_is_two_lines_where_methods_have_other_rows(outcome: Make, comparison: Make) -> None:
    made = [outcome("lora", score=0.7, majority_score=0.6)]
    made += [outcome("bitfit", score=0.5, majority_score=share, seed=seed) for seed, share in ((11, 0.6), (12, 0.54))]
    panel = figures(comparison(*made))["trained_parameters"].axes[0]
    assert [line.get_ydata()[0] for line in _lines(panel, MAJORITY)] == pytest.approx([57.0, 60.0])
    (band,) = panel.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((57.0, 60.0))


def test_sweeps_mark_it_too(outcome: Make, comparison: Make) -> None:
    made = [
        outcome("lora", "rte", 0.5 + 0.02 * k, part="depth", place={"layers": f"last:{k}"}, majority_score=0.53)
        for k in (1, 2, 3)
    ]
    (line,) = _lines(figures(comparison(*made))["depth"].axes[0], MAJORITY)
    assert list(line.get_ydata()) == pytest.approx([53.0, 53.0])


@pytest.mark.parametrize(
    ("seeds", "points"),
    [
        ({"bitfit": (11,), "lora": (11,)}, None),
        ({"bitfit": (11, 12), "lora": (11, 12)}, "; 2 seeds, bars: standard deviation"),
        ({"bitfit": (11, 12, 13), "lora": (11,)}, "; 1 to 3 seeds, bars: standard deviation"),
    ],
)
def test_a_figure_says_of_how_many_seeds_its_points_are(
    seeds: dict[str, tuple[int, ...]], points: str | None, outcome: Make, comparison: Make
) -> None:
    drawn = figures(comparison(*(outcome(method, seed=seed) for method, own in seeds.items() for seed in own)))
    said = {name: " ".join(figure.get_suptitle().split()) for name, figure in drawn.items()}
    if points is None:
        assert not any("seeds" in words for words in said.values())
    else:
        assert said["trained_parameters"].endswith(points)
        assert said["learning_curves"].endswith(points.replace("bars: standard deviation", "bands: all of them"))


@pytest.mark.parametrize(("selection", "words"), [("held_out", "held-out rows"), ("paper", "The paper's way")])
def test_every_figure_says_what_its_scores_are_on(selection: str, words: str, study: Comparison) -> None:
    for name, figure in figures(study.model_copy(update={"selection": selection})).items():
        is_chosen_by = name.startswith("learning_curves") and selection == "held_out"
        own = "rows cut from train" if is_chosen_by else words
        assert own in " ".join(figure.get_suptitle().split()), name
