from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ptuning.compare.cells import best_tries, main_cells, tries
from ptuning.compare.settings import CompareConfig
from ptuning.errors import ConfigError, DataError

Make = Callable[..., CompareConfig]
GROUP = ("p-tuning-v2", "colours", "tiny")


def test_all_is_crossed_with_all_and_first_seeds_come_first(settings: Make, tmp_path: Path) -> None:
    methods = {"p-tuning-v2": {}, "one seed": {"method": "bitfit", "seeds": [5]}}
    cells = main_cells(settings(tmp_path, methods=methods, seeds=[11, 12]), {})
    assert [(cell.method, cell.seed) for cell in cells] == [("p-tuning-v2", 11), ("one seed", 5), ("p-tuning-v2", 12)]
    assert [cell.config.training.seed for cell in cells] == [11, 5, 12]
    assert len({cell.key for cell in cells}) == 3
    assert cells[1].name == "one seed, colours, tiny, seed 5"


def test_a_depth_sweep_goes_from_the_top_and_from_the_bottom(settings: Make, tmp_path: Path) -> None:
    cells = main_cells(settings(tmp_path, depth={"layers": [1, 2], "seeds": [7]}), {})
    found = [(cell.config.prompts.layers, cell.seed) for cell in cells if cell.part == "depth"]
    assert found == [("last:1", 7), ("last:2", 7), ("first:1", 7), ("first:2", 7)]
    assert len(cells) == 5


def test_a_depth_sweep_may_end_at_all_layers_which_are_those_of_the_table(settings: Make, tmp_path: Path) -> None:
    main, *depth = main_cells(settings(tmp_path, depth={"layers": [1, "all"]}), {})
    assert [cell.place["layers"] for cell in depth] == ["last:1", "first:1", "all"]
    assert depth[-1].key == main.key and main.part == "main"


def test_a_length_sweep_has_each_length_with_and_without_an_mlp(settings: Make, tmp_path: Path) -> None:
    sweep = {"lengths": [1, 8], "reparameterizations": {"none": {}, "mlp": {"training.learning_rate": 0.5}}}
    cells = [cell for cell in main_cells(settings(tmp_path, length=sweep), {}) if cell.part == "length"]
    found = [(c.config.prompts.prompt_length, c.config.prompts.reparameterization) for c in cells]
    assert found == [(1, "none"), (8, "none"), (1, "mlp"), (8, "mlp")]
    assert [c.config.training.learning_rate for c in cells] == [None, None, 0.5, 0.5]
    assert cells[3].place == {"prompt_length": 8, "reparameterization": "mlp"}


def test_sweeps_may_be_of_some_tasks(settings: Make, tmp_path: Path) -> None:
    own = settings(tmp_path).tasks["colours"]
    config = settings(tmp_path, tasks={"colours": own, "more": own}, depth={"layers": [1], "tasks": ["more"]})
    assert {cell.task for cell in main_cells(config, {}) if cell.part == "depth"} == {"more"}


def test_a_search_tries_all_combinations_with_the_first_seed(settings: Make, tmp_path: Path) -> None:
    grid = {"training.learning_rate": [0.1, 0.2], "prompts.prompt_length": [1, 2]}
    cells = tries(settings(tmp_path, search={"p-tuning-v2": grid}, seeds=[3, 4]))
    assert [tuple(cell.place.values()) for cell in cells] == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]
    assert {cell.seed for cell in cells} == {3}
    assert cells[1].config.training.learning_rate == 0.1 and cells[1].config.prompts.prompt_length == 2
    assert cells[1].name == "p-tuning-v2 (learning_rate 0.1, prompt_length 2), colours, tiny, seed 3"


def test_the_first_of_the_best_tries_is_used_for_all_seeds_and_for_sweeps(settings: Make, tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        search={"p-tuning-v2": {"training.learning_rate": [0.1, 0.2, 0.3, 0.4]}},
        seeds=[3, 4],
        depth={"layers": [1]},
    )
    tried = tries(config)
    scores = dict(zip([cell.key for cell in tried], [0.5, None, 0.7, 0.7], strict=True))
    chosen = best_tries(tried, scores)
    assert chosen == {GROUP: {"training.learning_rate": 0.3}}
    cells = main_cells(config, chosen)
    assert {cell.config.training.learning_rate for cell in cells} == {0.3}
    assert cells[0].key == tried[2].key  # the same run: it is not made twice


def test_where_all_tries_failed_there_is_nothing_to_run(settings: Make, tmp_path: Path) -> None:
    config = settings(tmp_path, search={"p-tuning-v2": {"training.learning_rate": [0.1]}})
    assert best_tries(tries(config), {}) == {}
    assert main_cells(config, {}) == []


def test_a_point_that_cannot_be_is_said_with_its_place(settings: Make, tmp_path: Path) -> None:
    config = settings(tmp_path, length={"lengths": [4], "reparameterizations": {"mlp": {"prompts.init": "tokens"}}})
    with pytest.raises(ConfigError, match="^length of p-tuning-v2, colours, tiny: 1 setting is wrong: prompts.init is"):
        main_cells(config, {})


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        ("tset", ConfigError, "^p-tuning-v2, colours, tiny: `split` is 'tset', expected one of train, validation, te"),
        ("test", DataError, "^p-tuning-v2, colours, tiny: `split` is test, but .* has only train, validation. Add a"),
    ],
)
def test_rows_to_report_on_that_are_not_there_are_said_before_anything_is_trained(
    split: str, error: type[Exception], message: str, settings: Make, tmp_path: Path
) -> None:
    own = settings(tmp_path).tasks["colours"]
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        shutil.copy(Path(own["data.path"]) / f"{name}.jsonl", data)
    config = settings(tmp_path, tasks={"colours": {**own, "data.path": str(data), "split": split}})
    with pytest.raises(error, match=message):
        main_cells(config, {})
