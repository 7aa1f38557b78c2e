from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from ptuning.reports.outcomes import Comparison
from ptuning.reports.tables import (
    cost_tables,
    failures_table,
    score_tables,
    search_table,
    sweep_tables,
    to_csv,
)

Make = Callable[..., Any]


def test_scores_are_means_and_spreads_over_seeds_in_percent(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("p-tuning-v2", "rte", 0.80, seed=1),
        outcome("p-tuning-v2", "rte", 0.82, seed=2),
        outcome("p-tuning-v2", "rte", 0.87, seed=3),
        outcome("p-tuning-v2", "boolq", 0.6, seed=1),
    )
    (table,) = score_tables(made)
    assert table.title == "Scores on small (100,000 parameters)"
    assert table.columns == ("method", "seeds", "rte (accuracy)", "boolq (accuracy)", "average")
    # mean 83.0, deviation sqrt((9 + 1 + 16) / 2) = 3.6; no spread of an average over unequal numbers of seeds
    assert table.rows == (("p-tuning-v2", "1 to 3", "**83.0 ± 3.6**", "**60.0**", "**71.5**"),)
    assert table.caption.startswith("Percent, mean ± standard deviation over seeds. Scores on held-out rows;")


def test_a_column_says_which_rows_it_is_on(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("bitfit", "rte"),
        outcome("bitfit", "ner", split="test"),
        outcome("bitfit", "ner", None, part="depth", place={"layers": "last:1"}),
        outcome("bitfit", "ner", split="test", part="depth", place={"layers": "last:2"}),
    )
    (table,) = score_tables(made)
    assert table.columns == ("method", "seeds", "rte (accuracy)", "ner (accuracy, test)", "average")
    assert "cut from train, and validation rows where test is reported." in table.caption
    (depth,) = sweep_tables(made)
    assert depth.columns == ("layers", "ner (accuracy, test)")
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [row["split"] for row in rows] == ["validation", "test", "", "test"]


def test_an_averages_spread_is_that_of_the_averages_of_the_seeds(outcome: Make, comparison: Make) -> None:
    scores = {"rte": (0.80, 0.90), "boolq": (0.70, 0.60)}
    made = [outcome("bitfit", task, own[turn], seed=turn) for task, own in scores.items() for turn in (0, 1)]
    (table,) = score_tables(comparison(*made))
    assert table.rows[0][2:] == ("**85.0 ± 7.1**", "**65.0 ± 7.1**", "**75.0 ± 0.0**")


def test_an_average_has_no_spread_where_seeds_failed(outcome: Make, comparison: Make) -> None:
    """As many are left of each task, but not the same ones."""
    failed = {"rte": 1, "boolq": 3}
    made = [
        outcome("bitfit", task, None if seed == failed[task] else 0.1 * seed, seed=seed)
        for task in failed
        for seed in (1, 2, 3)
    ]
    (table,) = score_tables(comparison(*made))
    assert table.rows[0][2:] == ("**25.0 ± 7.1** (1 failed)", "**15.0 ± 7.1** (1 failed)", "**20.0**")


def test_the_best_frozen_method_is_bold_even_below_fine_tuning(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("p-tuning-v2", score=0.7),
        outcome("as good", base="bitfit", score=0.70004),
        outcome("worse", base="lora", score=0.6),
        outcome("fine-tuning", score=0.9),
    )
    (table,) = score_tables(made)
    assert [row[-1] for row in table.rows] == ["**70.0**", "**70.0**", "60.0", "90.0"]
    assert "one seed" in table.caption


def test_nothing_is_bold_where_no_frozen_method_is_above_the_most_frequent_answer(
    outcome: Make, comparison: Make
) -> None:
    """Scores that all have by saying one thing are no best, also where they are only shown as high."""
    at = {"level": 0.564, "above": 0.56, "shown the same": 0.5638}
    made = [
        outcome(method, task, score, majority_score=at[task])
        for task in at
        for method, score in (("bitfit", 0.564), ("lora", 0.564), ("linear-probe", 0.53), ("fine-tuning", 0.6))
    ]
    (table,) = score_tables(comparison(*made))
    assert table.rows[0] == ("bitfit", "1", "56.4", "**56.4**", "56.4", "**56.4**")
    assert table.rows[2] == ("linear-probe", "1", "53.0", "53.0", "53.0", "53.0")
    assert table.caption.endswith("A task has no best where none is above always giving the most frequent answer.")
    (table,) = score_tables(comparison(*(one for one in made if one.task == "above")))
    assert "no best" not in table.caption


def test_failed_and_missing_cells_are_shown(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("bitfit", "rte", None, seed=1),
        outcome("bitfit", "rte", 0.5, seed=2),
        outcome("bitfit", "boolq", None),
        outcome("lora", "rte", 0.6),
        missing=3,
    )
    table, _ = score_tables(made)
    assert table.rows[0] == ("bitfit", "1 to 2", "50.0 (1 failed)", "failed", "-")
    assert table.rows[1] == ("lora", "1", "60.0", "-", "-")
    assert table.caption.endswith("3 cells have not run yet.")
    failures = failures_table(made)
    assert failures is not None
    assert failures.rows[0] == ("bitfit", "rte", "small", "1", "table", "memory ran out")


def test_methods_with_other_seeds_are_compared_on_those_of_all(outcome: Make, comparison: Make) -> None:
    """Seed 11 is an easy draw of rows: the mean of three is lower, and no less good a method."""
    made = comparison(
        *(outcome("p-tuning-v2", "rte", score, seed=seed) for seed, score in ((11, 0.9), (12, 0.6), (13, 0.6))),
        outcome("lora", "rte", 0.8, seed=11),
        outcome("lora", "rte", 0.8, backbone="other"),
    )
    all_seeds, shared, other = score_tables(made)
    assert all_seeds.rows == (("p-tuning-v2", "3", "70.0 ± 17.3"), ("lora", "1", "80.0"))
    assert "Bold" not in all_seeds.caption and "compare them on those that all have" in all_seeds.caption
    assert shared.title == "Scores on small with the seed 11 that all methods have"
    assert shared.rows == (("p-tuning-v2", "1", "**90.0**"), ("lora", "1", "80.0"))
    assert shared.caption.startswith("Percent, one seed.") and "Bold" in shared.caption
    assert other.rows == (("lora", "1", "**80.0**"),)


def test_without_a_seed_that_all_methods_have_there_is_one_table(outcome: Make, comparison: Make) -> None:
    made = comparison(outcome("p-tuning-v2", seed=1), outcome("lora", seed=2), outcome("lora", seed=3))
    (table,) = score_tables(made)
    assert [row[1] for row in table.rows] == ["1", "2"]
    assert "Bold" not in table.caption and not any("**" in cell for row in table.rows for cell in row)


def test_a_method_whose_tries_all_failed_is_shown_as_failed(outcome: Make, comparison: Make) -> None:
    tried = outcome("lora", "rte", None, part="try", place={"training.learning_rate": 1.0})
    (table,) = score_tables(comparison(outcome("bitfit"), tried))
    assert table.rows[1] == ("lora", "-", "failed")


def test_how_many_settings_were_tried_stands_beside_the_scores(outcome: Make, comparison: Make) -> None:
    (table,) = score_tables(comparison(outcome("lora", tries=6), outcome("bitfit")))
    assert table.columns[:3] == ("method", "seeds", "tried")
    assert [row[:3] for row in table.rows] == [("lora", "1", "6"), ("bitfit", "1", "1")]
    assert table.caption.endswith("Tried: settings of which the best was taken, by the rows to choose by.")


def test_the_papers_way_is_labelled(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("p-tuning-v2"),
        outcome("p-tuning-v2", part="depth", place={"layers": "last:2"}),
        outcome("p-tuning-v2", part="try", place={"training.epochs": 3}),
        selection="paper",
    )
    for table in (*score_tables(made), *sweep_tables(made)):
        assert "The paper's way: the best epoch on the validation rows is the score" in table.caption
    search = search_table(made)
    assert search is not None and "which are reported too" in search.caption


def test_costs_are_counted_without_the_head(outcome: Make, comparison: Make) -> None:
    counts = {"trained": 2100, "head": 100, "backbone": 100_000, "transformer": 50_000}
    made = comparison(
        outcome("p-tuning-v2", "rte", seconds=10.0, file_bytes=2_000_000, tries=4),
        outcome("p-tuning-v2", "boolq", seconds=20.0, file_bytes=4_000_000, counts=counts, tries=4),
    )
    (table,) = cost_tables(made)
    assert table.rows == (("p-tuning-v2", "1,000 to 2,000", "100", "1.00% to 2.00%", "15", "500", "3.00", "4"),)
    assert table.caption.endswith("Machine: A processor, 2 threads.")


def test_memory_on_a_gpu_is_the_gpus_and_several_machines_are_named(outcome: Make, comparison: Make) -> None:
    on_gpu = {"peak_gpu_memory_bytes": 2_000_000_000, "machine": {"gpu": "A card", "threads": 8}}
    (table,) = cost_tables(comparison(outcome("bitfit"), outcome("lora", **on_gpu)))
    assert [row[5] for row in table.rows] == ["500", "2,000"]
    assert "seconds cannot all be compared: A processor, 2 threads; A card, 8 threads." in table.caption


def test_sweeps_have_a_row_for_each_point(study: Comparison) -> None:
    depth, length = sweep_tables(study)
    assert depth.columns == ("layers", "rte (accuracy)", "boolq (accuracy)")
    assert depth.rows[:2] == (("last:1", "59.0", "59.0"), ("first:1", "57.0", "57.0"))
    assert length.columns[:2] == ("prompt_length", "reparameterization") and len(length.rows) == 10


def test_searches_show_what_each_try_reached_where_it_was_chosen(outcome: Make, comparison: Make) -> None:
    tried = [
        outcome("lora", score=score, part="try", place={"training.learning_rate": rate}, development_score=chosen)
        for rate, score, chosen in ((1e-3, 0.9, 0.5), (1e-2, 0.1, 0.6))
    ]
    table = search_table(comparison(*tried))
    assert table is not None
    assert [row[-2:] for row in table.rows] == [
        ("training.learning_rate 0.001", "50.0"),
        ("**training.learning_rate 0.01**", "**60.0**"),
    ]


def test_markdown_has_a_line_a_row(outcome: Make, comparison: Make) -> None:
    (table,) = score_tables(comparison(outcome("bit|fit", base="bitfit")))
    lines = table.to_markdown().splitlines()
    assert lines[0] == "## Scores on small (100,000 parameters)"
    assert lines[-3:] == [
        "| method | seeds | rte (accuracy) |",
        "| --- | --- | --- |",
        "| bit&#124;fit | 1 | **80.0** |",
    ]


def test_csv_has_all_digits_and_no_tries(outcome: Make, comparison: Make) -> None:
    made = comparison(
        outcome("lora", score=0.123456, seed=1),
        outcome("lora", score=0.223456, seed=2),
        outcome("bitfit", score=None),
        outcome("p-tuning-v2", part="depth", place={"layers": "last:2"}),
        outcome("lora", part="try", place={"training.epochs": 3}),
    )
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [row["part"] for row in rows] == ["main", "main", "depth"]
    assert float(rows[0]["score"]) == (0.123456 + 0.223456) / 2 and rows[0]["seeds"] == "2"
    assert float(rows[0]["trained_parameters"]) == 1100 and float(rows[0]["trained_share"]) == 0.01
    assert (rows[1]["failed"], rows[1]["score"]) == ("1", "")
    assert rows[2]["place"] == "layers=last:2"
