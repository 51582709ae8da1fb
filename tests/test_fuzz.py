"""Whatever is thrown at options, files and checkpoints: a value or a UserError, and nothing changed on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_scripts import write_hopper_file

from offlinerlkit_damo.config import Config, options, resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import load_dataset
from offlinerlkit_damo.training import checkpoint
from offlinerlkit_damo.training.logs import rewind
from offlinerlkit_damo.training.saved import load_policy

# the same examples in every run, so that a change is what makes a test fail
QUICKLY = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANYTHING: Any = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.lists(st.integers(), max_size=3),
    st.sampled_from(["true", "none", "1e400", "nan", "-inf", "1e-400", "0x1f", "1_000", " ", "damo", "hopper-medium", "٣"]),
)  # fmt: skip


@QUICKLY
@given(st.dictionaries(st.sampled_from(sorted(options())), ANYTHING, min_size=1, max_size=3))
def test_any_option_values_are_a_config_or_a_user_error(flags: dict[str, Any]) -> None:
    try:
        config = resolve(flags)
    except UserError as error:
        assert str(error)
    else:
        assert Config.from_flat(config.flat()) == config


@QUICKLY
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_config_file_is_a_config_or_a_user_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    try:
        resolve({}, config_file=path)
    except UserError as error:
        assert str(error)
    assert path.read_bytes() == content


def damaged(data: st.DataObject, good: bytes) -> bytes:
    """Some bytes changed, or the end cut off."""
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)


@QUICKLY
@given(data=st.data())
def test_a_damaged_checkpoint_is_never_read_as_another(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"state": {"weights": torch.arange(50.0), "step": 7}}
    checkpoint.write(content, path)
    bad = damaged(data, path.read_bytes())
    path.write_bytes(bad)
    try:
        found = checkpoint.read(path)
    except UserError as error:
        assert "last.ckpt" in str(error)
    else:
        assert found["state"]["step"] == 7 and torch.equal(found["state"]["weights"], content["state"]["weights"])
    assert path.read_bytes() == bad


@QUICKLY
@given(data=st.data())
def test_a_damaged_dataset_or_policy_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    good = write_hopper_file(tmp_path / "good.hdf5", 30)
    policy = tmp_path / "good.pth"
    torch.save({"actor.backbone.model.0.weight": torch.zeros(4, 11)}, policy)
    for read, source in ((load_dataset, good), (load_policy, policy)):
        path = tmp_path / f"bad{source.suffix}"
        path.write_bytes(damaged(data, source.read_bytes()))
        try:
            read(path)
        except UserError as error:
            assert str(error)


@QUICKLY
@given(tail=st.binary(max_size=120), step=st.integers(0, 30))
def test_any_table_is_cut_without_complaint(tail: bytes, step: int, tmp_path: Path) -> None:
    path = tmp_path / "policy_training_progress.csv"
    path.write_bytes(b"a,timestep\n1,5\n2,10\n" + tail)
    rewind(tmp_path, step, 0, has_model=True)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in ("1,5", "2,10") if int(line.split(",")[1]) <= step]
    assert lines[1 : 1 + len(kept)] == kept


@pytest.mark.parametrize("name", ["preset", "algo_name", "divergence"])
def test_unknown_words_name_near_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"did you mean|choose from"):
        resolve({name: "zzz"})
