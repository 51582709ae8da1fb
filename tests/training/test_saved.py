"""A saved policy acts as the one that was trained, from our folders and from the kit's."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from offlinerlkit_damo import load_policy
from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.config import MODEL_BASED, readers, resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import StandardScaler
from offlinerlkit_damo.tasks import get_task
from offlinerlkit_damo.training import checkpoint, export, video
from offlinerlkit_damo.training.dynamics import build_dynamics, seed_everything
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.saved import evaluate

OBS, ACT = 11, 3
SMALL: dict[str, Any] = {"task": "hopper-medium", "hidden_dims": [16, 8], "dynamics_hidden_dims": [8], "dynamics_weight_decay": [0, 0]}


def trained(algo: str, scaler: StandardScaler | None = None) -> Any:
    seed_everything(0)
    sizes = {name: value for name, value in SMALL.items() if algo in readers(name)}
    config = resolve({**sizes, "algo_name": algo})
    dynamics = build_dynamics(config, OBS, ACT) if algo in MODEL_BASED else None
    return build_policy(config, dynamics, OBS, ACT, scaler=scaler)[0]


def save(policy: Any, folder: Path, algo: str, *, where: str = "model", kits: bool = False) -> Path:
    (folder / where).mkdir(parents=True)
    torch.save(policy.state_dict(), folder / where / "policy.pth")
    about = {"task": "hopper-medium-v2" if kits else "hopper-medium", "algo_name": algo}
    if kits:
        (folder / "record").mkdir()
        (folder / "record" / "hyper_param.json").write_text(json.dumps(about))
    else:
        facts = {"config": about, "task": dataclasses.asdict(get_task("hopper-medium"))}
        if algo == "rambo":
            facts["standardised"] = {"mean": [0.5] * OBS, "std": [2.0] * OBS}
        (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("algo", ["damo", "mopo", "mobile", "rambo", "odice", "optidice", "algaedice"])
@pytest.mark.parametrize("kits", [False, True])
def test_a_loaded_policy_acts_as_the_trained_one(algo: str, kits: bool, tmp_path: Path) -> None:
    scaler = StandardScaler(np.full((1, OBS), 0.5, np.float32), np.full((1, OBS), 2.0, np.float32)) if algo == "rambo" else None
    policy = trained(algo, scaler)
    folder = save(policy, tmp_path / "run", algo, where="checkpoint" if kits else "model", kits=kits)
    if algo == "rambo" and kits:
        with pytest.raises(UserError, match="sees standardised observations, whose statistics are in its run's folder alone"):
            load_policy(folder)
        return
    loaded = load_policy(folder)
    assert (loaded.algo_name, loaded.obs_dim, loaded.action_dim) == (algo, OBS, ACT)
    obs = np.random.default_rng(0).normal(size=(5, OBS)).astype(np.float32)
    np.testing.assert_allclose(loaded.select_action(obs), policy.select_action(obs, deterministic=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loaded.select_action(obs[0]), loaded.select_action(obs)[0], rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    sample = policy.select_action(obs, deterministic=False)
    torch.manual_seed(1)
    np.testing.assert_allclose(loaded.select_action(obs, deterministic=False), sample, rtol=1e-5, atol=1e-6)


def test_a_policys_file_far_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What nothing beside it says is told; a checkpoint says itself whose it is, and files of RAMBO's once had their statistics."""
    scaler = StandardScaler(np.full((1, OBS), 0.5, np.float32), np.full((1, OBS), 2.0, np.float32))
    policy = trained("rambo", scaler)
    folder = save(policy, tmp_path / "run", "rambo")
    obs = np.random.default_rng(0).normal(size=(5, OBS)).astype(np.float32)
    state = torch.load(folder / "model" / "policy.pth", weights_only=True)
    torch.save({**state, "obs_mu": torch.full((1, OBS), 0.5), "obs_std": torch.full((1, OBS), 2.0)}, tmp_path / "old.pth")
    want = policy.select_action(obs, deterministic=True)
    np.testing.assert_allclose(load_policy(tmp_path / "old.pth").select_action(obs), want, rtol=1e-5, atol=1e-6)
    about = {"config": json.dumps({"algo_name": "rambo"})}
    checkpoint.write({"about": about, "text_size": 0, "state": {"policy": {"weights": state}}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="whose statistics are in its run's folder alone"):
        load_policy(tmp_path / "last.ckpt")
    torch.save(state, tmp_path / "policy.pth")
    main(["evaluate", str(tmp_path / "policy.pth"), "--task", "hopper-medium", "--episodes", "1"])
    assert "taken for a policy of raw observations, which RAMBO's are not" in capsys.readouterr().err
    main(["evaluate", str(folder), "--task", "hopper-medium", "--episodes", "1"])
    assert capsys.readouterr().err == ""


def test_evaluation_is_of_the_seeds_given_and_written_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save(trained("damo"), tmp_path / "run", "damo")
    monkeypatch.chdir(tmp_path)
    main(["evaluate", str(run), "--episodes", "3", "--seed", "5", "--json", "out.json"])
    found = json.loads((tmp_path / "out.json").read_text())
    again = evaluate(load_policy(run), episodes=2, seed=6)
    assert found["returns"][1:] == pytest.approx(again["returns"], rel=1e-4) and len(set(found["returns"])) == 3
    assert found["mean_score"] == pytest.approx(np.mean(found["scores"])) and f"{found['mean_score']:.1f}" in capsys.readouterr().out
    monkeypatch.setattr("offlinerlkit_damo.training.saved.AT_ONCE", 2)  # in pieces it is the same
    assert evaluate(load_policy(run), episodes=3, seed=5)["returns"] == pytest.approx(found["returns"], rel=1e-4)
    stochastic = [evaluate(load_policy(run), episodes=2, seed=6, deterministic=False)["returns"] for _ in range(2)]
    assert stochastic[0] == stochastic[1] != again["returns"]


def test_wrong_folders_files_and_tasks_are_one_sentence(tmp_path: Path) -> None:
    run = save(trained("damo"), tmp_path / "run", "damo")
    with pytest.raises(UserError, match=r"neither model.policy\.pth nor checkpoint.policy\.pth"):
        load_policy(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    for name in ("other.pth", "garbage.pth", "absent.pth"):
        with pytest.raises(UserError, match=f"{name}.*holds no policy"):
            load_policy(tmp_path / name)
    with pytest.raises(UserError, match=r"sizes \(11, 3\), the simulator of halfcheetah-medium has \(17, 6\)"):
        evaluate(load_policy(run), task="halfcheetah-medium")
    with pytest.raises(UserError, match="episodes is 0"):
        evaluate(load_policy(run), episodes=0)
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"seed {seed} is out of range"):
            main(["evaluate", str(run), "--episodes", "1", "--seed", str(seed)])
    bare = tmp_path / "bare" / "policy.pth"
    bare.parent.mkdir()
    bare.write_bytes((run / "model" / "policy.pth").read_bytes())
    with pytest.raises(UserError, match="give --task"):
        evaluate(load_policy(bare))
    assert evaluate(load_policy(bare), task="hopper-medium", episodes=1)["task"] == "hopper-medium"


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("algo", ["damo", "rambo"])
def test_an_exported_policy_acts_as_the_saved_one(
    algo: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    scaler = StandardScaler(np.full((1, OBS), 0.5, np.float32), np.full((1, OBS), 2.0, np.float32)) if algo == "rambo" else None
    policy = trained(algo, scaler)
    out = tmp_path / f"policy{suffix}"
    main(["export", str(save(policy, tmp_path / "run", algo)), str(out)])
    assert "equal to the policy's mode" in capsys.readouterr().out
    obs = np.random.default_rng(1).normal(size=(5, OBS)).astype(np.float32)
    if suffix == ".pt2":
        found = torch.export.load(out).module()(torch.from_numpy(obs)).detach().numpy()
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        (found,) = onnxruntime.InferenceSession(out).run(["actions"], {"obs": obs})
    np.testing.assert_allclose(found, policy.select_action(obs, deterministic=True), atol=1e-5)


def test_an_export_that_cannot_be_or_differs_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(save(trained("damo"), tmp_path / "run", "damo"))
    with pytest.raises(UserError, match=r"\.pt2 or \.onnx, not 'policy\.pkl'"):
        export.export_policy(policy, tmp_path / "policy.pkl")
    monkeypatch.setattr(export, "_load_torch", lambda path: lambda obss: np.ones((len(obss), ACT), np.float32))
    with pytest.raises(UserError, match="differ from the original's by"):
        export.export_policy(policy, tmp_path / "policy.pt2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        export.export_policy(policy, tmp_path / "policy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_film_shows_the_episode_that_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames in place of MuJoCo's, which not every machine can draw: what counts is their number and pace, and the episode."""
    policy = load_policy(save(trained("damo"), tmp_path / "run", "damo"))
    drawn: list[int] = []

    def frame(simulator: Any) -> np.ndarray:
        drawn.append(len(drawn))
        return np.full((48, 64, 3), len(drawn) % 250, np.uint8)

    monkeypatch.setattr(video, "_drawn", frame)
    out = tmp_path / "episode.gif"
    value = video.film_episode(policy, out, seed=5)
    found = evaluate(policy, episodes=1, seed=5)
    assert value == pytest.approx(found["returns"][0], rel=1e-5)
    length = found["lengths"][0]
    with PIL.Image.open(out) as film:
        assert film.n_frames == len(drawn) == 1 + length // 3  # Hopper's 125 steps a second, every third of them
        assert film.info["duration"] == pytest.approx(24, abs=5)


def test_a_film_that_cannot_be_made_is_one_sentence_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save(trained("damo"), tmp_path / "run", "damo")
    with pytest.raises(UserError, match=r"a film is \.mp4 or \.gif, not 'a\.avi'"):
        main(["evaluate", str(run), "--video", str(tmp_path / "a.avi")])
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install \"imageio\[ffmpeg\]\""):
        main(["evaluate", str(run), "--video", str(tmp_path / "a.mp4")])

    def broken(self: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_env.MujocoEnv.render", broken)
    with pytest.raises(UserError, match=r"cannot draw here.*MUJOCO_GL"):
        main(["evaluate", str(run), "--video", str(tmp_path / "a.gif")])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
