"""The linear probe as a method: what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.linear_probe import probe_features
from ptuning.training.run import prepare_task, train


@pytest.mark.parametrize(
    ("kind", "settings", "times"),
    [
        ("classification", {}, 2),  # validation rows are asked with each pooling
        ("classification", {"head.pooling": "mean"}, 1),
        ("token_classification", {}, 1),
    ],
)
def test_training_rows_go_through_the_backbone_once(
    kind: str, settings: dict[str, Any], times: int, tiny_run: Callable[..., Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(tiny_backbone)
    config = tiny_run(tmp_path / "run", kind, method="linear-probe", **settings)
    prepared = prepare_task(config, backbone)
    seen: Counter[tuple[int, ...]] = Counter()

    def watch(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if "attention_mask" not in inputs:
            return  # what attaching checks
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            seen[tuple(ids[mask.bool()].tolist())] += 1

    with backbone.model.register_forward_pre_hook(watch, with_kwargs=True):
        train(config, backbone=backbone, prepared=prepared)
    rows = {
        name: Counter(tuple(ids) for example in examples for ids in example.sequences)
        for name, examples in (("train", prepared.train), ("validation", prepared.validation))
    }
    assert not rows["train"].keys() & rows["validation"].keys()
    assert {ids: seen[ids] for ids in rows["train"]} == dict(rows["train"])
    assert {ids: seen[ids] for ids in rows["validation"]} == {ids: times * n for ids, n in rows["validation"].items()}


def test_of_pooled_rows_nothing_but_the_pooled_vectors_is_kept(
    tiny_run: Callable[..., Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(tiny_backbone)
    for kind, per_row in (("classification", 1), ("multiple_choice", 2)):
        prepared = prepare_task(tiny_run(tmp_path / "run", kind), backbone)
        found = probe_features(backbone, prepared.kind, prepared.train, ("mean", "cls"))
        assert list(found) == ["mean", "cls"]
        for features in found.values():
            assert min(len(one) for one in features) == per_row
            assert all(
                tuple(one.shape) == (len(e.sequences), 32) for one, e in zip(features, prepared.train, strict=True)
            )
            assert all(one.untyped_storage().nbytes() == one.numel() * 4 for one in features)
