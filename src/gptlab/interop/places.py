"""Find what a model is imported from; that it is not there is told without torch."""

from pathlib import Path

from gptlab.errors import UserError, reason, require

FILES = ["config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json"]
PICKLED = ["adapter_model.bin", "pytorch_model*.bin", "pytorch_model.bin.index.json"]
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "*.jinja", "chat_template.json"]
LITGPT_CONFIG, LITGPT_WEIGHTS = "model_config.yaml", "lit_model.pth"
KINDS = "give nanoGPT's ckpt.pt, LitGPT's folder, or a state dict of the book's GPTModel"


def local_directory(name: str) -> Path | None:
    """Return the path of a local directory of Hugging Face or peft; None for the name of a repository on the hub."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    on_a_hub = "/" in name and not name.startswith((".", "/", "~"))
    require(on_a_hub, "hf", name, "no such directory", "give one, or OWNER/NAME on the hub")
    return None


def directory(name: str) -> Path:
    """Return the path of a local directory; download any other name as a hub repository."""
    if (local := local_directory(name)) is not None:
        return local
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(name, allow_patterns=[*FILES, *TOKENIZER_FILES]))
        if any(found.glob("*.safetensors")):
            return found
        return Path(snapshot_download(name, allow_patterns=[*FILES, *PICKLED, *TOKENIZER_FILES]))
    except Exception as error:  # the hub client has many: no network, no such name, no permission
        why = f"cannot be downloaded ({type(error).__name__}: {reason(error)})"
        raise UserError("hf", name, why, "give a directory") from error


def checkpoint_file(name: str) -> Path:
    """Return the file of another trainer's checkpoint: the path itself, or the weights in LitGPT's folder."""
    path = Path(name).expanduser()
    if not path.is_dir():
        require(path.is_file(), "checkpoint", path, "no such file", KINDS)
        return path
    there = (path / LITGPT_CONFIG).is_file()
    require(there, "checkpoint", path, f"is a folder without a {LITGPT_CONFIG}", KINDS)
    convert = "litgpt convert_pretrained_checkpoint writes them from a training's"
    require((path / LITGPT_WEIGHTS).is_file(), "checkpoint", path, f"has no {LITGPT_WEIGHTS}", convert)
    return path / LITGPT_WEIGHTS
