"""Whether a configuration can run, before anything is built."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lsp_fast.config.observation import ObservationConfig
from lsp_fast.config.seeds import check_seed
from lsp_fast.config.transfer import PRETRAINED
from lsp_fast.config.values import Config
from lsp_fast.errors import ConfigError


def check(config: Config) -> None:
    """Raise ConfigError, with every problem on a line of its own, unless the configuration can run."""
    problems: list[str] = []

    def need(ok: bool, text: str) -> None:
        if not ok:
            problems.append(text)

    def walk(node: Any, prefix: str = "") -> None:
        hints = get_type_hints(type(node))
        for f in dataclasses.fields(node):
            value, name, hint = getattr(node, f.name), prefix + f.name, hints[f.name]
            if get_origin(hint) is Literal:
                need(value in get_args(hint), f"{name} = {value!r}: must be one of {', '.join(get_args(hint))}")
            elif get_origin(hint) is tuple:
                named = type(value) is tuple and all(type(text) is str and text for text in value)
                need(named, f"{name} = {value!r}: must be a list of names, as {list(getattr(Config(), name))}")
            elif not (type(value) is hint or (hint is float and type(value) is int)):
                problems.append(f"{name} = {value!r}: must be of type {hint.__name__}")
            elif dataclasses.is_dataclass(value):
                walk(value, name + ".")
            elif isinstance(value, float) and not math.isfinite(value):
                problems.append(f"{name} = {value}: must be finite")
            elif name == "seed":
                try:
                    check_seed(value)
                except ConfigError as error:
                    problems.append(str(error))
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                low = 0 if name in _MAY_BE_ZERO else (1 if isinstance(value, int) else None)
                if low is not None:
                    need(value >= low, f"{name} = {value}: must be at least {low}")
                else:
                    need(value > 0, f"{name} = {value}: must be positive")

    walk(config)
    if problems:  # what follows compares values
        raise ConfigError("\n".join(problems))
    for name in sorted({name for name in config.log if config.log.count(name) > 1}):
        need(False, f"log = {list(config.log)}: {name} is there twice; name it once")
    p, b = config.planner, config.behavior
    need(p.elites <= p.candidates, f"planner.elites = {p.elites}: must not exceed planner.candidates = {p.candidates}")
    need(b.gamma <= 1, f"behavior.gamma = {b.gamma}: must not exceed 1")
    need(b.lam <= 1, f"behavior.lam = {b.lam}: must not exceed 1")
    need(b.horizon >= 2, f"behavior.horizon = {b.horizon}: a lambda-return needs at least 2 imagined steps")
    m = config.model
    need(
        m.decoder_min_std < m.decoder_max_std,
        f"model.decoder_min_std = {m.decoder_min_std}: must be below model.decoder_max_std = {m.decoder_max_std}",
    )
    need(
        m.normaliser == "prefill" or m.normalize_observations,
        f"model.normaliser = {m.normaliser!r}: nothing is standardised; set model.normalize_observations to True",
    )
    need(
        not (m.norm and (config.obs == "pixels" or config.hiro.goals != "none")),
        "model.norm = True: it is of the encoder and decoder of features; with pixels or HIRO set it to False",
    )
    o, own = config.observation, config.task.startswith("gym:")
    need(
        own or o == ObservationConfig(),
        f"observation: only gym: tasks are asked what of theirs is seen, {config.task} is not; leave its values out",
    )
    need(
        not own or o.vectors == "auto" or config.obs != "pixels",
        f"observation.vectors = {o.vectors!r}: pixels see no numbers; set obs to both, or leave it out",
    )
    need(
        not own or (o.frame == "auto" and not o.resize) or config.obs != "features",
        f"observation.frame = {o.frame!r}, observation.resize = {o.resize}: features see no frame; set obs to pixels "
        "or both, or leave them out",
    )
    need(
        all(name.strip() for name in (*o.vectors.split(","), o.frame)),
        f"observation.vectors = {o.vectors!r}, observation.frame = {o.frame!r}: a name is empty; name entries, or auto",
    )
    need(m.kl_balance <= 1, f"model.kl_balance = {m.kl_balance}: a share, which must not exceed 1")
    need(
        not (config.skill.intrinsic and config.skill.source == "none"),
        "skill.intrinsic = True needs skills: set skill.source to planned or random",
    )
    need(
        p.over == "skills" or (config.skill.source == "none" and p.objective == "sum"),
        "planner.over = 'actions' plans without skills and scores by rewards: set skill.source to none and "
        "planner.objective to sum",
    )
    need(
        not p.warm_start or p.over == "actions" or config.skill.source == "planned",
        "planner.warm_start = True: there are no plans; set skill.source to planned or planner.over to actions",
    )
    planned = p.over == "skills" and config.skill.source == "planned"
    need(
        p.replan == 0 or (planned and p.replan <= config.skill.length),
        f"planner.replan = {p.replan}: must not exceed skill.length = {config.skill.length}, and needs planned skills; "
        "shorten it, or set it to 0",
    )
    need(p.std_min <= 1, f"planner.std_min = {p.std_min}: must not exceed 1, which plans begin with")
    collect = config.collect
    need(
        collect.workers <= collect.num_envs,
        f"collect.workers = {collect.workers}: must not exceed collect.num_envs = {collect.num_envs}, the environments "
        "that they share; lower it, or raise that",
    )
    need(
        collect.commit == 0 or (planned and collect.commit <= 1),
        f"collect.commit = {collect.commit}: must be a share, 0 to 1, and needs planned skills; set it to 0, or "
        "skill.source to planned",
    )
    need(
        not (config.transfer.relabel and config.transfer.source.startswith(PRETRAINED)),
        f"transfer.relabel = True: {config.transfer.source} comes without experience; transfer without it",
    )
    need(
        bool(config.transfer.source) or not (config.transfer.freeze_policy or config.transfer.relabel),
        "transfer.freeze_policy and transfer.relabel need a run to take over: use lsp-fast transfer",
    )
    need(not config.offline or bool(config.data), "offline = True: there is nothing to learn from; name it by --data")
    need(
        not (config.data and config.transfer.source),
        f"data = {config.data!r}: a run that takes another one over begins with that one's policy; leave one out",
    )
    need(
        not config.data or (config.obs != "both" and o.vectors == "auto"),
        f"data = {config.data!r}: recordings are read as features in the task's own order, or as pixels; set obs to "
        "one of them, and observation.vectors to auto",
    )
    hiro = config.hiro.goals != "none"
    need(
        not hiro or (config.skill.source == "none" and p.over == "skills"),
        f"hiro.goals = {config.hiro.goals!r}: HIRO has no plans; set skill.source to none and planner.over to skills",
    )
    need(not (hiro and config.obs != "features"), f"obs = {config.obs!r}: HIRO learns from features only")
    need(
        not (hiro and config.train.compile),
        "train.compile = True: HIRO has no world model whose losses could be compiled; start with --train.no-compile",
    )
    t = config.train
    need(
        not t.video_every or t.eval_every > 0,
        f"train.video_every = {t.video_every}: evaluations are filmed, and train.eval_every = 0 makes none; set one of "
        "the two otherwise",
    )
    need(
        t.precision == "fp32" or not (hiro or t.compile or t.autocast or t.observe != "auto"),
        f"train.precision = {t.precision!r}: it is for the losses that C++ computes; HIRO, train.compile, "
        "train.autocast and train.observe leave them to PyTorch: set it to fp32",
    )
    need(
        not (hiro and config.train.observe == "scan"),
        f"train.observe = {config.train.observe!r}: HIRO has no world model that observes; set it to auto",
    )
    need(
        not hiro or m.normaliser == "prefill",
        f"model.normaliser = {m.normaliser!r}: HIRO has no world model that standardises; leave it at prefill",
    )
    need(
        config.processes == 1 or ":" not in config.device,
        f"device = {config.device!r}: each of {config.processes} processes takes a GPU of its own; set it to cuda",
    )
    need(
        config.processes == 1 or not config.transfer.relabel,
        f"processes = {config.processes}: experience that is relabelled is not dealt out; set processes to 1",
    )
    for name, value in (
        ("collect.num_envs", collect.num_envs),
        ("collect.workers", collect.workers),
        ("train.batch_size", t.batch_size),
        ("behavior.plan_states", b.plan_states),
        ("behavior.starts", b.starts),
    ):
        count = config.processes
        need(
            value % count == 0,
            f"{name} = {value}: {count} processes cannot share it equally; set it to {-(-value // count) * count}",
        )
    need(config.hiro.candidates >= 2, f"hiro.candidates = {config.hiro.candidates}: must be at least 2")
    need(
        not (hiro and (config.transfer.freeze_policy or config.transfer.relabel)),
        "transfer.freeze_policy and transfer.relabel are not for HIRO: both its levels learn, and from experience of "
        "their own",
    )
    need(
        not (config.value.skill and config.skill.source == "none"),
        "value.skill = True needs skills: set skill.source to planned or random",
    )
    v, s = config.value, config.skill
    need(v.slow <= 1, f"value.slow = {v.slow}: a share of the way, which must not exceed 1")
    need(
        not v.clip_targets or b.gamma < 1,
        f"value.clip_targets = True: without discounting (behavior.gamma = {b.gamma}) values have no bound; set it to "
        "False",
    )
    need(
        not v.replay or not s.intrinsic or (p.value == "task" and s.source == "planned"),
        f"value.replay = {v.replay}: the replay knows R alone, and the value learns from r^i, too; set planner.value "
        "to task (with planned skills), or skill.intrinsic to False",
    )
    need(
        not (v.replay and v.skill),
        f"value.replay = {v.replay}: the replay does not tell skills, which the value sees; set value.skill to False",
    )
    need(
        config.skill.compose_skills >= 2,
        f"skill.compose_skills = {config.skill.compose_skills}: must be at least 2, the own skill and one to compare",
    )
    need(
        not (config.skill.intrinsic and config.skill.mi == "predict" and config.skill.length > b.horizon),
        f"skill.length = {config.skill.length}: no segment fits into behavior.horizon = {b.horizon}, so that the "
        "intrinsic reward would never be paid; shorten it, set skill.mi to compose or skill.intrinsic to False",
    )
    need(
        b.starts == 0 or b.starts >= b.plan_states,
        f"behavior.starts = {b.starts}: there must be at least behavior.plan_states = {b.plan_states}, those that are "
        "planned for; or 0, which draws no others",
    )
    need(s.random_share <= 1, f"skill.random_share = {s.random_share}: a share must not exceed 1")
    need(
        config.hiro.goals == "none" or s.beta_kind == "fixed",
        f"skill.beta_kind = {s.beta_kind!r}: HIRO's policy has no gradient of r^i to go by; set it to fixed",
    )
    need(
        config.hiro.goals == "none" or not config.predictor.normalise,
        "predictor.normalise = True: HIRO's predictor imagines no states to take statistics of; leave it off",
    )
    if problems:
        raise ConfigError("\n".join(problems))


_MAY_BE_ZERO = {
    "threads", "collect.exploration_noise", "collect.exploration_noise_final", "collect.exploration_steps",
    "collect.commit", "planner.std_min", "planner.replan", "train.pretrain", "model.free_nats", "actor.entropy",
    "behavior.plan_states", "behavior.lam", "behavior.gamma", "skill.beta", "skill.noise", "planner.std_floor",
    "predictor.noise", "actor.min_std", "model.min_std", "max_minutes",
    "transfer.source_env_steps",
    "model.kl_balance", "value.slow", "value.replay",
    "actor.saturation", "behavior.starts", "skill.random_share", "collect.workers",
    "train.eval_every", "train.video_every",
}  # fmt: skip
