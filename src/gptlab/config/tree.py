"""The config tree: conf/ over the dataclasses, composed by Hydra, and typed objects out of it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab.commands.configs import VERB_CONFIGS
from gptlab.config.overrides import quote_values
from gptlab.data.text.sources import Bundled, Download, Files, Hub, Mixture, TokenFiles
from gptlab.decoding.decoders import Beam, Greedy, MinP, Sample, TopK, TopP, Typical
from gptlab.errors import UserError, require
from gptlab.model.config import GPTConfig
from gptlab.optim.optimizers import SGD, Adafactor, Adam, AdamW, Lion, Muon
from gptlab.optim.schedules import WSD, Constant, Cosine, InverseSqrt, Linear
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char
from gptlab.tokenizers.hf import JSONFile
from gptlab.tokenizers.openai import OpenAI
from gptlab.tokenizers.saved import Saved
from gptlab.training.loggers import Loggers, Monitor
from gptlab.training.trainer import TrainerConfig

# the options of a group may be of several classes; the annotation of such a field is Any
COMPONENTS = [
    *(GPTConfig, Bundled, Files, Download, Hub, Mixture, TokenFiles),
    *(BPE, OpenAI, Char, Byte, JSONFile, Saved),
    *(AdamW, Adam, SGD, Lion, Adafactor, Muon, Constant, Cosine, Linear, WSD, InverseSqrt),
    *(Greedy, Sample, TopK, TopP, MinP, Typical, Beam, TrainerConfig, Loggers, Monitor),
]


def _slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "_", text)[:150]


# here, not in register(): a job on another machine begins by importing this module
OmegaConf.register_new_resolver("slug", _slug, replace=True)
OmegaConf.register_new_resolver("per_width", lambda rate, n_embd: float(rate) * (768 / n_embd) ** 0.5, replace=True)


def register() -> None:
    """Tell Hydra every dataclass, as /schema/<name>: the YAML options start from them."""
    store = ConfigStore.instance()
    for node in [*COMPONENTS, *VERB_CONFIGS.values()]:
        store.store(group="schema", name=node.__name__, node=node)


def conf_dir() -> Path:
    """The config tree: inside the package in a wheel, at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parents[1] / "conf") if p.is_dir())


def compose(
    verb: str, overrides: list[str] | None = None, config_dir: Path | None = None, config_name: str | None = None
) -> Any:
    """The typed config of a verb, as its command would get it: `compose("train", ["model=micro"])`.

    `config_dir` and `config_name` compose a run's own config.yaml instead, as Hydra's options of these names do.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir or conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{conf_dir()}]"
        cfg = hydra_compose(config_name or verb, [*quote_values(overrides or []), search], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        run_dir = str(Path(cfg.hydra.run.dir).absolute())
        with open_dict(cfg):
            del cfg["hydra"]
        return to_typed(cfg, run_dir)
    finally:
        HydraConfig.instance().cfg = None


def to_typed(cfg: DictConfig, run_dir: str) -> Any:
    """Plain objects all the way down; a component's complaint is named by its full key."""
    if OmegaConf.is_missing(cfg, "run_dir"):
        cfg.run_dir = run_dir
    _require_known(cfg)
    fields: dict[str, Any] = {}
    for key in map(str, cfg):
        require(not OmegaConf.is_missing(cfg, key), key, "???", "is needed", f"give {key}=...")
        try:
            fields[key] = OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key]
        except UserError as error:
            raise error.within(key) from error
    config_type = OmegaConf.get_type(cfg)
    assert config_type is not None
    return config_type(**fields)


def _require_known(cfg: DictConfig, within: str = "") -> None:
    """Hydra lets `+key=value` add anything, but no component has a use for what it does not know."""
    config_type: Any = OmegaConf.get_type(cfg)
    fields = {f.name for f in dataclasses.fields(config_type)} if dataclasses.is_dataclass(config_type) else None
    for name in map(str, cfg):
        key, child = f"{within}{name}", cfg._get_node(name)
        require(fields is None or name in fields, key, child, "no such key", "--help lists all")
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            _require_known(child, f"{key}.")
