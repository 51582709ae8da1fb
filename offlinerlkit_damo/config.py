"""One frozen, typed configuration; per-task values and presets are data in configs/*.yaml.

Every field's `help` is the one line that `--help` prints. Values are layered: field defaults < preset < the task's values < `--config`
file < flags.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from offlinerlkit_damo.errors import UserError, unknown

DIVERGENCES = ("cubic", "chi2", "half_chi2", "soft_chi2", "kl", "cubic_kl", "power")
MAX_SEED = 2**32 - 1


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> Any:
    """A dataclass field with its help line and its admissible values (`above` excludes the bound, `least` and `most` include it)."""
    metadata = {"help": help, "choices": choices, "above": above, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DAMOConfig:
    """The method's options (docs/method.md gives each one's equation)."""

    damo_alpha: float = option(1.0, "alignment coefficient alpha of the paper (the kit's --alpha is the entropy temperature)", above=0)
    actor_alpha: float | None = option(1.0, "alpha inside the actor's weight f*'(Phi/alpha); none = --damo-alpha (un-fixed)", above=0)
    divergence: str = option("power", "f-divergence of the objective", choices=DIVERGENCES)
    divergence_k: float = option(0.0, "f'(1) of the cubic divergence: 0 centred, 1 OMPO's code, 2 the paper as printed")
    grad_mode: str = option(
        "semi", "gradient through Q(s',a'): full, semi (targets), mix (5% online), orthogonal (ODICE)",
        choices=("full", "semi", "mix", "orthogonal"),
    )
    init_coef: str = option("ompo", "coefficient c0 of Q(s0): 1-gamma, 1-eta*gamma, ompo = (1-gamma) sqrt(alpha), or a number")
    actor_mode: str = option("damo", "actor objective: damo (consistent) or sac (inconsistent, Table 1)", choices=("damo", "sac"))
    data_alignment: bool = option(True, "subtract alpha ell from the reward; false = the paper's 'w/o er'")
    behavior_alignment: bool = option(True, "critic and actor on the convex conjugate; false = 'w/o ir': squared TD loss, SAC actor")
    ratio_mode: str = option("model", "ell against rho_M, or against the batch's real/fake mixture", choices=("model", "mixture"))
    ratio_centering: bool = option(False, "subtract the running mean of ell on fake data (drops the offset, keeps the ranking)")
    logit_clip: float | None = option(None, "bound on |ell|; none = unbounded", above=0)
    entropy_backup: bool = option(False, "subtract the entropy term lambda log pi inside Phi")
    q_next: str = option("min", "next value: each critic its own, or the smaller of the two", choices=("own", "min"))
    w_max: float | None = option(None, "largest weight of a transition in the actor's loss; none = unbounded", above=0)
    target_floor: float | None = option(None, "lower bound of r~ + gamma Q', for tasks whose rewards are non-negative; none = no bound")
    absorbing: bool = option(False, "value of the absorbing state behind a terminal: -alpha ell_abs / (1 - gamma) instead of 0")
    init_states: str = option("dataset", "s0 drawn from all dataset states (paper) or episode starts", choices=("dataset", "episode_start"))
    classifier_hidden_dims: tuple[int, ...] = option((256, 256), "hidden layer widths of the classifier", least=1)
    classifier_lr: float = option(3e-4, "learning rate of the classifier", above=0)
    classifier_updates_per_step: float = option(0.5, "classifier updates per gradient step (d of the paper), may be a fraction", least=0)
    classifier_gradient_penalty: float = option(0.0, "weight of the classifier's gradient penalty (OMPO: 10)", least=0)
    classifier_input_noise: float = option(0.0, "std of noise on the classifier's inputs, in standard deviations of the data", least=0)
    classifier_label_smoothing: float = option(0.0, "label smoothing of the classifier, in [0, 0.5)", least=0)
    classifier_normalize: bool = option(True, "standardise the classifier's inputs by the dataset's statistics")

    def __post_init__(self) -> None:
        _validate(self)
        if self.classifier_label_smoothing >= 0.5:
            raise UserError(f"classifier_label_smoothing is {self.classifier_label_smoothing}; it must be below 0.5")
        self.init_coefficient(gamma=0.99)

    @property
    def next_share(self) -> float:
        """eta: the share of the critic's gradient that passes through Q(s', a')."""
        return {"full": 1.0, "semi": 0.0, "mix": 0.05, "orthogonal": 1.0}[self.grad_mode]

    def init_coefficient(self, gamma: float) -> float:
        """c0 as a number."""
        named = {
            "1-gamma": 1 - gamma,
            "1-eta*gamma": 1 - self.next_share * gamma,
            # OMPO's loss is |Phi|^1.5/1.5 + (1-gamma) alpha Q0; divided by sqrt(alpha) its first part is alpha f*(Phi/alpha)
            "ompo": (1 - gamma) * math.sqrt(self.damo_alpha),
        }
        if self.init_coef in named:
            return named[self.init_coef]
        try:
            value = float(self.init_coef)
        except ValueError:
            raise UserError(f"init_coef is {self.init_coef!r}; give a number or one of {', '.join(named)}") from None
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"init_coef is {self.init_coef}; it must be finite and not negative")
        return value


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: the kit's own flags, this package's additions and, nested, the method's options."""

    algo_name: str = option("damo", "algorithm", choices=("damo", "mopo"))
    task: str = option("hopper-medium-expert", "task name, see `data list`")
    data: str | None = option(None, "D4RL-format HDF5 file to learn from, instead of the task's generated dataset")
    data_size: int = option(200_000, "transitions of a generated dataset", least=1)
    data_seed: int = option(0, "seed of a generated dataset", least=0, most=MAX_SEED)
    preset: str | None = option(None, "preset of configs/<algo>.yaml, for damo paper, ompo or stable; none = the file's default")
    seed: int = option(1, "seed of the networks, the sampling and the rollouts", least=0, most=MAX_SEED)
    actor_lr: float = option(1e-4, "learning rate of the actor", above=0)
    critic_lr: float = option(3e-4, "learning rate of the critics", above=0)
    hidden_dims: tuple[int, ...] = option((256, 256), "hidden layer widths of actor and critics", least=1)
    gamma: float = option(0.99, "discount factor, in (0, 1)", above=0)
    tau: float = option(0.005, "step of the target networks, in (0, 1]", above=0)
    alpha: float = option(0.2, "entropy temperature lambda when --auto-alpha is false", least=0)
    auto_alpha: bool = option(True, "tune the entropy temperature to --target-entropy")
    target_entropy: float | None = option(None, "target entropy in nats; none = -action dimensions")
    alpha_lr: float = option(1e-4, "learning rate of the entropy temperature", above=0)
    lr_schedule: str = option("cosine", "actor learning rate over the epochs", choices=("cosine", "constant"))
    dynamics_lr: float = option(1e-3, "learning rate of the dynamics model", above=0)
    dynamics_hidden_dims: tuple[int, ...] = option((200, 200, 200, 200), "hidden layer widths of the dynamics model", least=1)
    dynamics_weight_decay: tuple[float, ...] = option(
        (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), "weight decay of each dynamics layer, the output layer last", least=0
    )
    n_ensemble: int = option(7, "dynamics models trained", least=1)
    n_elites: int = option(5, "dynamics models used, the best on held-out data", least=1)
    dynamics_max_epochs: int | None = option(None, "most epochs of dynamics training; none = until it stops improving", least=1)
    dynamics_patience: int = option(5, "epochs without improvement before dynamics training stops", least=1)
    dynamics_seed: int | None = option(
        None, "seed of the dynamics model; none = --seed. Runs with equal ones share a model", least=0, most=MAX_SEED
    )
    load_dynamics_path: str | None = option(None, "folder with a trained dynamics model (dynamics.pth, mu.npy, std.npy)")
    rollout_freq: int = option(1000, "gradient steps between model rollouts", least=1)
    rollout_batch_size: int = option(50_000, "states a rollout starts from", least=1)
    rollout_length: int = option(5, "model steps of a rollout", least=1)
    penalty_coef: float = option(2.5, "MOPO's uncertainty penalty; DAMO uses none", least=0)
    model_retain_epochs: int = option(5, "rollouts kept in the synthetic buffer", least=1)
    real_ratio: float = option(0.05, "share of real data in a batch, in (0, 1)", above=0)
    epoch: int = option(3000, "epochs of policy training", least=1)
    step_per_epoch: int = option(1000, "gradient steps in an epoch", least=1)
    eval_episodes: int = option(10, "episodes of an evaluation", least=1)
    eval_every: int = option(1, "epochs between evaluations", least=1)
    batch_size: int = option(256, "transitions in a batch, real and synthetic", least=2)
    engine: str = option(
        "fast", "fast = flat storage and batched twins, reference = the host's modules; equal to rounding", choices=("fast", "reference")
    )
    device: str = option("cpu", "torch device: cpu, cuda or cuda:N")
    threads: int = option(1, "torch threads on the CPU", least=1)
    logdir: str = option("log", "folder the run folders are made in")
    damo: DAMOConfig = dataclasses.field(default_factory=DAMOConfig)

    def __post_init__(self) -> None:
        _validate(self)
        for name in ("gamma", "real_ratio"):
            if getattr(self, name) >= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be below 1")
        for name in ("hidden_dims", "dynamics_hidden_dims"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; it needs at least one width")
        if self.tau > 1:
            raise UserError(f"tau is {self.tau}; it must not exceed 1")
        if self.n_elites > self.n_ensemble:
            raise UserError(f"n_elites is {self.n_elites}, more than the {self.n_ensemble} models of n_ensemble")
        if len(self.dynamics_weight_decay) != len(self.dynamics_hidden_dims) + 1:
            raise UserError(
                f"dynamics_weight_decay has {len(self.dynamics_weight_decay)} values; it needs one per hidden layer and one for the "
                f"output, {len(self.dynamics_hidden_dims) + 1}"
            )
        if int(self.batch_size * self.real_ratio) < 1:
            raise UserError(f"batch_size {self.batch_size} times real_ratio {self.real_ratio} leaves no real sample; raise one of them")

    @property
    def model_seed(self) -> int:
        """The seed of the dynamics model."""
        return self.seed if self.dynamics_seed is None else self.dynamics_seed

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Config:
        """Build from one flat mapping of both dataclasses' fields. Unknown keys and wrong types raise UserError."""
        kinds = option_types()
        flat: dict[str, Any] = {}
        for name, value in values.items():
            if name not in kinds:
                raise unknown("option", name, kinds)
            flat[name] = coerce(name, value)
        method = {f.name: flat.pop(f.name) for f in dataclasses.fields(DAMOConfig) if f.name in flat}
        return cls(**flat, damo=DAMOConfig(**method))

    def flat(self) -> dict[str, Any]:
        """The inverse of `from_flat`, in field order."""
        values = dataclasses.asdict(self)
        return {**{k: v for k, v in values.items() if k != "damo"}, **values["damo"]}


def options() -> dict[str, dataclasses.Field[Any]]:
    """Every option's dataclass field by name, the run's first and then the method's."""
    fields = [f for f in dataclasses.fields(Config) if f.name != "damo"] + list(dataclasses.fields(DAMOConfig))
    return {f.name: f for f in fields}


@cache
def option_types() -> dict[str, Any]:
    """Every option's annotated type by name."""
    hints = {**typing.get_type_hints(Config), **typing.get_type_hints(DAMOConfig)}
    return {name: hints[name] for name in options()}


def _parse_scalar(kind: type, value: Any) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise ValueError
    if kind is int:
        number = float(value) if not isinstance(value, str) or "e" in value.lower() else int(value)
        if isinstance(value, bool) or number != int(number):
            raise ValueError
        return int(number)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    return str(value)


def coerce(name: str, value: Any) -> Any:
    """`value` as option `name`'s type, from YAML or from text ("none" is None, lists for tuples)."""
    kind = option_types()[name]
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        kind = arguments[0]
    try:
        if typing.get_origin(kind) is tuple:
            items = value if isinstance(value, (list, tuple)) else [value]
            return tuple(_parse_scalar(arguments[0], item) for item in items)
        if value is None or isinstance(value, (list, tuple, dict)):
            raise ValueError
        return _parse_scalar(kind, value)
    except (ValueError, TypeError, OverflowError):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        wanted = words.get(kind, "a list of numbers")
        raise UserError(f"{name} is {value!r}; it must be {wanted}") from None


def _validate(config: Any) -> None:
    for field in dataclasses.fields(config):
        value, rules = getattr(config, field.name), field.metadata
        if not rules or value is None:
            continue
        if rules["choices"] and value not in rules["choices"]:
            raise unknown(field.name, value, rules["choices"])
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str):
                continue
            if not math.isfinite(number):
                raise UserError(f"{field.name} is {number}; it must be finite")
            if number <= rules["above"]:
                raise UserError(f"{field.name} is {number}; it must be above {rules['above']}")
            if number < rules["least"]:
                raise UserError(f"{field.name} is {number}; it must be at least {rules['least']}")
            if number > rules["most"]:
                raise UserError(f"{field.name} is {number}; it must be at most {rules['most']}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError for a missing file, broken YAML or anything but a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config file {str(path)!r}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" at line {line + 1}" if line is not None else ""
        raise UserError(f"the config file {str(path)!r} is not valid YAML{where}") from None
    if not isinstance(content, dict):
        raise UserError(f"the config file {str(path)!r} holds no mapping of option names to values")
    return content


@cache
def _packaged(algo_name: str) -> dict[str, Any]:
    return read_yaml(Path(str(resources.files("offlinerlkit_damo") / "configs" / f"{algo_name}.yaml")))


def presets(algo_name: str) -> dict[str, Any]:
    """The presets of an algorithm by name: {"options": {...}, "tasks": {task: {...}}} each."""
    return dict(_packaged(algo_name)["presets"])


def resolve(flags: Mapping[str, Any], *, config_file: Path | None = None, defaults: Mapping[str, Any] | None = None) -> Config:
    """The run's Config from flags given by the user, layered over file, task's values, preset and defaults.

    `defaults` are the caller's own (a script's algorithm): weaker than the file, stronger than the fields' defaults.
    """
    file_values = read_yaml(config_file) if config_file else {}
    given = {**(defaults or {}), **file_values, **flags}
    algo_name = str(given.get("algo_name", Config.algo_name))
    choices = options()["algo_name"].metadata["choices"]
    if algo_name not in choices:
        raise unknown("algo_name", algo_name, choices)
    packaged = _packaged(algo_name)
    name = coerce("preset", given.get("preset")) or packaged["default"]
    if name not in packaged["presets"]:
        raise unknown("preset", name, packaged["presets"])
    preset = packaged["presets"][name]
    task = str(given.get("task", Config.task)).removesuffix("-v2")
    return Config.from_flat({**preset["options"], **preset["tasks"].get(task, {}), **given, "algo_name": algo_name, "preset": name})
