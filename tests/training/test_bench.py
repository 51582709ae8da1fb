"""The bench's table: every stage, ratios that follow from its times, floors that follow from the products counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from offlinerlkit_damo.training import bench
from offlinerlkit_damo.training.bench_stages import Bench, Size, counted

TINY = Size(rounds=2, steps=2, slow_steps=1, rollout=(40, 2), dynamics_batches=2, rows=300, episodes=1, memory_rows=3000)


def test_table_and_json_hold_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "QUICK", TINY)
    content = bench.bench(threads=1, quick=True, json=tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == content
    rows = {row["stage"]: row for row in content["stages"]}
    assert len(rows) == len(content["stages"]) == 13
    for word in ("sample", "MOPO", "DAMO", "MOBILE", "COMBO", "RAMBO", "rollout", "dynamics training", "load", "evaluation", "epoch"):
        assert any(word in name for name in rows), word
    shown = capsys.readouterr().out
    for name, row in rows.items():
        assert name in shown
        assert row["ratio"] == pytest.approx(row["ours_seconds"] / row["host_seconds"]) and row["floor_seconds"] >= 0
    assert content["memory"]["rows"] == 3000 and 5e7 < content["memory"]["peak_bytes"] < 2e9
    assert "peak memory of loading 3000 transitions" in shown
    step, epoch = rows["gradient step, DAMO / host's MOPO"], rows["epoch of 1000 steps, DAMO / host's MOPO"]
    rollout = rows["rollout 40 x 2, no penalty"]["ours_seconds"]
    assert epoch["ours_seconds"] == pytest.approx(1000 * step["ours_seconds"] + rollout)


def test_products_are_counted() -> None:
    a, b = torch.randn(7, 11), torch.randn(11, 5)
    assert counted(lambda: a @ b) == 2 * 7 * 11 * 5
    # actor, critics and targets, forward and backward, on 256 rows: between 10 and 20 passes of 0.14 MFLOP a row
    passes = Bench(TINY)._step_flops("mopo") / (2 * 256 * (14 * 256 + 256 * 256 + 256))
    assert 10 < passes < 20
