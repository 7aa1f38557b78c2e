from __future__ import annotations

import re

import pytest

from ptuning.training.reporting import EpochReport, Silent, Terminal


def test_terminal_writes_notes_warnings_and_evaluations_to_stderr_one_line_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Terminal("tickets")
    report.note("12 of 120 rows [held out]")
    report.start(100, 0)
    report.step(10, 0.5)
    report.warn("a long sentence " * 20)
    report.evaluated(EpochReport(None, 2, 9, 0.25, {"accuracy": 0.875, "f1": 0.8}, 1.0, True), "accuracy")
    report.evaluated(EpochReport(4, 3, 12, 0.125, {"accuracy": 0.75, "f1": 0.8}, 2.0, False), "accuracy")
    report.stop()
    report.stop()  # after an error it may be called twice
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "12 of 120 rows [held out]",
        "warning: " + "a long sentence " * 20,
        "tickets: epoch 2, loss 0.2500, validation accuracy 0.8750 (best so far)",
        "candidate 4: epoch 3, loss 0.1250, validation accuracy 0.7500",
    ]


def test_the_bar_shows_the_last_loss_and_metric(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    report = Terminal("tickets")
    report.start(100, 0)
    report.step(10, 0.5)
    report.evaluated(EpochReport(None, 1, 10, 0.5, {"accuracy": 0.875, "f1": 0.8}, 1.0, True), "accuracy")
    report.step(20, 0.25)
    report.stop()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"20/100 loss 0\.250 validation accuracy 0\.875", shown)


def test_silent_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report = Silent()
    report.start(10, 0)
    report.step(1, 0.5)
    report.note("x")
    report.warn("x")
    report.evaluated(EpochReport(None, 1, 1, 0.1, {"f1": 0.5}, 1.0, True), "f1")
    report.stop()
    assert capsys.readouterr() == ("", "")
