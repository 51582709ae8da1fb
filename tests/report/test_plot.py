"""plot: which lines it draws, of our runs and of the kit's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.plot import draw_figures, run_names
from offlinerlkit_damo.report.results import read_progress, run_folders


def run_folder(place: Path, name: str, text: str) -> Path:
    """The kit's layout and nothing else: its runs have no run.json."""
    record = place / "hopper-medium-v2" / "mopo" / name / "record"
    record.mkdir(parents=True)
    (record / "policy_training_progress.csv").write_text(text)
    return record.parent


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        run_folder(tmp_path, "seed_0", "alpha,loss/actor,loss/critic1,timestep\n1,2,3,10\n0.5,,4,20\n"),
        run_folder(tmp_path, "seed_1", "alpha,eval/normalized_episode_reward,timestep\n0.1,7,5\n"),
    ]


def test_every_run_is_a_line_in_every_panel_that_it_has(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def watching(self: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watching)
    out = tmp_path / "figures.svg"
    assert draw_figures(runs, out, ["alpha", "loss/*"]) == ["alpha", "loss/actor", "loss/critic1"]
    panels = {panel.get_title(): panel for panel in drawn[0].axes if panel.get_visible()}
    lines = {key: [(line.get_label(), line.get_xdata().tolist(), line.get_ydata().tolist()) for line in panel.get_lines()]
             for key, panel in panels.items()}  # fmt: skip
    first, second = "mopo, seed 0", "mopo, seed 1"
    assert lines == {
        "alpha": [(first, [10, 20], [1, 0.5]), (second, [5], [0.1])],
        "loss/actor": [(first, [10], [2])],
        "loss/critic1": [(first, [10, 20], [3, 4])],
    }
    assert out.read_text().lstrip().startswith("<?xml")


def test_the_dynamics_models_figures_have_its_epochs(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs[1] / "record" / "dynamics_training_progress.csv").write_text("loss/dynamics_holdout_loss,timestep\n3,1\n2,2\n")
    (runs[0] / "record" / "dynamics_training_progress.csv").write_text("")  # another run has trained its model
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: (drawn.append(self), Path(path).touch()))
    keys = ["loss/dynamics*", "alpha"]
    assert draw_figures(runs, tmp_path / "figures.svg", keys) == ["loss/dynamics_holdout_loss", "alpha"]
    of_model, of_policy = (panel for panel in drawn[0].axes if panel.get_visible())
    assert (of_model.get_xlabel(), of_policy.get_xlabel()) == ("epochs of the dynamics model", "gradient steps")
    (line,) = of_model.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata()), line.get_label()) == ([1, 2], [3, 2], "mopo, seed 1")


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    text = "alpha,timestep\n1,10\n"
    ours = [run_folder(tmp_path / "runs" / label, "seed_1", text) for label in ("damo", "damo-square")]
    assert run_names(ours[:1]) == ["mopo, seed 1"]  # a folder that happens to be called runs
    (tmp_path / "plan.yaml").touch()
    assert run_names(ours) == ["damo, seed 1", "damo-square, seed 1"]
    kits = [run_folder(tmp_path / name, "seed_12&timestamp_26-1121-120000", text) for name in ("one", "two")]
    assert run_names(kits[:1]) == ["mopo, seed 12"]
    assert run_names(kits) == [f"{name}/hopper-medium-v2/mopo/seed_12&timestamp_26-1121-120000" for name in ("one", "two")]
    other = tmp_path / "walker2d-medium" / "combo" / "seed_2"
    assert run_names([kits[0], other]) == ["mopo, hopper-medium-v2, seed 12", "combo, walker2d-medium, seed 2"]
    assert run_names([tmp_path / "copied"]) == ["/".join((tmp_path / "copied").parts[-3:])]


def test_any_folder_stands_for_the_runs_in_it(runs: list[Path], tmp_path: Path) -> None:
    assert run_folders([tmp_path]) == run_folders([*runs, tmp_path, runs[0]]) == runs
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run folder and holds none"):
        run_folders([runs[0], tmp_path / "empty"])


def test_looks_differ() -> None:
    found = looks([str(i) for i in range(56)])
    assert len({(look.colour, look.dashes) for look in found.values()}) == 56


def test_the_command_draws_scores_unless_told_otherwise(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plot", *map(str, runs), "--out", str(tmp_path / "a.png")])
    assert "eval/normalized_episode_reward" in capsys.readouterr().out and (tmp_path / "a.png").stat().st_size > 1000


def test_wrong_keys_suffixes_and_folders_are_one_sentence(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'alhpa'; did you mean alpha"):
        draw_figures(runs, tmp_path / "a.png", ["alhpa"])
    with pytest.raises(UserError, match=r"does not end in \.png"):
        draw_figures(runs, tmp_path / "a.gif")
    with pytest.raises(UserError, match="is not a run folder"):
        draw_figures([tmp_path / "nowhere"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no readable rows"),
        (b"\xff\xfe\x00\x80\n\x81\n", "holds no readable rows"),
        (b"alpha,timestep\n", "has no row yet"),
        (b"alpha,beta\n1,2\n", "has no column timestep"),
        (b"alpha,timestep\n1,10\nx,20\n", "line 3 of .* is damaged"),
        (b"alpha,timestep\n1\n2,10\n", "line 2 of .* is damaged"),
    ],
)
def test_damaged_tables_are_one_sentence(
    content: bytes, words: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which does not keep the other runs of a folder from being drawn."""
    (runs[0] / "record" / "policy_training_progress.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        draw_figures(runs[:1], tmp_path / "a.png", ["alpha"])
    assert not (tmp_path / "a.png").exists() and not capsys.readouterr().err
    assert draw_figures(runs, tmp_path / "a.png", ["alpha"]) == ["alpha"] and (tmp_path / "a.png").exists()
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("left out: ") and re.search(words, told) and runs[0].name in told


def test_a_row_that_is_being_written_is_left_out(runs: list[Path]) -> None:
    with (runs[0] / "record" / "policy_training_progress.csv").open("a") as file:
        file.write("0.25,3,5,3")
    assert read_progress(runs[0])["timestep"].tolist() == [10, 20]
