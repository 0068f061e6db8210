"""Read the tensors of a Hugging Face directory, one at a time, from safetensors or from PyTorch's own format."""

import contextlib
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptlab.errors import UserError, reason, require
from gptlab.files import read_json
from gptlab.interop.family import Naming

# in the order in which transformers looks for them
FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
MOST_JSON = 1 << 28  # bytes
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BUFFERS = re.compile(
    r"(^|\.)((attn|attention)\.(bias|masked_bias)|att\.mask|rotary_emb\.(original_)?inv_freq)$"  # masks and angles
)


class WeightFiles:
    """The tensors of a directory, by the names that a family gives them, without the root before these.

    Prefixes of torch.compile, data-parallel training and of a root that is missing or doubled do not matter.
    """

    key, todo = "hf", "take a complete download"
    declared, tie = "config.json", "tie_word_embeddings"  # what says the model's shape, and that the head is tied

    def __init__(self, source: Path, family: Naming) -> None:
        self.source, self.family = source, family
        self._opened: dict[Path, dict[str, Tensor]] = {}
        self.where = self._where()  # its name in the files -> file
        self.full = self._canonical()  # canonical name -> its name in the files
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.full

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; raises UserError if it is absent, or not of floating-point numbers."""
        shown = name if self.family.is_head(name) else self.family.root + name
        require(name in self.full, self.key, self.source, f"has no tensor {shown}", self.todo)
        self.read.add(name)
        tensor = self._get(self.where[self.full[name]], self.full[name])
        why = f"its {shown} has the dtype {str(tensor.dtype).removeprefix('torch.')}"
        todo = "only unquantized floating-point weights can be read"
        require(tensor.dtype in FLOATS, self.key, self.source, why, todo)
        return tensor

    def finish(self) -> None:
        """Refuse unread tensors, except the buffers of older versions."""
        unread = sorted(set(self.full) - self.read)
        unread = [self.full[name] for name in unread if not BUFFERS.search(name)]
        some = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
        why = f"has tensors that a {self.family.model_type} with its {self.declared} does not have: {some}"
        require(not unread, self.key, self.source, why, "it cannot be imported exactly")

    def _canonical(self) -> dict[str, str]:
        """Return the name in the files of each tensor, by its name without what stands before the embedding's name."""
        anchor, head = f"{self.family.names['wte'][0]}.weight", self.family.head
        found = [name for name in self.where if f".{name}".endswith(f".{anchor}")]
        require(bool(found), self.key, self.source, f"has no tensor {self.family.root}{anchor}", self.todo)
        root = min(found, key=len)[: -len(anchor)]
        names = {}
        for name in self.where:
            before, _, kind = name.rpartition(f"{head}.")
            if kind in ("weight", "bias") and name.endswith(f"{head}.{kind}") and root.startswith(before):
                names[f"{head}.{kind}"] = name
            else:
                names[name.removeprefix(root)] = name
        return names

    def _where(self) -> dict[str, Path]:
        """Return the file that holds each tensor."""
        first = next((name for name in FILES if (self.source / name).is_file()), None)
        if first is None:
            raise UserError("hf", self.source, f"has no {FILES[0]} and no {FILES[2]}", "take a complete download")
        path = self.source / first
        if not first.endswith(".json"):
            return dict.fromkeys(self._names(path), path)
        try:
            files = read_json(path, MOST_JSON).get("weight_map")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError("hf", path, f"cannot be read ({type(error).__name__})", "download it again") from error
        plain = isinstance(files, dict) and all(
            isinstance(file, str) and Path(file).name == file for file in files.values()
        )
        require(plain, "hf", path, "does not name files of its folder", "take a complete download")
        index = {str(name): self.source / file for name, file in files.items()}
        for file in set(index.values()):
            require(file.is_file(), "hf", file, "no such file", "take a complete download")
        return index

    def _names(self, path: Path) -> list[str]:
        if path.suffix != ".safetensors":
            return list(self._pickled(path))
        with opened(path) as file:
            return list(file.keys())

    def _get(self, path: Path, name: str) -> Tensor:
        if path.suffix == ".safetensors":
            with opened(path) as file:  # closed at once, so that its pages are not held
                tensor: Tensor = file.get_tensor(name)
            return tensor
        require(name in self._pickled(path), "hf", path, f"has no tensor {name}", "take a complete download")
        return self._pickled(path)[name]

    def _pickled(self, path: Path) -> dict[str, Tensor]:
        if path not in self._opened:
            self._opened[path] = tensors_of(load_pickle(path), path)
        return self._opened[path]


class StateDict(WeightFiles):
    """The tensors of a state dict, read already or mapped into memory; `source` is the file that they are from."""

    key, todo = "checkpoint", "take a whole checkpoint"

    def __init__(self, source: Path, tensors: dict[str, Tensor], naming: Naming, declared: str) -> None:
        self.tensors, self.declared, self.tie = tensors, declared, naming.model_type
        super().__init__(source, naming)

    def _where(self) -> dict[str, Path]:
        return dict.fromkeys(self.tensors, self.source)

    def _get(self, path: Path, name: str) -> Tensor:
        return self.tensors[name]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raises UserError if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError("hf", path, f"cannot be read ({reason(error)})", "download it again") from error


def load_pickle(path: Path) -> Any:
    """Return what torch.save wrote; raises UserError if that is not data alone: no code is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"is damaged, or holds more than tensors ({type(error).__name__})"
        raise UserError("hf", path, why, "no code of a pickle is run; give safetensors") from error


def tensors_of(found: Any, path: Path, key: str = "hf") -> dict[str, Tensor]:
    """Return the tensors in what a PyTorch file holds, by name; raises UserError for `key` if it is something else."""
    named = isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values())
    require(named, key, path, "does not hold tensors by name", "give a state dict")
    return {str(name): tensor for name, tensor in found.items()}
