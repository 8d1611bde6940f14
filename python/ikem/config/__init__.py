"""The configuration of a run: nested dataclasses, filled from YAML files and the command line.

The defaults are the published settings for NTU RGB+D (Wei et al., arXiv 2309.12009, implementation details).
Every dataclass checks itself when it is made, so that a wrong value is refused before any work starts.
"""

from ikem.config.contrast import OptimizationConfig
from ikem.config.data import DataConfig
from ikem.config.distill import DistillConfig
from ikem.config.encoder import EncoderConfig
from ikem.config.evaluate import EvaluateConfig
from ikem.config.files import ConfigFile, find_config, named_configs, read_config
from ikem.config.finetune import FinetuneConfig
from ikem.config.learning import LEARNING, LearningConfig
from ikem.config.modalities import THREE_STREAMS, Modality
from ikem.config.pretrain import PretrainConfig
from ikem.config.probe import PROBES, ProbeConfig
from ikem.config.run import Config
from ikem.config.schedule import ScheduleConfig
from ikem.config.stored import SECTIONS, config_folder, differences, flatten, plain, store_config
from ikem.config.trainer import DDPConfig, TrainerConfig
from ikem.config.views import ViewsConfig

__all__ = [
    "LEARNING",
    "PROBES",
    "SECTIONS",
    "THREE_STREAMS",
    "Config",
    "ConfigFile",
    "DDPConfig",
    "DataConfig",
    "DistillConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "LearningConfig",
    "Modality",
    "OptimizationConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ScheduleConfig",
    "TrainerConfig",
    "ViewsConfig",
    "config_folder",
    "differences",
    "find_config",
    "flatten",
    "named_configs",
    "plain",
    "read_config",
    "store_config",
]
