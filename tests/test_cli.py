"""The command line: help, wrong input and the doctor. Wrong input ends with exit code 2, one line and nothing changed on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_scripts import write_hopper_file

from offlinerlkit_damo import doctor
from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.config import options
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import run_command

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "train", "data", "evaluate", "export", "dynamics", "doctor", "report", "compare", "ablate", "figures", "plot", "bench", "patch",
)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, files with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good and bad input files and the log of an earlier run; the cache is in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    good = write_hopper_file(tmp_path / "good.hdf5", 50).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.hdf5").write_text("observations,actions\n")
    (tmp_path / "empty.hdf5").write_bytes(b"")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "broken.yaml").write_text("epoch: [1")
    (tmp_path / "unknown.yaml").write_text("gama: 0.9\n")
    (tmp_path / "list.yaml").write_text("- epoch\n")
    earlier = tmp_path / "log" / "hopper-medium-expert" / "damo" / "seed_1&timestamp_26-0101-000000" / "result"
    earlier.mkdir(parents=True)
    (earlier / "results.json").write_text("{}")
    return tmp_path


WRONG = [
    # command line, what the message must name
    ("", "COMMAND"),
    ("trian", "trian"),
    ("train --task hoper-medium", "did you mean hopper-medium"),
    ("train --task hopper-medium-v7", "hopper-medium-v7"),
    ("train --algo dama", "dama"),
    ("train --divergence chi3", "did you mean chi2"),
    ("train --preset papr", "did you mean paper"),
    ("train --grad-mode half", "grad_mode"),
    ("train --gamma high", "gamma is 'high'"),
    ("train --gamma 1", "gamma is 1.0"),
    ("train --gamma", "--gamma"),
    ("train --auto-alpha maybe", "true or false"),
    ("train --epoch 0", "epoch is 0"),
    ("train --epoch 2.5", "whole number"),
    ("train --damo-alpha nan", "finite"),
    ("train --init-coef some", "1-gamma"),
    ("train --hidden-dims 64 wide", "hidden_dims"),
    ("train --dynamics-hidden-dims 8 8", "dynamics_weight_decay"),
    ("train --n-elites 9", "n_elites is 9"),
    ("train --speed 3", "--speed"),
    ("train --lr 3", "unrecognized arguments: --lr 3"),
    ("train --config absent.yaml", "absent.yaml"),
    ("dynamics prune", "--unused DAYS"),
    ("dynamics prune --unused -3", "--unused is -3"),
    ("dynamics prune --unused nan", "--unused is nan"),
    ("evaluate absent", "absent"),
    ("evaluate log", "policy.pth"),
    ("evaluate file --json absent/x.json", "holds no policy that can be used (it is damaged, not there, or no file of torch.save's)"),
    ("dynamics prune 0123", "empty"),
    ("dynamics list 0123", "dynamics prune"),
    ("train --config broken.yaml", "line 1"),
    ("train --config unknown.yaml", "did you mean gamma"),
    ("train --config list.yaml", "mapping"),
    ("train --device tpu", "cpu, cuda"),
    ("train --tf32 true", "--device cuda"),
    ("train --data absent.hdf5", "absent.hdf5"),
    ("train --data cut.hdf5", "cut.hdf5"),
    ("train --data text.hdf5", "text.hdf5"),
    ("train --data empty.hdf5", "empty.hdf5"),
    ("train --data .", "folder"),
    ("train --data good.hdf5 --task halfcheetah-medium", "halfcheetah"),
    ("train --data good.hdf5 --logdir file/log", "--logdir"),
    ("train --data good.hdf5 --logdir /proc/none/log", "/proc/none/log"),
    ("train --data good.hdf5 --seed 4294967296", "seed"),
    ("data make", "data list"),
    ("data make hopper", "hopper"),
    ("data make hopper-random --size 0", "size 0"),
    ("data make hopper-random --size many", "many"),
    ("data sell", "sell"),
    ("report log", "neither a run's folder"),
    ("report absent", "absent"),
    ("bench --host kit", "kit"),
    ("bench --threads 0", "threads"),
    ("doctor now", "now"),
]


@pytest.mark.parametrize(("line", "named"), WRONG, ids=[line or "nothing" for line, _ in WRONG])
def test_wrong_input_is_one_sentence_and_changes_nothing(line: str, named: str, place: Path) -> None:
    """A UserError of one line that names the thing; no file is made, none is changed."""
    before = contents(place)
    with pytest.raises(UserError) as caught:
        main(line.split())
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert contents(place) == before


@pytest.mark.parametrize("line", ["train --data good.hdf5 --logdir away/log", "compare --tasks hopper-random --out away"])
def test_a_link_that_leads_nowhere_is_one_sentence(line: str, place: Path) -> None:
    """As log is where another disk is not mounted; mkdir says that the link exists."""
    (place / "away").symlink_to(place / "not-mounted")
    with pytest.raises(UserError, match=r"cannot write to 'away.*'.*away' is no folder"):
        main(line.split())


def test_cuda_without_cuda(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device cuda is refused before anything is made."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    before = contents(place)
    with pytest.raises(UserError, match="use --device cpu"):
        main(["train", "--data", "good.hdf5", "--device", "cuda"])
    assert contents(place) == before


@pytest.mark.parametrize("flags", [["--load-dynamics-path", "cache"], []], ids=["no model", "few rows"])
def test_no_dynamics_to_be_had(flags: list[str], place: Path) -> None:
    """A folder without a model, or too few rows to train one: one sentence, and earlier results stay."""
    earlier = contents(place / "log")
    data = write_hopper_file(place / "few.hdf5", 2)
    with pytest.raises(UserError):
        main(["train", "--data", str(data), *flags])
    after = contents(place / "log")
    assert {name: after[name] for name in earlier} == earlier


def test_a_comparison_is_reported_by_its_rows_and_not_with_single_runs(place: Path) -> None:
    (place / "both").mkdir()
    (place / "both" / "rows.csv").write_text("task\nhopper\n")
    (place / "log" / "run.json").parent.mkdir(parents=True, exist_ok=True)
    (place / "log" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="'both' is a comparison and 'log' a single run"):
        main(["report", "both", "log"])
    with pytest.raises(UserError, match=r"'both/rows.csv' lacks the columns label"):
        main(["report", "both/rows.csv"])


def test_report_of_a_broken_run(place: Path) -> None:
    """A run.json that a crash or an editor cut off is named."""
    (place / "log" / "run.json").write_text('{"task":')
    with pytest.raises(UserError, match=r"run\.json"):
        main(["report", "log"])


def test_run_command_prints_one_line_and_exits_with_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `python -m offlinerlkit_damo` and the scripts do with a UserError."""
    with pytest.raises(SystemExit) as caught:
        run_command(main, ["train", "--task", "hoper-medium"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .*hoper-medium.*\n", err)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "offlinerlkit_damo", "train", "--data", "cut.hdf5"],
        ["-m", "offlinerlkit_damo", "train", "--device", "cuda:9", "--data", "good.hdf5"],
        [str(ROOT / "run_example" / "run_damo.py"), "--data", "good.hdf5", "--logdir", "file/log"],
        [str(ROOT / "run_example" / "run_mopo.py"), "--auto_alpha", "perhaps"],
    ],
    ids=lambda command: " ".join(Path(word).name for word in command),
)
def test_wrong_input_from_outside(command: list[str], place: Path) -> None:
    """The same in a real process: exit code 2, one line on stderr, no traceback."""
    before = contents(place)
    done = start(command)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .+\n", done.stderr)
    assert done.stdout == ""
    assert contents(place) == before


def test_unknown_host(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt OFFLINERLKIT_DAMO_HOST is an input like any other."""
    monkeypatch.setenv("OFFLINERLKIT_DAMO_HOST", "stand-in")
    done = start(["-m", "offlinerlkit_damo", "train", "--data", "good.hdf5"])
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*OFFLINERLKIT_DAMO_HOST.*\n", done.stderr)


def start(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with `command` in the current folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120)


# ---- help --------------------------------------------------------------------------------------------------------------------------


def help_of(argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help text, on a terminal so wide that no line is broken."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def explanations(text: str) -> dict[str, str]:
    """Flag or argument -> its explanation, on its own line or, for long ones, on the next."""
    found: dict[str, str] = {}
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"  (-h, )?[-a-z]", line):
            head, _, explanation = line.strip().partition("  ")
            flag = next((word for word in head.split() if word.startswith("--")), head)
            found[flag] = explanation.strip() or (following.strip() if following.startswith("     ") else "")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--help of each command exits with 0, and no flag stands without a line of its own."""
    found = explanations(help_of([command], capsys, monkeypatch))
    assert "--help" in found
    assert [flag for flag, explanation in found.items() if len(explanation) < 8] == []


def test_train_has_a_flag_for_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags of `train` are the options of the configuration and those that no configuration has."""
    found = set(explanations(help_of(["train"], capsys, monkeypatch)))
    assert found == {f"--{name.replace('_', '-')}" for name in options()} | {"--fleet", "--config", "--resume", "--force", "--help"}


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The top level explains every command, and no other than those that are tested here."""
    assert tuple(re.findall(r"^    (\w+) +\w", help_of([], capsys, monkeypatch), re.MULTILINE)) == COMMANDS


# ---- data, doctor ------------------------------------------------------------------------------------------------------------------


def test_data_list_names_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a task, with its simulator."""
    main(["data", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15 + 24 + 12 + 9
    assert any(re.fullmatch(r"hopper-medium-expert +Hopper-v4 +generated", line) for line in lines)


def test_data_make_prints_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path comes first, and the file is there."""
    main(["data", "make", "hopper-random", "--size", "100"])
    path, facts = capsys.readouterr().out.splitlines()
    assert Path(path).is_file()
    assert facts.startswith("100 of 100 transitions")


def test_doctor_runs(place: Path) -> None:
    """The command exits with 0, names host, versions, simulators and packages, and touches nothing."""
    before = contents(place)
    done = start(["-m", "offlinerlkit_damo", "doctor"])
    assert done.returncode == 0, done.stderr
    for word in ("host", "python ", "torch ", "gymnasium ", "Hopper-v4: works", "minari", "GiB free", 'pip install "ray[tune]"'):
        assert word in done.stdout or (word.startswith("pip") and "ray " in done.stdout), word
    assert "failed" not in done.stdout
    assert contents(place) == before


def test_doctor_lists_what_is_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated datasets, D4RL files and dynamics models with their sizes, a damaged model with a remedy."""
    generated = place / "cache" / "datasets" / "generated" / "hopper-random-5-seed0.hdf5"
    d4rl = place / "d4rl" / "hopper_medium-v2.hdf5"
    models = [place / "cache" / "dynamics" / name / "dynamics.pth" for name in ("aa", "bb")]
    for path in (generated, d4rl, *models):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(2 * 2**20))
    (models[0].parent / "facts.json").write_text(json.dumps({"holdout_mse": 0.0123}))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(d4rl.parent))
    report = doctor.examine().splitlines()
    assert f"  {generated} (2.0 MiB)" in report
    assert f"  {d4rl} (2.0 MiB); learn from it with --task hopper-medium-v2" in report
    assert f"  {models[0].parent} (2.0 MiB, holdout MSE 0.0123)" in report
    assert any(line.startswith(f"  {models[1].parent} (2.0 MiB, facts.json missing") for line in report)


def test_doctor_never_raises(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything broken at once: a cache below a file, no packages, simulators that fail. Every section is still there."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("it is\nbroken")

    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(place / "file" / "cache"))
    monkeypatch.setattr("offlinerlkit_damo.tasks.make_env", broken)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", broken)
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor.examine().splitlines()
    assert "  Hopper-v4: failed: it is broken" in report
    assert '  h5py: missing (needed); run: pip install "h5py"' in report
    assert '  not known: torch is missing; run: pip install "torch"' in report
    titles = [line for line in report if not line.startswith("  ")]
    assert titles[0] == "host"
    assert titles[-1] == "optional packages"
    assert len(titles) == 9
