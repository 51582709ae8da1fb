"""The patches for OfflineRL-Kit and the command that applies them.

The command's logic is tested on a small repository. What the patches do is tested on a clone of the kit's checkout that the environment
variable OFFLINERLKIT_CHECKOUT names, by the symptom that each patch describes and by what else it promises.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_scripts import BUDGET, write_hopper_file

from offlinerlkit_damo import patching
from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import run_command

ROOT = Path(__file__).parents[1]
PATCHES = sorted((ROOT / "patches").glob("*.patch"))
CHECKOUT_VARIABLE = "OFFLINERLKIT_CHECKOUT"
NO_GYM, NO_MUJOCO = "no gym", "no mujoco"  # what is made to be missing


def git(folder: Path, *words: str) -> str:
    """Run git as nobody in particular; its output."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but git's own."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- the command, on a small repository --------------------------------------------------------------------------------------------

SMALL_KIT = {
    "offlinerlkit/trainer.py": "one\ntwo\nthree\nfour without a newline",
    "offlinerlkit/empty.py": "",
    "run_example/run.py": "import gym\n",
    "README.md": "a kit\n",
}
SMALL_PATCHES = {
    "0001-late": """
        Explanation, with a line that looks like a change:
        +++ no, not this one
        ---
        diff --git a/offlinerlkit/new.py b/offlinerlkit/new.py
        new file mode 100644
        --- /dev/null
        +++ b/offlinerlkit/new.py
        @@ -0,0 +1,2 @@
        +new
        +file
        diff --git a/offlinerlkit/trainer.py b/offlinerlkit/trainer.py
        --- a/offlinerlkit/trainer.py
        +++ b/offlinerlkit/trainer.py
        @@ -3,0 +4 @@
        +after three
        """,
    "0002-early": """
        Earlier lines of the same file.
        ---
        diff --git a/offlinerlkit/trainer.py b/offlinerlkit/trainer.py
        --- a/offlinerlkit/trainer.py
        +++ b/offlinerlkit/trainer.py
        @@ -0,0 +1,2 @@
        +first
        +second
        @@ -1,0 +4 @@
        +after one
        diff --git a/run_example/run.py b/run_example/run.py
        --- a/run_example/run.py
        +++ b/run_example/run.py
        @@ -1,0 +2 @@
        +import more
        """,
    "0003-empty": """
        An empty file gets a line.
        ---
        diff --git a/offlinerlkit/empty.py b/offlinerlkit/empty.py
        --- a/offlinerlkit/empty.py
        +++ b/offlinerlkit/empty.py
        @@ -0,0 +1 @@
        +no longer empty
        """,
}
PATCHED = {
    "offlinerlkit/trainer.py": b"first\nsecond\none\nafter one\ntwo\nthree\nafter three\nfour without a newline",
    "offlinerlkit/empty.py": b"no longer empty\n",
    "offlinerlkit/new.py": b"new\nfile\n",
    "run_example/run.py": b"import gym\nimport more\n",
    "README.md": b"a kit\n",
}
ORIGINAL = {name: text.encode() for name, text in SMALL_KIT.items()}
APPLIED, NOT_APPLIED = dict.fromkeys(SMALL_PATCHES, "applied"), dict.fromkeys(SMALL_PATCHES, "not applied")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a small kit, with the patches and the commit that the command is made to expect."""
    folder, patches = tmp_path / "kit", tmp_path / "patches"
    patches.mkdir()
    for name, text in SMALL_PATCHES.items():
        (patches / f"{name}.patch").write_text(textwrap.dedent(text).lstrip())
    for name, text in SMALL_KIT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "run_example" / "run.py").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "kit")
    monkeypatch.setattr(patching, "patch_folder", lambda: patches)
    monkeypatch.setattr(patching, "COMMIT", git(folder, "rev-parse", "HEAD").strip())
    return folder


def by_hand(folder: Path, *names: str) -> None:
    """What git itself makes of the small patches."""
    git(folder, "apply", "--unidiff-zero", *(str(patching.patch_folder() / f"{name}.patch") for name in names))


def test_apply_and_revert(small: Path) -> None:
    """All patches, twice, and none of them again, twice: the exact texts, the modes, and a clean tree at the end."""
    assert patching.examine(small) == NOT_APPLIED
    for _ in range(2):
        patching.apply(small)
        assert contents(small) == PATCHED
        assert patching.examine(small) == APPLIED
    assert (small / "run_example" / "run.py").stat().st_mode & 0o777 == 0o755
    for _ in range(2):
        patching.revert(small)
        assert contents(small) == ORIGINAL
        assert git(small, "status", "--porcelain") == ""
    assert patching.examine(small) == NOT_APPLIED


def test_the_result_is_gits(small: Path) -> None:
    """`git apply --unidiff-zero` of the files in their order gives what the command gives."""
    by_hand(small, *SMALL_PATCHES)
    assert contents(small) == PATCHED
    assert patching.examine(small) == APPLIED


def test_windows_line_ends(small: Path, tmp_path: Path) -> None:
    """A clone made with core.autocrlf=true, and patch files that came so themselves: what git makes of them, and a clean tree again."""
    clones = [tmp_path / name for name in ("by command", "by hand")]
    for clone in clones:
        git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(small), str(clone))
    command, hand = clones
    original = contents(command)
    assert original["offlinerlkit/trainer.py"] == b"one\r\ntwo\r\nthree\r\nfour without a newline"
    by_hand(hand, *SMALL_PATCHES)
    assert patching.examine(hand) == APPLIED
    for path in patching.patch_folder().iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert patching.examine(command) == NOT_APPLIED
    patching.apply(command)
    assert contents(command) == {name: text.replace(b"\n", b"\r\n") for name, text in PATCHED.items()} == contents(hand)
    assert patching.examine(command) == APPLIED
    patching.revert(command)
    assert contents(command) == original
    assert git(command, "status", "--porcelain") == ""


def test_a_checkout_from_before_autocrlf_was_set(small: Path) -> None:
    """Its files keep their line ends, and git takes them for its own."""
    git(small, "config", "core.autocrlf", "true")
    (small / "offlinerlkit" / "trainer.py").touch()
    assert patching.examine(small) == NOT_APPLIED
    patching.apply(small)
    assert contents(small) == PATCHED
    assert patching.examine(small) == APPLIED
    patching.revert(small)
    assert contents(small) == ORIGINAL


SUBSETS = [some for size in (1, 2) for some in itertools.combinations(SMALL_PATCHES, size)]


@pytest.mark.parametrize("some", SUBSETS, ids="+".join)
@pytest.mark.parametrize("action", ["apply", "revert"])
def test_any_set_is_completed_or_removed(action: str, some: tuple[str, ...], small: Path) -> None:
    """Also where the missing patch is an earlier one whose lines come later in the same file."""
    by_hand(small, *some)
    assert patching.examine(small) == {name: "applied" if name in some else "not applied" for name in SMALL_PATCHES}
    getattr(patching, action)(small)
    assert contents(small) == (PATCHED if action == "apply" else ORIGINAL)


def test_half_a_patch_is_named_and_completed(small: Path) -> None:
    """A patch on one of its two files, as a crash would leave it."""
    (small / "offlinerlkit" / "new.py").write_bytes(PATCHED["offlinerlkit/new.py"])
    assert patching.examine(small)["0001-late"] == "partly applied"
    patching.apply(small)
    assert contents(small) == PATCHED


def test_a_misplaced_patch_is_not_taken_for_an_applied_one(small: Path) -> None:
    """Applied by hand in the wrong order the lines come to lie elsewhere."""
    by_hand(small, "0002-early")
    by_hand(small, "0001-late")
    with pytest.raises(UserError, match=r"offlinerlkit/trainer\.py"):
        patching.examine(small)


def test_untracked_files_do_not_matter(small: Path) -> None:
    """Environments, data and scripts that lie in the checkout are left alone."""
    (small / "mine.py").write_text("mine")
    patching.apply(small)
    patching.revert(small)
    assert contents(small) == {**ORIGINAL, "mine.py": b"mine"}


def test_a_folder_inside_the_checkout_will_do(small: Path) -> None:
    """The whole checkout is patched."""
    patching.apply(small / "offlinerlkit")
    assert contents(small) == PATCHED


def test_gits_variables_do_not_lead_astray(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIT_DIR is set in git's hooks."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nothing"))
    assert patching.examine(small) == NOT_APPLIED


def _change_a_file(folder: Path) -> None:
    (folder / "README.md").write_text("mine\n")


def _change_a_patched_file(folder: Path) -> None:
    by_hand(folder, "0003-empty")
    (folder / "offlinerlkit" / "trainer.py").write_text("one\nmine\n")


def _remove_a_patched_file(folder: Path) -> None:
    (folder / "run_example" / "run.py").unlink()


def _take_a_new_files_place(folder: Path) -> None:
    (folder / "offlinerlkit" / "new.py").write_text("mine\n")


def _stage(folder: Path) -> None:
    by_hand(folder, "0003-empty")
    git(folder, "add", ".")


def _commit(folder: Path) -> None:
    by_hand(folder, "0003-empty")
    git(folder, "commit", "-q", "-a", "-m", "mine")


def _another_project(folder: Path) -> None:
    git(folder, "mv", "offlinerlkit", "another")
    git(folder, "commit", "-q", "-m", "another")


def _no_repository(folder: Path) -> None:
    (folder / ".git").rename(folder.parent / "git")


def _nothing(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")


def _no_patches(folder: Path) -> None:
    for path in patching.patch_folder().iterdir():
        path.unlink()


WRONG = [
    # what is done to the checkout, what the message must name
    (_change_a_file, r"README\.md"),
    (_change_a_patched_file, r" in offlinerlkit/trainer\.py;"),
    (_remove_a_patched_file, r"run_example/run\.py"),
    (_take_a_new_files_place, r"offlinerlkit/new\.py"),
    (_stage, r"staged .*offlinerlkit/empty\.py"),
    (_commit, r"is at commit \w{40}, the patches are for \w{40}; run: git -C \S+ checkout"),
    (_another_project, r"not of OfflineRL-Kit.* git clone https"),
    (_no_repository, r"not a git repository.* git clone https"),
    (_nothing, r"kit'.* git clone https"),
    (_no_patches, r"no patches in .*install offlinerlkit-damo again"),
]


@pytest.mark.parametrize("flags", [["--check"], [], ["--revert"]], ids=" ".join)
@pytest.mark.parametrize(("spoil", "named"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_refusals(spoil: object, named: str, flags: list[str], small: Path, tmp_path: Path) -> None:
    """One sentence that names the matter; nothing is changed, whatever was asked for."""
    spoil(small)  # type: ignore[operator]
    before = contents(tmp_path)
    with pytest.raises(UserError, match=named) as caught:
        main(["patch", str(small), *flags])
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_without_git(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no git to ask."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install git"):
        patching.apply(small)
    assert contents(small) == ORIGINAL


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    # which call of which function fails; a revert also removes the one file that is new
    ("action", "place", "step", "number"),
    [("apply", Path, "write_bytes", 2), ("apply", os, "replace", 3), ("revert", os, "replace", 2), ("revert", Path, "unlink", 1)],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_all_or_nothing(
    action: str, place: object, step: str, number: int, error: BaseException, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure while files are written, put into their places or removed: the tree is as it was, and nothing else lies about."""
    if action == "revert":
        patching.apply(small)
    real, calls = getattr(place, step), iter(range(1, 100))

    def failing(*arguments: object, **options: object) -> object:
        if next(calls) == number:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(place, step, failing)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        getattr(patching, action)(small)
    monkeypatch.undo()
    assert contents(small) == (ORIGINAL if action == "apply" else PATCHED)


def test_the_command(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a patch; --check changes nothing."""
    by_hand(small, "0003-empty")
    before = contents(small)
    main(["patch", str(small), "--check"])
    assert contents(small) == before
    assert capsys.readouterr().out.splitlines() == [
        "not applied    0001-late",
        "not applied    0002-early",
        "applied        0003-empty",
    ]
    main(["patch", str(small)])
    assert contents(small) == PATCHED
    *lines, hint = capsys.readouterr().out.splitlines()
    assert lines == [f"applied        {name}" for name in SMALL_PATCHES]
    assert hint.endswith(f"pip install --no-deps --editable {small}")
    main(["patch", str(small), "--revert"])
    assert contents(small) == ORIGINAL


def test_the_commands_exit_code(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 and one line on stderr where it refuses, also for both flags at once."""
    _change_a_file(small)
    for flags in (["--check"], ["--check", "--revert"]):
        with pytest.raises(SystemExit) as caught:
            run_command(main, ["patch", str(small), *flags])
        assert caught.value.code == 2
        assert re.fullmatch(r"error: .+\n", capsys.readouterr().err)


def test_every_flag_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """--help."""
    with pytest.raises(SystemExit) as caught:
        main(["patch", "--help"])
    assert caught.value.code == 0
    assert re.search(r"PATH +\w.*--check +\w.*--revert +\w", capsys.readouterr().out, re.DOTALL)


# ---- the patch files ---------------------------------------------------------------------------------------------------------------


def header_and_diff(path: Path) -> tuple[str, list[str]]:
    """A patch file's explanation, and its other lines."""
    header, _, diff = path.read_text(encoding="utf-8").partition("\n---\n")
    return header, diff.splitlines()


def symptom(path: Path) -> tuple[str, str, str]:
    """The command in a patch's explanation, and what ends its output without and with the patch."""
    header, _ = header_and_diff(path)
    pattern = r"^Symptom.*?:\n\n(.+?)\n\n    without the patch: ([^\n]+)\n    with it: ([^\n]+)\n"
    found = re.search(pattern, header, re.DOTALL | re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found[1]), found[2], found[3]


def test_the_patches_are_numbered() -> None:
    """From 0001 on, without a gap."""
    assert [path.name[:5] for path in PATCHES] == [f"{number:04d}-" for number in range(1, len(PATCHES) + 1)]
    assert len(PATCHES) == 7


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_only_adds(path: Path) -> None:
    """No removed line, no context line, nothing of the kit's text behind a hunk's numbers; and as many lines as the numbers say."""
    _, diff = header_and_diff(path)
    kinds = re.compile(r"diff --git a/\S+ b/\S+|new file mode 100644|--- (a/\S+|/dev/null)|\+\+\+ b/\S+|@@ -\d+,0 \+\d+(,\d+)? @@|\+.*")
    assert [line for line in diff if not kinds.fullmatch(line)] == []
    announced = sum(int(count or 1) for count in re.findall(r"^@@ -\d+,0 \+\d+(?:,(\d+))? @@$", "\n".join(diff), re.MULTILINE))
    added = [line for line in diff if line.startswith("+") and not line.startswith("+++ b/")]
    assert announced == len(added) > 0


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_explains_itself(path: Path) -> None:
    """A title, the reason, the symptom with its command, the fix; and a row in the documentation."""
    header, _ = header_and_diff(path)
    assert re.match(r"\S.*\n\nReason: .+\n\nSymptom.+\n\nFix: .+", header, re.DOTALL)
    command, without, with_it = symptom(path)
    assert "python " in command
    assert without != with_it
    assert f"`{path.stem}`" in (ROOT / "docs" / "patches.md").read_text(encoding="utf-8")


def test_only_damos_patch_needs_this_package() -> None:
    """The others serve a kit that has never heard of it."""
    needing = {path.stem for path in PATCHES if any("offlinerlkit_damo" in line for line in header_and_diff(path)[1])}
    assert needing == {"0007-damo-policy"}


def test_an_installed_package_has_the_patches(tmp_path: Path) -> None:
    """A build, which is what pip copies, holds the files, and the code in it finds them there."""
    pytest.importorskip("setuptools")
    build = ["setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    code = "from offlinerlkit_damo import patching; print(patching.__file__, *patching.patch_folder().iterdir(), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "lib", check=True, capture_output=True, text=True)
    module, *files = map(Path, done.stdout.splitlines())
    assert module == tmp_path / "lib" / "offlinerlkit_damo" / "patching.py"
    assert {path.name: path.read_text() for path in files} == {path.name: path.read_text() for path in PATCHES}
    assert {path.parent.parent for path in files} == {module.parent}


# ---- the patches on the kit --------------------------------------------------------------------------------------------------------

OLD_GYM = {
    # enough of gym, d4rl and ray to import the kit and its scripts
    "gym/__init__.py": "from gymnasium import Env, spaces\n",
    "gym/envs/__init__.py": "",
    "gym/envs/mujoco/__init__.py": "",
    "gym/envs/mujoco/mujoco_env.py": "class MujocoEnv: pass\n",
    "d4rl.py": "",
    "ray/__init__.py": "from . import tune\n",
    "ray/tune.py": "",
}
MISSING = {
    NO_GYM: {"gym.py": "raise ModuleNotFoundError(\"No module named 'gym'\")\n"},
    NO_MUJOCO: {**OLD_GYM, "gym/envs/mujoco/__init__.py": "raise RuntimeError('you appear to be missing MuJoCo')\n"},
}


class Kit:
    """A clone of the kit, with and without patches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def patch(self, *names: str) -> None:
        """Apply the patches whose names begin so, by hand and in their order."""
        chosen = [str(path) for path in PATCHES if path.name.startswith(names)]
        assert len(chosen) >= len(names)
        git(self.folder, "apply", "--unidiff-zero", *chosen)

    def run(self, command: str, *, missing: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the checkout, where the kit and this package are importable."""
        modules = self.folder.parent / f"modules {missing}"
        for name, text in (OLD_GYM if missing is None else MISSING[missing]).items():
            (modules / name).parent.mkdir(parents=True, exist_ok=True)
            (modules / name).write_text(text)
        path = os.pathsep.join(map(str, [modules, self.folder, ROOT]))
        variables = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        shell = ["sh", "-c", f'python() {{ "$PYTHON" "$@"; }}\n{command}']
        return subprocess.run(shell, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=300)

    def last_line(self, command: str, *, missing: str | None = None, **environment: str) -> str:
        """What the command says at the end, on stderr if it fails."""
        done = self.run(command, missing=missing, **environment)
        return (done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]

    def python(self, code: str, *, missing: str | None = None, **environment: str) -> list[str]:
        """The lines that a Python program prints."""
        done = self.run(f"python - <<'END'\n{textwrap.dedent(code)}\nEND", missing=missing, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A fresh clone."""
    checkout = os.environ.get(CHECKOUT_VARIABLE)
    if not checkout:
        pytest.skip(f"{CHECKOUT_VARIABLE} does not name a git checkout of OfflineRL-Kit")
    folder = tmp_path / "kit"
    subprocess.run(["git", "clone", "--quiet", checkout, str(folder)], check=True)
    git(folder, "checkout", "--quiet", patching.COMMIT)
    return Kit(folder)


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_the_symptom_is_there_and_gone(path: Path, kit: Kit) -> None:
    """A patch's own command, before and after this one patch; taken off again it leaves nothing."""
    command, without, with_it = symptom(path)
    missing = NO_GYM if path.stem == "0006-import-without-gym" else None
    assert kit.last_line(command, missing=missing).startswith(without)
    kit.patch(path.stem)
    assert kit.last_line(command, missing=missing) == with_it
    patching.revert(kit.folder)
    assert git(kit.folder, "status", "--porcelain") == ""


def test_all_symptoms_are_gone_together(kit: Kit) -> None:
    """With all patches, and without gym where the command does not import it."""
    patching.apply(kit.folder)
    for path in PATCHES:
        command, _, with_it = symptom(path)
        assert kit.last_line(command, missing=None if path.stem == "0001-boolean-flags" else NO_GYM) == with_it


@pytest.mark.parametrize("autocrlf", ["false", "true"])
def test_the_kits_checkout_comes_back(kit: Kit, autocrlf: str) -> None:
    """Apply, check, apply, revert: all patches, and a clean tree; git itself makes the same of them. Windows' line ends are no obstacle."""
    git(kit.folder, "config", "core.autocrlf", autocrlf)
    git(kit.folder, "rm", "-rq", ".")
    git(kit.folder, "reset", "-q", "--hard")
    assert (b"\r\n" in (kit.folder / "setup.py").read_bytes()) == (autocrlf == "true")
    patching.apply(kit.folder)
    assert set(patching.examine(kit.folder).values()) == {"applied"}
    patched = contents(kit.folder)
    patching.apply(kit.folder)
    assert contents(kit.folder) == patched
    assert git(kit.folder, "diff", "--numstat").count("\t0\t") == len(git(kit.folder, "diff", "--numstat").splitlines())
    patching.revert(kit.folder)
    assert git(kit.folder, "status", "--porcelain", "--ignored") == ""
    kit.patch("0")
    assert contents(kit.folder) == patched


SCRIPTS = ["run_combo", "run_cql", "run_edac", "run_iql", "run_mcq", "run_mobile", "run_mopo", "run_rambo", "tune_mopo"]
FLAGS = """
    import os, re, sys
    script = os.environ["SCRIPT"]
    folder = script.split("_")[0] + "_example"
    sys.path.insert(0, folder)
    names = re.findall(r'"(--[-a-z]+)",[^)]*default=(?:True|False)', open(f"{folder}/{script}.py").read())
    sys.argv[1:] = []
    get_args = __import__(script).get_args
    for word in ("False", "true", "no", "1", "perhaps"):
        sys.argv[1:] = [part for name in names for part in (name, word)]
        try:
            args = get_args()
        except SystemExit as end:
            print(word, "exit", end.code)
        else:
            print(word, len(names), {getattr(args, name[2:].replace("-", "_")) for name in names})
    sys.argv[1:] = []
    print({type(getattr(get_args(), name[2:].replace("-", "_"))) for name in names}, get_args().batch_size)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_boolean_flag_of_every_script(script: str, kit: Kit) -> None:
    """Each is read both ways, refuses other words and keeps its default; other flags are as they were."""
    counts = {"run_combo": 5, "run_cql": 4, "run_edac": 4, "run_mobile": 5, "run_rambo": 2}
    count = counts.get(script, 1)
    kit.patch("0001")
    assert kit.python(FLAGS, SCRIPT=script) == [
        f"False {count} {{False}}",
        f"true {count} {{True}}",
        f"no {count} {{False}}",
        f"1 {count} {{True}}",
        "perhaps exit 2",
        "{<class 'bool'>} 256",
    ]


TRAINERS = """
    import warnings
    from unittest.mock import MagicMock, patch
    import numpy as np
    from offlinerlkit.policy_trainer import MBPolicyTrainer, MFPolicyTrainer

    def trainers(env, policy, logger, **options):
        return (
            MFPolicyTrainer(policy, env, None, logger, **options),
            MBPolicyTrainer(policy, env, None, None, logger, rollout_setting=(1, 1, 1), **options),
        )
"""


def test_both_trainers_log_the_scores_spread(kit: Kit) -> None:
    """Returns of 0 and 400 with an offset of 100 and a scale of 1000: scores 10 and 50, mean 30, spread 20."""
    kit.patch("0002")
    code = """
        for number in (0, 1):
            logger = MagicMock()
            env = MagicMock(get_normalized_score=lambda score: (score + 100) / 1000)
            trainer = trainers(env, MagicMock(), logger, epoch=1, step_per_epoch=0)[number]
            trainer._evaluate = lambda: {"eval/episode_reward": [0.0, 400.0], "eval/episode_length": [1, 1]}
            with patch("torch.save"):
                trainer.train()
            logged = dict(call.args for call in logger.logkv.call_args_list)
            print(*(round(float(logged[f"eval/normalized_episode_reward{end}"]), 6) for end in ("", "_std")))
    """
    assert kit.python(textwrap.dedent(TRAINERS) + textwrap.dedent(code)) == ["30.0 20.0"] * 2


def test_hyperparameters_are_written_as_before(kit: Kit) -> None:
    """The file has plain numbers and lists; the arguments keep their own."""
    kit.patch("0003")
    code = """
        import tempfile
        import numpy as np
        from offlinerlkit.utils.logger import Logger
        values = {"n": np.int64(3), "shape": (11,), "mean": np.ones(2)}
        logger = Logger(tempfile.mkdtemp(), {})
        logger.log_hyperparameters(values)
        print({name: type(value).__name__ for name, value in values.items()})
        print(open(logger.record_dir + "/hyper_param.json").read(), end="")
    """
    types, written = kit.python(code)
    assert types == "{'n': 'int64', 'shape': 'tuple', 'mean': 'ndarray'}"
    assert json.loads(written) == {"n": 3.0, "shape": [11], "mean": [1.0, 1.0]}


def test_terminations(kit: Kit) -> None:
    """Hopper's bound in both directions and no more than that; pendulum's booleans; an unknown task by its name."""
    kit.patch("0004")
    code = """
        import numpy as np
        from offlinerlkit.utils.termination_fns import get_termination_fn
        rows = np.array([[1.2, 0.1, 99.0], [1.2, 0.1, -99.0], [1.2, 0.1, 100.0], [1.2, 0.1, -100.0], [0.6, 0.1, 0.0], [1.2, 0.1, np.nan]])
        for task in ("hopper-medium-v2", "pendulum"):
            done = get_termination_fn(task)(rows, rows, rows)
            print(done.dtype, done.shape, done[:, 0].astype(int).tolist())
        try:
            get_termination_fn("chess")
        except ValueError as error:
            print(error)
    """
    hopper, pendulum, unknown = kit.python(code)
    assert hopper == "bool (6, 1) [0, 0, 1, 1, 1, 1]"
    assert pendulum == "bool (6, 1) [0, 0, 0, 0, 0, 0]"
    assert "'chess'" in unknown


def test_the_trainers_take_either_interface(kit: Kit) -> None:
    """gym's and gymnasium's environments give the same evaluation, whether an episode is terminated or truncated."""
    kit.patch("0005")
    code = """
        class Old:
            get_normalized_score = staticmethod(lambda score: score / 4)
            def reset(self):
                self.time = 0
                return np.zeros(3)
            def step(self, action):
                self.time += 1
                return np.zeros(3), 2.0, self.time == 2, {}

        class New(Old):
            def __init__(self, truncates):
                self.truncates = truncates
            def reset(self, seed=None, options=None):
                return super().reset(), {}
            def step(self, action):
                obs, reward, done, info = super().step(action)
                return obs, reward, done and not self.truncates, done and self.truncates, info

        policy = MagicMock(select_action=lambda obs, deterministic: np.zeros((1, 1)))
        for env in (Old(), New(True), New(False)):
            for trainer in trainers(env, policy, MagicMock(), eval_episodes=2):
                found = trainer._evaluate()
                print(found["eval/episode_reward"], found["eval/episode_length"], trainer.eval_env.get_normalized_score(4.0))
    """
    assert kit.python(textwrap.dedent(TRAINERS) + textwrap.dedent(code)) == ["[4.0, 4.0] [2, 2] 1.0"] * 6


def test_the_adapter_looks_through_wrappers(kit: Kit) -> None:
    """The score of the environment inside gymnasium's wrappers; without one a warning and raw returns; a copy is a copy."""
    kit.patch("0005")
    code = """
        import copy, warnings
        import gymnasium
        from offlinerlkit.utils.env_adapter import EnvAdapter
        env = gymnasium.make("Pendulum-v1")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bare = EnvAdapter(env)
        print(sum("get_normalized_score" in str(warning.message) for warning in caught), bare.get_normalized_score(700.0) * 100)
        env.unwrapped.get_normalized_score = lambda score: score + 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scored = EnvAdapter(env)
        print(sum("get_normalized_score" in str(warning.message) for warning in caught), scored.get_normalized_score(1.0))
        print(copy.deepcopy(bare).reset(seed=1).shape, bare.action_space.shape, hasattr(bare, "absent"))
    """
    assert kit.python(code) == ["1 700.0", "0 2.0", "(3,) (1,) False"]


@pytest.mark.parametrize("missing", [NO_GYM, NO_MUJOCO])
def test_everything_imports_without_gyms_extras(missing: str, kit: Kit) -> None:
    """Every module that uses gym, where gym is absent or its MuJoCo part refuses; where gym is there it is used."""
    code = """
        import offlinerlkit.dynamics, offlinerlkit.policy, offlinerlkit.policy_trainer
        from offlinerlkit.policy.model_based import combo, mobile, mopo, rambo
        from offlinerlkit.policy.model_free import cql, iql
        from offlinerlkit.policy_trainer import mb_policy_trainer, mf_policy_trainer
        print({module.gym.__name__ for module in (combo, mobile, mopo, rambo, cql, iql, mb_policy_trainer, mf_policy_trainer)})
        print(offlinerlkit.dynamics.mujoco_oracle_dynamics.mujoco_env)
    """
    with pytest.raises(AssertionError, match=r"No module named 'gym'|missing MuJoCo"):
        kit.python(code, missing=missing)
    kit.patch("0006")
    assert kit.python(code, missing=missing) == ["{'gymnasium'}" if missing == NO_GYM else "{'gym'}", "None"]
    assert "mujoco_env.py" in kit.python(code)[1]


def test_damo_is_found_in_any_order_and_not_before_it_is_asked_for(kit: Kit) -> None:
    """The kit first or this package first; neither `import *` nor another name brings it."""
    kit.patch("0007")
    lazy = "from offlinerlkit.policy import *; import sys; print('offlinerlkit_damo' in sys.modules, 'DAMOPolicy' in globals())"
    assert kit.python(lazy) == ["False False"]
    kit_first = "import offlinerlkit.policy as kit; import offlinerlkit_damo as damo"
    damo_first = "import offlinerlkit_damo as damo; damo.DAMOPolicy; import offlinerlkit.policy as kit"
    for order in (kit_first, damo_first):
        assert kit.python(f"{order}; print(kit.DAMOPolicy is damo.DAMOPolicy)") == ["True"]
    assert kit.last_line("python -c 'import offlinerlkit.policy as kit; kit.DAMOPolicie'").startswith("AttributeError")
    wrong_host = kit.last_line("python -c 'from offlinerlkit.policy import DAMOPolicy'", OFFLINERLKIT_DAMO_HOST="standin")
    assert wrong_host.startswith("ImportError: offlinerlkit_damo runs on another host")


def test_the_kit_does_without_damo(kit: Kit) -> None:
    """Where this package is not installed, only the name is missing, and the message says of what."""
    patching.apply(kit.folder)
    blocked = "import sys; sys.modules['offlinerlkit_damo'] = None; import offlinerlkit.policy, offlinerlkit.policy_trainer"
    assert kit.python(f"{blocked}; print('fine')", missing=NO_GYM) == ["fine"]
    assert "offlinerlkit_damo" in kit.last_line(f'python -c "{blocked}; offlinerlkit.policy.DAMOPolicy"', missing=NO_GYM)


def test_damos_script_trains_on_the_kit(kit: Kit, tmp_path: Path) -> None:
    """run_example/run_damo.py of the checkout, from start to end."""
    patching.apply(kit.folder)
    data = write_hopper_file(tmp_path / "tiny.hdf5")
    flags = [*BUDGET, "--data", str(data), "--logdir", str(tmp_path / "log")]
    command = " ".join(["python run_example/run_damo.py", *flags])
    done = kit.run(command, missing=NO_GYM, OFFLINERLKIT_DAMO_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "log").rglob("run.json")
    assert json.loads(record.read_text())["host"]["name"] == "offlinerlkit"


@pytest.mark.skipif(find_spec("offlinerlkit") is not None, reason="OfflineRL-Kit is installed")
def test_damos_script_runs_on_no_other_host(kit: Kit) -> None:
    """Where the kit is not installed the script says so."""
    kit.patch("0007")
    done = kit.run("python run_example/run_damo.py", PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*offlinerlkit is not installed.*\n", done.stderr)
