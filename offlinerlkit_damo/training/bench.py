"""Timings that are only ever quoted as ratios within one run: absolute times drift with the machine's load."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, save_json
from offlinerlkit_damo.kit import HOST
from offlinerlkit_damo.training.bench_memory import peak_memory
from offlinerlkit_damo.training.bench_stages import FULL, QUICK, Size, Stage, product_rate, stages
from offlinerlkit_damo.training.dynamics import seed_everything

EPOCH_STEPS = 1000


def bench(*, threads: int, quick: bool = False, json: Path | None = None) -> dict[str, Any]:
    """Time every stage of a run as the host does it and as this package does; prints the table, returns (and writes) its content.

    Rounds of either side alternate, and the median round counts. The floor is the stage's matrix products at the rate measured here.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; it must be at least 1")
    if json is not None:
        check_writable(json.parent)  # before minutes of work
    torch.set_num_threads(threads)
    seed_everything(0)
    size = QUICK if quick else FULL
    # before this process grows: a child's peak begins with its parent's
    memory = {"rows": size.memory_rows, "peak_bytes": peak_memory(size.memory_rows)}
    rate = product_rate()
    rows = []
    with stages(size) as every, tqdm(every, unit="stage", leave=False, dynamic_ncols=True) as bar:
        for stage in bar:
            bar.set_description(stage.name)
            rows.append(_time(stage, size, rate))
    rows.append(_epoch(rows, size))
    content = {
        "host": {"name": HOST.name, "version": HOST.version, "commit": HOST.commit},
        "versions": {"torch": str(torch.__version__), "numpy": np.__version__, "python": platform.python_version()},
        "machine": {"processor": _processor(), "threads": threads, "products_gflops": rate / 1e9},
        "quick": quick,
        "stages": rows,
        "memory": memory,
    }
    print(f"host {HOST.name} {HOST.version}, torch {torch.__version__}, {threads} threads, {_processor()}, {rate / 1e9:.0f} GFLOP/s")
    print(f"{'Hopper sizes, batch 256':46s} {'host, ms':>10s} {'ours, ms':>10s} {'ratio':>7s} {'floor, ms':>10s}")
    for row in rows:
        floor = f"{1e3 * row['floor_seconds']:10.2f}" if row["floor_seconds"] else f"{'':10s}"
        print(f"{row['stage']:46s} {1e3 * row['host_seconds']:10.2f} {1e3 * row['ours_seconds']:10.2f} {row['ratio']:6.2f}x {floor}")
    print(f"peak memory of loading {memory['rows']} transitions of HalfCheetah and training on them: {memory['peak_bytes'] / 1e9:.2f} GB")
    if json is not None:
        save_json(content, json)
    return content


def _time(stage: Stage, size: Size, rate: float) -> dict[str, Any]:
    times: dict[str, list[float]] = {"host": [], "ours": []}
    for work in (stage.host, stage.ours):
        if stage.times > 1:
            work()  # caches and allocator are warm then; a stage of one long call warms itself
    for _ in range(size.rounds if stage.times > 1 else min(size.rounds, 3)):
        for name, work in (("host", stage.host), ("ours", stage.ours)):
            start = time.perf_counter()
            for _ in range(stage.times):
                work()
            times[name].append((time.perf_counter() - start) / stage.times)
    host, ours = median(times["host"]), median(times["ours"])
    return {
        "stage": stage.name,
        "host_seconds": host,
        "ours_seconds": ours,
        "ratio": ours / host,
        "floor_seconds": stage.flops / rate,
    }


def _epoch(rows: list[dict[str, Any]], size: Size) -> dict[str, Any]:
    """A thousand steps and their rollout: DAMO here, MOPO on the host, added up from the rows above."""
    by_name = {row["stage"]: row for row in rows}
    step = by_name["gradient step, DAMO / host's MOPO"]
    ours, host = (next(row for name, row in by_name.items() if name.startswith("rollout") and kind in name) for kind in ("no pen", "MOPO"))
    total = {
        "host_seconds": EPOCH_STEPS * step["host_seconds"] + host["host_seconds"],
        "ours_seconds": EPOCH_STEPS * step["ours_seconds"] + ours["ours_seconds"],
    }
    name = f"epoch of {EPOCH_STEPS} steps, DAMO / host's MOPO"
    floor = EPOCH_STEPS * step["floor_seconds"]
    return {"stage": name, **total, "ratio": total["ours_seconds"] / total["host_seconds"], "floor_seconds": floor}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
