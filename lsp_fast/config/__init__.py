"""Every choice of a run: `values` holds them, `rows` presets and algorithms, `check` what can run; `make` builds."""

from lsp_fast.config.check import check
from lsp_fast.config.make import base_config, differences, flat, from_dict, make_config, replace
from lsp_fast.config.names import method_name
from lsp_fast.config.rows import ALGORITHMS, PRESETS
from lsp_fast.config.seeds import check_seed
from lsp_fast.config.values import (
    ActorConfig,
    BehaviorConfig,
    CollectConfig,
    Config,
    HiroConfig,
    ModelConfig,
    ObservationConfig,
    OptimizerConfig,
    PlannerConfig,
    PredictorConfig,
    SkillConfig,
    TrainConfig,
    TransferConfig,
    ValueConfig,
    to_dict,
)

__all__ = [
    "ALGORITHMS",
    "PRESETS",
    "ActorConfig",
    "BehaviorConfig",
    "CollectConfig",
    "Config",
    "HiroConfig",
    "ModelConfig",
    "ObservationConfig",
    "OptimizerConfig",
    "PlannerConfig",
    "PredictorConfig",
    "SkillConfig",
    "TrainConfig",
    "TransferConfig",
    "ValueConfig",
    "base_config",
    "check",
    "check_seed",
    "differences",
    "flat",
    "from_dict",
    "make_config",
    "method_name",
    "replace",
    "to_dict",
]
