"""Read a LoRA that the `peft` library has saved, merged into the tensors of the model that it belongs to."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlab.errors import UserError, reason, require
from gptlab.files import read_json
from gptlab.interop.family import Family
from gptlab.interop.weight_files import MOST_JSON, WeightFiles, load_pickle, opened, tensors_of

SETTINGS, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ROOT = "base_model.model."  # before the names of a model
KINDS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
# what the settings may say that does not change what is computed
READ = {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "bias"}
HARMLESS = {
    *("auto_mapping", "task_type", "inference_mode", "lora_dropout", "init_lora_weights", "target_modules", "revision"),
    *("layers_to_transform", "layers_pattern", "exclude_modules", "megatron_core", "peft_version", "qalora_group_size"),
    *("loftq_config", "eva_config", "corda_config", "runtime_config", "ensure_weight_tying", "velora_config"),
}


class Peft:
    """A directory that peft has saved: its settings, and its tensors by the names of the model's layers."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.settings = self._settings()
        self.scale = float(self.settings["lora_alpha"]) / self._rank ** (0.5 if self.settings.get("use_rslora") else 1)

    @property
    def _rank(self) -> int:
        return int(self.settings["r"])

    @property
    def base(self) -> str:
        """The directory, or the name on the hub, of the model that it was trained on."""
        return str(self.settings["base_model_name_or_path"])

    def _settings(self) -> dict[str, Any]:
        path = self.source / SETTINGS
        try:
            found = read_json(path, MOST_JSON)
        except (OSError, ValueError) as error:
            raise UserError("hf", path, f"cannot be read ({reason(error)})", "give a whole directory") from error
        require(isinstance(found, dict), "hf", path, "does not hold keys with values", "give a whole directory")
        settings = dict(found)
        kind = settings.get("peft_type")
        require(kind == "LORA", "peft_type", kind, "is not known here", "it can be LORA")
        bias = settings.get("bias", "none")
        require(bias == "none", "bias", bias, "is not known here", "it can be none")
        for key in sorted(set(settings) - READ - HARMLESS):
            why = f"{path}: may change what the adapter computes, and is not known here"
            require(not settings[key], key, json.dumps(settings[key])[:80], why, "merge it with peft first")
        for key, kinds in {"r": int, "lora_alpha": (int, float), "base_model_name_or_path": str}.items():
            value = settings.get(key)
            ok = isinstance(value, kinds) and value  # type: ignore[arg-type]
            require(bool(ok), key, value, f"{path}: is not what peft writes", "give a whole directory")
        return settings

    def layers(self, family: Family) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each layer by their kinds; layers are named without the family's root."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._tensors().items():
            kind = next((kind for kind in KINDS if name.endswith(f".{kind}")), None)
            why, todo = f"has a tensor {name}, which is no part of a LoRA here", "merge it with peft first"
            if kind is None or not name.startswith(ROOT):
                raise UserError("hf", self.source, why, todo)
            layer = name.removeprefix(ROOT).removesuffix(f".{kind}")
            found.setdefault(layer.removeprefix(family.root), {})[kind] = tensor
        for layer, parts in found.items():
            a, b = (parts.get(kind) for kind in KINDS[:2])
            dora = (KINDS[2] in parts) == bool(self.settings.get("use_dora"))
            ok = a is not None and b is not None and dora and a.shape[0] == b.shape[1] == self._rank
            require(ok, "hf", self.source, f"its tensors of {layer} are not those of its settings", "take another copy")
        return found

    def _tensors(self) -> dict[str, Tensor]:
        if (self.source / WEIGHTS).is_file():
            with opened(self.source / WEIGHTS) as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        path = self.source / PICKLED
        require(path.is_file(), "hf", self.source, f"has no {WEIGHTS}", "take a complete download")
        return tensors_of(load_pickle(path), path)


class AdaptedFiles(WeightFiles):
    """The tensors of a directory with a LoRA merged into them."""

    def __init__(self, source: Path, family: Family, peft: Peft) -> None:
        super().__init__(source, family)
        self.peft, self.layers = peft, peft.layers(family)
        self.unused = set(self.layers)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, to which the products of its layer are added."""
        tensor, layer = super().tensor(name), name.removesuffix(".weight")
        if layer == name or layer not in self.layers:
            return tensor
        self.unused.discard(layer)
        parts, transposed = self.layers[layer], bool(self.peft.settings.get("fan_in_fan_out"))
        weight = (tensor.T if transposed else tensor).double()
        a, b = (parts[kind].double() for kind in KINDS[:2])
        shapes = f"{list(b.shape)} and {list(a.shape)} for {list(weight.shape)}"
        fits = weight.shape == (b.shape[0], a.shape[1])
        require(fits, "hf", self.peft.source, f"its tensors of {layer} are {shapes}", "it belongs to another model")
        weight = weight + self.peft.scale * b @ a
        if KINDS[2] in parts:
            weight = parts[KINDS[2]].double()[:, None] * weight / weight.square().sum(1, keepdim=True).sqrt()
        return (weight.T if transposed else weight).to(tensor.dtype)

    def finish(self) -> None:
        """Refuse unread tensors, of the model or of the LoRA."""
        super().finish()
        unused = sorted(self.unused)
        why = f"has layers that the model does not have: {', '.join(unused[:3])}"
        require(not unused, "hf", self.peft.source, why, "it belongs to another model")
