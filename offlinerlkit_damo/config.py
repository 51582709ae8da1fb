"""One frozen, typed configuration; per-task values and presets are data in configs/*.yaml.

Every field's `help` is the one line that `--help` prints. Values are layered: field defaults < preset < the task's values < `--config`
file < flags.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from offlinerlkit_damo import options as parsing
from offlinerlkit_damo.dice.config import AlgaeDICEConfig, ODICEConfig, OptiDICEConfig
from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.options import option, validate

ALGORITHMS = ("damo", "mopo", "mobile", "combo", "rambo", "algaedice", "optidice", "odice")
MODEL_FREE = ("algaedice", "optidice", "odice")
MODEL_BASED = tuple(name for name in ALGORITHMS if name not in MODEL_FREE)
DIVERGENCES = ("cubic", "chi2", "half_chi2", "soft_chi2", "kl", "cubic_kl", "power", "square")
MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that the generators do not take."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed {seed} is out of range; choose 0 to {MAX_SEED}")


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
    data_alignment: bool = option(True, "subtract alpha ell from the reward: true, false (the paper's 'w/o er') or a number, alpha")
    behavior_alignment: bool = option(
        True, "critic and actor on the maximin objective; false = the policy's own, for damo 'w/o ir': squared TD, SAC actor"
    )
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
        validate(self)
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
class MOBILEConfig:
    """MOBILE's own options, as in the kit's script (Sun et al. 2023)."""

    num_q_ensemble: int = option(2, "MOBILE: critics", least=1)
    num_samples: int = option(10, "MOBILE: next states sampled from each elite for the Model-Bellman inconsistency", least=1)
    mobile_target_floor: float | None = option(None, "MOBILE: lower bound of its targets; the kit's own is 0, none = no bound")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class COMBOConfig:
    """COMBO's own options, as in the kit's script (Yu et al. 2021)."""

    cql_weight: float = option(5.0, "COMBO: weight of the conservative term", least=0)
    temperature: float = option(1.0, "COMBO: temperature of its log-sum-exp", above=0)
    with_lagrange: bool = option(False, "COMBO: tune the weight so that the conservative term meets --lagrange-threshold")
    lagrange_threshold: float = option(10.0, "COMBO: value of the conservative term that --with-lagrange aims at")
    cql_alpha_lr: float = option(3e-4, "COMBO: learning rate of the tuned weight", above=0)
    num_repeat_actions: int = option(10, "COMBO: actions sampled for each state of the conservative term", least=1)
    uniform_rollout: bool = option(False, "COMBO: roll out uniformly random actions instead of the policy's")
    rho_s: str = option("mix", "COMBO: states of the conservative term, the model's or the whole batch's", choices=("mix", "model"))

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class RAMBOConfig:
    """RAMBO's own options, as in the kit's script (Rigter et al. 2022)."""

    dynamics_adv_lr: float = option(3e-4, "RAMBO: learning rate of the adversarial updates of the model", above=0)
    adv_weight: float = option(3e-4, "RAMBO: weight of the adversarial loss beside the model's likelihood", least=0)
    adv_batch_size: int = option(256, "RAMBO: rows of an adversarial update and of its rollouts", least=2)
    adv_rollout_length: int = option(5, "RAMBO: model steps of the adversarial rollouts", least=1)
    dynamics_update_freq: int = option(1000, "RAMBO: gradient steps between rounds of adversarial updates", least=1)
    adv_train_steps: int = option(1000, "RAMBO: adversarial updates in a round", least=1)
    include_ent_in_adv: bool = option(False, "RAMBO: count the entropy in the adversary's value")
    bc_lr: float = option(1e-4, "RAMBO: learning rate of the behaviour cloning before training", above=0)
    bc_epoch: int = option(50, "RAMBO: epochs of the behaviour cloning, 0 for none", least=0)
    bc_batch_size: int = option(256, "RAMBO: rows of a behaviour-cloning step", least=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: the kit's own flags, this package's additions and, nested, the method's options."""

    algo_name: str = option("damo", "algorithm", choices=ALGORITHMS)
    task: str = option("hopper-medium-expert", "task; see `data list`: hopper-medium is generated here, hopper-medium-v2 D4RL's")
    data: str | None = option(None, "learn from this instead of the task's dataset: an .hdf5 or .npz file, or minari:<id>")
    env: str | None = option(None, "judge --data in this simulator of Gymnasium's instead of the task's, such as Hopper-v5")
    no_eval: bool = option(False, "train without a simulator, and so without scores")
    env_backend: str = option("gymnasium", "simulators: Gymnasium's, or D4RL's own where gym and d4rl work", choices=("gymnasium", "d4rl"))
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
    dynamics_lr: float = option(6e-3, "learning rate of the dynamics model; the kit's is 1e-3", above=0, algos=MODEL_BASED)
    dynamics_lr_schedule: str = option(
        "cosine", "that rate over --dynamics-max-epochs: cosine = warm up, then fall to 0; constant = the kit's",
        choices=("cosine", "constant"), algos=MODEL_BASED,
    )
    dynamics_hidden_dims: tuple[int, ...] = option(
        (200, 200, 200, 200), "hidden layer widths of the dynamics model", least=1, algos=MODEL_BASED
    )
    dynamics_weight_decay: tuple[float, ...] = option(
        (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), "weight decay of each dynamics layer, the output layer last", least=0, algos=MODEL_BASED
    )
    n_ensemble: int = option(7, "dynamics models trained", least=1, algos=MODEL_BASED)
    n_elites: int = option(5, "dynamics models used, the best on held-out data", least=1, algos=MODEL_BASED)
    dynamics_max_epochs: int | None = option(
        20, "most epochs of dynamics training; none = until it stops improving, the kit's", least=1, algos=MODEL_BASED
    )
    dynamics_patience: int = option(5, "epochs without improvement before dynamics training stops", least=1, algos=MODEL_BASED)
    dynamics_seed: int | None = option(
        None, "seed of the dynamics model; none = --seed. Runs with equal ones share a model", least=0, most=MAX_SEED, algos=MODEL_BASED
    )
    load_dynamics_path: str | None = option(None, "folder with a trained dynamics model (dynamics.pth, mu.npy, std.npy)", algos=MODEL_BASED)
    rollout_freq: int = option(1000, "gradient steps between model rollouts", least=1, algos=MODEL_BASED)
    rollout_batch_size: int = option(50_000, "states a rollout starts from", least=1, algos=MODEL_BASED)
    rollout_length: int = option(5, "model steps of a rollout", least=1, algos=MODEL_BASED)
    discounted_starts: float = option(
        0.0, "share of rollouts that start by gamma^t of a state's step t in its episode, not uniformly", least=0, most=1, algos=MODEL_BASED
    )
    penalty_coef: float = option(2.5, "uncertainty penalty of MOPO and MOBILE", least=0, algos=("mopo", "mobile"))
    deterministic_backup: bool = option(True, "no entropy in the targets of MOBILE and COMBO", algos=("mobile", "combo"))
    max_q_backup: bool = option(False, "best of ten sampled actions in the targets of MOBILE and COMBO", algos=("mobile", "combo"))
    model_retain_epochs: int = option(5, "rollouts kept in the synthetic buffer", least=1, algos=MODEL_BASED)
    real_ratio: float = option(0.05, "share of real data in a batch, in (0, 1)", above=0, algos=MODEL_BASED)
    epoch: int = option(3000, "epochs of policy training", least=1)
    step_per_epoch: int = option(1000, "gradient steps in an epoch", least=1)
    actor_average: int = option(0, "steps over which the evaluated and saved actor's weights are averaged; 0 = the last iterate", least=0)
    eval_episodes: int = option(10, "episodes of an evaluation", least=1)
    eval_every: int = option(1, "epochs between evaluations", least=1)
    batch_size: int = option(256, "transitions in a batch, real and synthetic", least=2)
    engine: str = option(
        "fast", "fast = flat storage and batched twins, reference = the host's modules, equal to rounding; graph = a fleet of one run "
        "(docs/fleet.md), whose step a GPU replays as one CUDA graph", choices=("fast", "reference", "graph"),
    )
    device: str = option("cpu", "torch device: cpu, cuda or cuda:N")
    tf32: bool = option(False, "with --device cuda, NVIDIA's TF32 in matrix products: faster, ten bits instead of 23")
    threads: int = option(1, "torch threads on the CPU", least=1)
    on_warning: str = option("log", "what a warning does (docs/reliability.md): log it, or stop the run", choices=("log", "stop"))
    logdir: str = option("log", "folder the run folders are made in")
    checkpoint_every: int = option(10, "epochs between checkpoints that --resume continues from, 0 = only when the run is stopped", least=0)
    keep_every: int = option(0, "epochs between checkpoints that are kept, 0 = none but the last", least=0)
    max_minutes: float | None = option(None, "stop with a checkpoint after so many minutes, --resume goes on; none = to the end", above=0)
    damo: DAMOConfig = dataclasses.field(default_factory=DAMOConfig)
    mobile: MOBILEConfig = dataclasses.field(default_factory=MOBILEConfig)
    combo: COMBOConfig = dataclasses.field(default_factory=COMBOConfig)
    rambo: RAMBOConfig = dataclasses.field(default_factory=RAMBOConfig)
    algaedice: AlgaeDICEConfig = dataclasses.field(default_factory=AlgaeDICEConfig)
    optidice: OptiDICEConfig = dataclasses.field(default_factory=OptiDICEConfig)
    odice: ODICEConfig = dataclasses.field(default_factory=ODICEConfig)

    def __post_init__(self) -> None:
        validate(self)
        for name in ("gamma", "real_ratio"):
            if getattr(self, name) >= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be below 1")
        for name in ("hidden_dims", "dynamics_hidden_dims"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; it needs at least one width")
        if self.tf32 and self.device == "cpu":
            raise UserError("tf32 has no effect on the CPU; use --device cuda, or --tf32 false")
        if self.tau > 1:
            raise UserError(f"tau is {self.tau}; it must not exceed 1")
        if self.dynamics_lr_schedule == "cosine" and self.dynamics_max_epochs is None:
            raise UserError(
                "dynamics_max_epochs is none and dynamics_lr_schedule cosine, which falls to 0 over a number of epochs; give a number, or "
                "--dynamics-lr-schedule constant with a smaller --dynamics-lr (the kit's is 1e-3)"
            )
        if self.env is not None and self.data is None:
            raise UserError("env is the simulator of a dataset of your own; give that with --data, or choose a --task instead")
        if self.env is not None and self.no_eval:
            raise UserError("env and no_eval exclude each other; leave one out")
        if self.env_backend == "d4rl" and (self.env is not None or self.no_eval):
            raise UserError("env_backend d4rl is for D4RL's own tasks; it has no effect with --env or --no-eval")
        if self.n_elites > self.n_ensemble:
            raise UserError(f"n_elites is {self.n_elites}, more than the {self.n_ensemble} models of n_ensemble")
        if len(self.dynamics_weight_decay) != len(self.dynamics_hidden_dims) + 1:
            raise UserError(
                f"dynamics_weight_decay has {len(self.dynamics_weight_decay)} values; it needs one per hidden layer and one for the "
                f"output, {len(self.dynamics_hidden_dims) + 1}"
            )
        if self.algo_name == "combo" and self.damo.behavior_alignment:
            raise UserError(
                "behavior_alignment replaces the critics' loss, and combo's conservative term is part of that loss; "
                "use --data-alignment alone"
            )
        if self.algo_name == "mobile" and self.n_elites < 2:
            raise UserError("mobile's penalty is the spread of the elites; it needs n_elites of at least 2")
        if self.algo_name == "optidice" and self.optidice.optidice_warmup_steps >= self.epoch * self.step_per_epoch:
            raise UserError(
                f"optidice_warmup_steps is {self.optidice.optidice_warmup_steps} and the run has "
                f"{self.epoch * self.step_per_epoch} steps: the actor would never learn; lower optidice_warmup_steps or train for longer"
            )
        if self.algo_name in MODEL_BASED and int(self.batch_size * self.real_ratio) < 1:
            raise UserError(f"batch_size {self.batch_size} times real_ratio {self.real_ratio} leaves no real sample; raise one of them")

    @property
    def model_seed(self) -> int:
        """The seed of the dynamics model."""
        return self.seed if self.dynamics_seed is None else self.dynamics_seed

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Config:
        """Build from one flat mapping of all sections' fields. Unknown keys and wrong types raise UserError."""
        flat: dict[str, Any] = {}
        for name, value in values.items():
            if name not in option_types():
                raise unknown("option", name, option_types())
            flat[name] = coerce(name, value)
        sections = {}
        for section, kind in SECTIONS.items():
            sections[section] = kind(**{f.name: flat.pop(f.name) for f in dataclasses.fields(kind) if f.name in flat})
        return cls(**flat, **sections)

    def flat(self) -> dict[str, Any]:
        """The inverse of `from_flat`, in field order."""
        values = dataclasses.asdict(self)
        sections = [values.pop(section) for section in SECTIONS]
        for section in sections:
            values |= section
        return values


SECTIONS: dict[str, Any] = {
    "damo": DAMOConfig,
    "mobile": MOBILEConfig,
    "combo": COMBOConfig,
    "rambo": RAMBOConfig,
    "algaedice": AlgaeDICEConfig,
    "optidice": OptiDICEConfig,
    "odice": ODICEConfig,
}
"""The nested parts of a Config. DAMO's is read by every model-based algorithm (its terms can be added), the others by their own."""


def names_of(section: str) -> tuple[str, ...]:
    """The options of a section."""
    return tuple(SECTIONS[section].__dataclass_fields__)


def options() -> dict[str, dataclasses.Field[Any]]:
    """Every option's dataclass field by name, the run's first and then the sections'."""
    fields = [f for f in dataclasses.fields(Config) if f.name not in SECTIONS]
    return {f.name: f for f in (*fields, *(f for kind in SECTIONS.values() for f in dataclasses.fields(kind)))}


def with_younger(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a run's record, as JSON has them, and those that are younger than it: they had their defaults then."""
    defaults: dict[str, Any] = json.loads(json.dumps({name: field.default for name, field in options().items()}))
    return {**defaults, **record}


def options_read(record: Mapping[str, Any]) -> dict[str, Any]:
    """`with_younger` without the options that the run's algorithm does not read, whose values say nothing of it."""
    found = with_younger(record)
    return {name: value for name, value in found.items() if name not in options() or found["algo_name"] in readers(name)}


@cache
def option_types() -> dict[str, Any]:
    """Every option's annotated type by name."""
    hints: dict[str, Any] = {}
    for kind in (Config, *SECTIONS.values()):
        hints |= typing.get_type_hints(kind)
    return {name: hints[name] for name in options()}


def readers(name: str) -> tuple[str, ...]:
    """The algorithms that read option `name`."""
    for section in SECTIONS:
        if name in names_of(section):
            return MODEL_BASED if section == "damo" else (section,)
    algos: tuple[str, ...] = options()[name].metadata["algos"]
    return algos or ALGORITHMS


def coerce(name: str, value: Any) -> Any:
    """`value` as option `name`'s type; UserError where it is none."""
    return parsing.coerce(name, option_types()[name], value)


class _Twice(Exception):
    pass


class _Unique(yaml.SafeLoader):
    """Refuses a name that a mapping has twice, of which YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # before anything is merged into it
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"):
            if (key.tag, key.value) in seen:
                raise _Twice(f"{key.value} twice, the second time at line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))
        return node


def read_yaml(path: Path, *, kind: str = "config file") -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError, naming the `kind` of file, for a missing one, broken YAML or anything but a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Unique)
    except OSError as error:
        raise UserError(f"cannot read the {kind} {str(path)!r}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" at line {line + 1}" if line is not None else ""
        raise UserError(f"the {kind} {str(path)!r} is not valid YAML{where}") from None
    except _Twice as error:
        raise UserError(f"the {kind} {str(path)!r} has {error}; which of the two is meant?") from None
    if not isinstance(content, dict):
        raise UserError(f"the {kind} {str(path)!r} holds no mapping of names to values")
    return content


@cache
def packaged(name: str) -> dict[str, Any]:
    """The content of configs/<name>.yaml; not to be changed."""
    return read_yaml(Path(str(resources.files("offlinerlkit_damo") / "configs" / f"{name}.yaml")))


def presets(algo_name: str) -> dict[str, Any]:
    """The presets of an algorithm by name: {"options": {...}, "tasks": {task: {...}}} each."""
    return dict(packaged(algo_name)["presets"])


def resolve(flags: Mapping[str, Any], *, config_file: Path | None = None, defaults: Mapping[str, Any] | None = None) -> Config:
    """The run's Config from flags given by the user, layered over file, task's values, preset and defaults.

    `defaults` are the caller's own (a script's algorithm): weaker than the file, stronger than the fields' defaults.
    """
    file_values = read_yaml(config_file) if config_file else {}
    given: dict[str, Any] = {}
    for layer in (defaults or {}, file_values, flags):
        given |= alignment_by_number(layer)
    algo_name = str(given.get("algo_name", Config.algo_name))
    if algo_name not in ALGORITHMS:
        raise unknown("algo_name", algo_name, ALGORITHMS)
    ours = packaged(algo_name)
    name = coerce("preset", given.get("preset")) or ours["default"]
    if name not in ours["presets"]:
        raise unknown("preset", name, ours["presets"])
    preset = ours["presets"][name]
    given.setdefault("task", _task_of_own_data(given) or Config.task)
    # its package imports this module
    from offlinerlkit_damo.tasks.task import preset_name

    of_task = preset["tasks"].get(preset_name(str(given["task"]), coerce("env", given.get("env"))), {})
    layers = {**preset["options"], **of_task, **given, "algo_name": algo_name, "preset": name}
    refuse_idle(flags, algo_name)
    config = Config.from_flat(layers)
    refuse_idle(flags, algo_name, config)
    return config


def refuse_idle(flags: Mapping[str, Any], algo_name: str, config: Config | None = None) -> None:
    """Raise UserError for a flag that `why_idle` says changes nothing."""
    for name in flags:
        reason = why_idle(name, algo_name, config) if name in options() else None
        if reason is not None:
            raise UserError(f"--{name.replace('_', '-')} has no effect {reason}")


def _task_of_own_data(given: Mapping[str, Any]) -> str | None:
    """What a run on the user's own data is called, if it is one."""
    if given.get("env") is not None:
        return str(given["env"])
    if given.get("data") is not None and coerce("no_eval", given.get("no_eval", False)):
        return Path(str(given["data"])).stem
    return None


OF_ALIGNMENT = {"damo_alpha", "ratio_mode", "ratio_centering", "logit_clip", "absorbing"}
"""The options of data alignment alone, beside the classifier's; the other options of the method are the maximin objective's."""


REPLACED = {"deterministic_backup": "entropy-backup", "max_q_backup": "q-next", "mobile_target_floor": "target-floor"}
"""Options of MOBILE's own targets, and what takes their place in the maximin objective."""


def why_idle(name: str, algo_name: str, config: Config | None = None) -> str | None:
    """Why option `name` changes nothing of a run of this algorithm, and of this `config` where it is given; None if it does."""
    if algo_name not in readers(name):
        return f"with --algo {algo_name}; it is an option of {', '.join(readers(name))}"
    if config is None or algo_name in (*MODEL_FREE, "damo"):  # DAMO's own switches are ablations: what is left still reads some of the rest
        return None
    method = config.damo
    if method.behavior_alignment and name in REPLACED:
        return f"with --behavior-alignment, which has --{REPLACED[name]} for it"
    if name not in names_of("damo") or name in ("data_alignment", "behavior_alignment"):
        return None
    of_alignment = name in OF_ALIGNMENT or name.startswith("classifier_")
    needed = "data_alignment" if of_alignment else "behavior_alignment"
    # alpha is the one option that both terms read
    there = getattr(method, needed) or (name == "damo_alpha" and method.behavior_alignment)
    return None if there else f"without --{needed.replace('_', '-')}"


def alignment_by_number(given: Mapping[str, Any]) -> dict[str, Any]:
    """`data_alignment: 0.5` switches the term on with alpha = 0.5; 0 switches it off."""
    values = dict(given)
    value = values.get("data_alignment")
    alpha = values.get("damo_alpha")
    try:
        number = None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return values
    if number is not None:
        values["data_alignment"] = number != 0
        if number != 0:
            if alpha is not None and coerce("damo_alpha", alpha) != number:
                raise UserError(f"data_alignment is {value} and damo_alpha {alpha}; both set alpha, leave one out")
            values["damo_alpha"] = number
    return values
