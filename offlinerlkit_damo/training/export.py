"""A saved policy as a file that runs without this package: torch.export's .pt2, or .onnx."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.training.saved import DeterministicPolicy, SavedPolicy

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # obss [B, d] -> actions [B, a]

TOLERANCE = 1e-5
"""The largest difference of an action, in [-1, 1], that other kernels' rounding may make."""


def export_policy(policy: SavedPolicy, path: Path) -> float:
    """Write the deterministic policy, "obs" f32 [B, d] -> "actions" f32 [B, a] with any B; returns the largest difference found.

    The file is loaded again and its actions compared with the policy's before it takes its name. Raises UserError for another ending than
    .pt2 and .onnx, without the packages that ONNX needs, and if the actions differ by more than `TOLERANCE`.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise UserError(f"a policy is exported as .pt2 or .onnx, not {path.name!r}")
    if path.suffix == ".onnx" and (missing := [x for x in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(x) is None]):
        raise UserError(f"ONNX needs packages that are missing; run: pip install {' '.join(missing)}")
    write, load = (_write_torch, _load_torch) if path.suffix == ".pt2" else (_write_onnx, _load_onnx)
    obss = np.random.default_rng(0).normal(scale=3, size=(257, policy.obs_dim)).astype(np.float32)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        write(policy.deterministic(), torch.from_numpy(obss), temporary)
        exported = load(temporary)
        difference = max(float(np.abs(exported(obss[:n]) - policy.select_action(obss[:n])).max()) for n in (1, len(obss)))
        if not difference <= TOLERANCE:
            raise UserError(f"the exported policy's actions differ from the original's by {difference:.2g}; nothing was written")
    return difference


def _write_torch(module: DeterministicPolicy, obss: Tensor, path: Path) -> None:
    program = torch.export.export(module, (obss,), dynamic_shapes={"obs": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path)


def _load_torch(path: Path) -> Act:
    module = torch.export.load(path).module()

    def act(obss: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            actions: NDArray[np.float32] = module(torch.from_numpy(obss)).numpy()
        return actions

    return act


def _write_onnx(module: DeterministicPolicy, obss: Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision's absence
    shapes = {"obs": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        module.eval(), (obss,), input_names=["obs"], output_names=["actions"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    assert program is not None  # what dynamo=True gives
    program.save(path)


def _load_onnx(path: Path) -> Act:
    session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])

    def act(obss: NDArray[np.float32]) -> NDArray[np.float32]:
        (actions,) = session.run(["actions"], {"obs": obss})
        return np.asarray(actions, np.float32)

    return act
