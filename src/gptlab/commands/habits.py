"""Know how other tools spell what is asked of gptlab, so that a mistake is answered by the line to type here.

Nothing is taken from these tables but advice, and no advice is given that this gptlab would refuse.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from gptlab import registry
from gptlab.commands.flags import CONFIG_FLAGS, is_flag
from gptlab.config.hydra_internals import key_mistake
from gptlab.config.schema import field_types, part_fields
from gptlab.config.tree import compose, takes_run_configs
from gptlab.files import conf_dir

VERBS = {
    "train": "fit pretrain finetune finetune_full run learn training launch",
    "sample": "generate chat predict complete inference",
    "evaluate": "eval test validate score",
    "tokenize": "prepare preprocess encode",
    "import": "convert convert_from_hf download",
    "export": "convert_to_hf save_pretrained",
    "report": "summary dashboard ls list",
    "batch": "critical_batch critical_batch_size",
    "bench": "benchmark profile speed throughput",
    "app": "playground ui webui gradio streamlit",
}
# what is called here as on the left
TRAINING = {
    "optimizer.lr": "learning_rate max_lr peak_lr base_lr max_learning_rate",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_epsilon epsilon",
    "schedule.warmup_steps": "warmup_iters num_warmup_steps lr_warmup_steps warmup",
    "schedule.warmup_share": "warmup_ratio",
    "budget.steps": "max_iters max_steps num_steps n_steps train_steps train_iters num_iterations total_steps",
    "budget.epochs": "num_train_epochs num_epochs max_epochs n_epochs epoch",
    "budget.tokens": "max_tokens num_tokens train_tokens total_tokens",
    "data.batch_size": "per_device_train_batch_size train_batch_size global_batch_size total_batch_size bs",
    "data.micro_batch_size": "device_batch_size micro_batch",
    "data.num_workers": "dataloader_num_workers workers",
    "trainer.val_every_n_steps": "eval_interval eval_steps val_check_interval eval_every val_interval",
    "trainer.gradient_clip_val": "grad_clip max_grad_norm clip_grad clip_grad_norm gradient_clip max_norm",
    "trainer.activation_checkpointing": "gradient_checkpointing",
    "trainer.num_nodes": "nnodes",
    "trainer.max_minutes": "max_time_minutes",
    "logger.every_n_steps": "log_interval logging_steps log_every_n_steps log_every",
    "logger.project": "wandb_project",
    "checkpoint.every_n_steps": "save_steps save_interval checkpoint_interval save_every",
    "checkpoint.keep_last": "save_total_limit",
    "run_dir": "out_dir output_dir save_dir checkpoint_dir default_root_dir log_dir logging_dir",
    "name": "run_name wandb_run_name experiment_name exp_name",
    "seed": "random_seed data_seed",
    "compile": "torch_compile",
    "ema": "ema_decay",
    "init_from": "init_from_checkpoint pretrained_model",
    "model.n_layer": "n_layers num_layers num_hidden_layers depth layers",
    "model.n_head": "n_heads num_heads num_attention_heads heads",
    "model.n_kv_head": "n_kv_heads num_key_value_heads n_query_groups",
    "model.n_embd": "d_model hidden_size embed_dim embedding_dim dim width",
    "model.dropout": "dropout dropout_rate resid_pdrop",
    "model.n_inner": "intermediate_size d_ff ffn_dim",
    "model.block_size": "context_length max_seq_length max_seq_len seq_len seq_length sequence_length context ctx_len",
    "sample_prompts": "prompt prompts sample_prompt",
}
SAMPLING = {
    "run": "out_dir output_dir checkpoint ckpt ckpt_path model model_path model_name_or_path checkpoint_dir run_dir",
    "prompt": "text input input_text",
    "max_new_tokens": "max_tokens max_length length n_tokens num_tokens",
    "num_samples": "num_return_sequences n",
    "stop": "stop_sequences stop_words",
    "logits_processors.repetition": "repetition_penalty",
    "logits_processors.presence": "presence_penalty",
    "logits_processors.frequency": "frequency_penalty",
    "logits_processors.no_repeat_ngram": "no_repeat_ngram_size",
    "seed": "random_seed",
    "max_batch": "max_num_seqs max_batch_size",
    "name": "served_model_name",
    "token": "api_key",
}
PRECISIONS = {
    "bf16-mixed": "bf16 bfloat16",
    "16-mixed": "16 fp16 float16 half",
    "32-true": "32 fp32 float32 no",
}
OPTIMIZERS = {"adamw": "adamw_torch adamw_torch_fused adamw_hf", "adam": "adam_torch"}
TRUE = ("true", "1", "yes", "on")


def advice(
    verb: str, argv: Sequence[str], wrong: str | None = None, given: bool = True, error: Exception | None = None
) -> str | None:
    """Return the command line to type instead of one that is not understood; None where none is known.

    Where the whole of it cannot be said in gptlab's words, the argument that begins with `wrong` is, alone, of this
    verb or of another. `given` tells whether the verb was given, and `error` is what composing the line has raised: it
    is not composed again as it is.
    """
    if any(arg in ("-m", "--multirun") for arg in argv) or is_flag(wrong or ""):  # of a sweep, or of a flag's value
        return None
    tries = [(verb, list(argv))]
    if wrong:
        parts = [arg for arg in _joined(verb, argv) if _key(arg) == _key(wrong)][:1]
        foreign = not _speaks(verb, _key(wrong))  # such as what only `sample` has
        tries += [(other, parts) for other in (verb, *(("sample", "train") if foreign else ())) if parts]
    for other, asked in tries:
        told = corrected(other, asked)
        if asked is not tries[0][1] and (other, told) == (verb, asked):
            continue  # nothing is wrong with this argument alone
        accepted = _accepted(other, told, error if (other, told) == (verb, list(argv)) else None)
        if accepted is not None and (other, accepted) != (verb, asked if given else None):
            return shlex.join(["gptlab", other, *accepted])
    return None


def verb_for(word: str) -> str | None:
    """Return the verb that other tools call `word`."""
    return _others(VERBS).get(word.replace("-", "_").lower())


def corrected(verb: str, argv: Sequence[str]) -> list[str]:
    """Return a command line with what is known of other tools in gptlab's words; what is not known stays."""
    found = list[str]()
    for arg in _joined(verb, argv):
        key, given, value = arg.partition("=")
        if value.startswith("[") and "]" not in value:
            arg, value = f"{arg}]", f"{value}]"
        if arg.startswith(("+", "~")) or (is_flag(key) and not _is_known(verb, _key(arg))):
            found.append(arg)
            continue
        told = _translated(verb, _key(arg), value) if given else None
        found += [arg] if told is None else told
    return list(dict.fromkeys(found))


def _joined(verb: str, argv: Sequence[str]) -> list[str]:
    """Return a command line in which each value has its key: `--lr 1e-3`, `seed 1`, `prompt=two words`."""
    found, rest = list[str](), list(argv)
    while rest:
        arg = rest.pop(0)
        key, given, _ = arg.partition("=")
        if is_flag(key) and not _speaks(verb, _key(arg)):
            found += [arg, *([rest.pop(0)] if not given and key in CONFIG_FLAGS and rest else [])]
            continue
        flag, has_value = key.startswith("-"), bool(rest) and "=" not in rest[0] and not rest[0].startswith("--")
        if given or not (flag or _speaks(verb, _key(arg))):
            texts = found and "=" in found[-1] and not given and _takes_text(verb, _key(found[-1]))
            found = [*found[:-1], f"{found[-1]} {arg}"] if texts else [*found, arg]
        elif has_value:
            found.append(f"{key}={rest.pop(0)}")
        elif flag and _speaks(verb, no := re.sub(r"^no_", "", _key(arg))) and no != _key(arg):
            found.append(f"{no}=false")
        else:
            found.append(f"{key}=true" if flag and _speaks(verb, _key(arg)) else arg)
    return found


def _translated(verb: str, key: str, value: str) -> list[str] | None:
    """Return the overrides that say what another tool's key says; None where it is not known."""
    value = {"True": "true", "False": "false", "None": "null"}.get(value, value)
    training, last = verb == "train", key.rpartition(".")[2]
    if verb == "sample" and key == "start" and value not in ("eot", "null", ""):
        return [f"prompt={value}"]
    if _is_known(verb, key) and not (training and key in ("logger", "device")):
        return [f"{key}={value}"]
    special: Callable[[str], list[str] | None] | None = (_OF_TRAINING if training else _OF_SAMPLING).get(last)
    if special and (told := special(value)) is not None:
        return told
    if name := _others(TRAINING if training else SAMPLING).get(last):
        return [f"{name}={value}"]
    every, usual = _own_names(verb)
    named = "." in key and key.partition(".")[0] in part_fields(registry.find_command(verb).config_type)
    own = (usual if named else every).get(last)  # a key of one group may be meant for the usual option of another
    return [f"{own}={value}"] if own else None


def _device(value: str) -> list[str]:
    kind = value.partition(":")[0]
    known = {"cpu": "trainer=cpu", "cuda": "trainer=gpu", "gpu": "trainer=gpu"}
    return [known.get(kind, f"trainer.accelerator={kind}")]


def _gpus(value: str) -> list[str]:
    return ["trainer=cpu"] if value == "0" else ["trainer=gpu", f"trainer.devices={value}"]


def _precision(value: str) -> list[str]:
    return [f"trainer.precision={_others(PRECISIONS).get(value, value)}"]


def _data(value: str) -> list[str]:
    if value == "shakespeare_char":
        return ["data=shakespeare", "tokenizer=char"]
    if value in registry.options("data") or (conf_dir() / "data" / f"{value}.yaml").is_file():
        return [f"data={value}"]
    if Path(value).suffix or Path(value).exists() or "*" in value:
        return ["data=text", f"data.files={value}"]
    return ["data=hub", f"data.path={value}"]


def _switch(on: str, off: str) -> Callable[[str], list[str]]:
    return lambda value: [on if value.lower() in TRUE else off]


def _accumulated(value: str) -> list[str] | None:
    return [f"data.batch_size={8 * int(value)}", "data.micro_batch_size=8"] if value.isdecimal() else None


_OF_TRAINING: dict[str, Callable[[str], list[str] | None]] = {
    "device": _device,
    "gpus": _gpus,
    **dict.fromkeys(("n_gpus", "num_gpus", "ngpus"), _gpus),
    **dict.fromkeys(("nproc_per_node", "num_devices", "world_size"), lambda value: [f"trainer.devices={value}"]),
    **dict.fromkeys(("precision", "dtype", "mixed_precision", "torch_dtype"), _precision),
    "fp16": _switch("trainer.precision=16-mixed", "trainer.precision=32-true"),
    "bf16": _switch("trainer.precision=bf16-mixed", "trainer.precision=32-true"),
    "amp": _switch("trainer.precision=16-mixed", "trainer.precision=32-true"),
    **dict.fromkeys(
        ("dataset", "dataset_name", "train_file", "data_dir", "train_data", "data_path", "input_file"), _data
    ),
    **dict.fromkeys(("wandb_log", "use_wandb"), _switch("logger=wandb", "logger=tensorboard")),
    "wandb": _switch("logger=wandb", "logger=tensorboard"),
    "report_to": lambda value: [f"logger={value}"],
    **dict.fromkeys(
        ("optim", "optimizer_type", "optimizer_name", "opt"),
        lambda value: [f"optimizer={_others(OPTIMIZERS).get(value, value)}"],
    ),
    **dict.fromkeys(("lr_scheduler_type", "scheduler", "lr_scheduler", "lr_decay_style"), lambda v: [f"schedule={v}"]),
    **dict.fromkeys(
        ("resume_from_checkpoint", "resume_from", "ckpt_path", "load_checkpoint"),
        lambda value: [f"resume={'latest' if value.lower() in (*TRUE, 'last') else value}"],
    ),
    **dict.fromkeys(("gradient_accumulation_steps", "accumulate_grad_batches"), _accumulated),
    "top_k": lambda value: ["decoder=top_k", f"decoder.k={value}"],
    "top_p": lambda value: ["decoder=top_p", f"decoder.p={value}"],
    "do_train": lambda value: [],
}
_OF_SAMPLING: dict[str, Callable[[str], list[str] | None]] = {
    "top_k": _OF_TRAINING["top_k"],
    "top_p": _OF_TRAINING["top_p"],
    "typical_p": lambda value: ["decoder=typical", f"decoder.mass={value}"],
    "num_beams": lambda value: ["decoder=beam", f"decoder.beams={value}"],
    "do_sample": _switch("decoder=sample", "decoder=greedy"),
}


def _accepted(verb: str, argv: list[str], error: Exception | None = None) -> list[str] | None:
    """Return a command line if it composes, with the options that its keys belong to; None if it does not.

    `error` is what composing it has raised, where that was tried already.
    """
    understood = [
        arg[0] == "~" or ("=" in arg and arg[0] != "-") or is_flag(arg.partition("=")[0]) for arg in argv if arg
    ]
    if not all(understood) or "" in argv:
        return None
    for _ in range(4):
        if error is None:
            try:
                compose(verb, [arg for arg in argv if "=" in arg and not arg.startswith("-")])
                return argv
            except Exception as raised:  # whatever is wrong with it, it is no advice
                error = raised
        mistake = key_mistake(error)
        if mistake is None or mistake.why is not None:
            return None
        group, _, name = mistake.key.partition(".")
        fits = [o for o, part in registry.options(group).items() if name in {f.name for f in dataclasses.fields(part)}]
        if not fits or any(arg.startswith(f"{group}=") for arg in argv):
            return None
        argv, error = [f"{group}={fits[0]}", *argv], None
    return None


def _key(arg: str) -> str:
    """Return the key of an argument as gptlab would spell it."""
    return arg.partition("=")[0].lstrip("-").replace("-", "_")


def _is_known(verb: str, key: str) -> bool:
    """Tell whether a verb has a key or a group."""
    config_type = registry.find_command(verb).config_type
    recipes = ("experiment", "debug", "config") if takes_run_configs(verb) else ()
    grouped = key.partition("@")[0].partition("/")[0] in ("hydra", *part_fields(config_type))
    bare = "." not in key or "@" in key or "/" in key
    return key in recipes or key.startswith("hydra.") or (grouped and bare) or bool(field_types(key, config_type))


def _speaks(verb: str, key: str) -> bool:
    """Tell whether a key means something, in gptlab's words or another tool's."""
    return _translated(verb, key, "1") is not None


def _takes_text(verb: str, key: str) -> bool:
    """Tell whether the value of a key is a text, which may have spaces in it."""
    told = _translated(verb, key, "1") or [key]
    kinds = field_types(told[-1].partition("=")[0], registry.find_command(verb).config_type)
    return bool(kinds) and all("str" in str(kind) for kind in kinds)


@functools.cache
def _own_names(verb: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the full key of each name that only one of a verb's groups has, or only one by its usual option.

    Then those of the usual options alone.
    """
    config_type, found = registry.find_command(verb).config_type, dict[str, set[str]]()
    usual = dict[str, set[str]]()
    for field in dataclasses.fields(config_type):
        if field.name in part_fields(config_type):
            within = list(registry.options(field.name).values())
        else:
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
            within = [type(default)] if dataclasses.is_dataclass(default) else []
        for each in within:
            for inner in dataclasses.fields(each):
                found.setdefault(inner.name, set()).add(f"{field.name}.{inner.name}")
                if registry.options(field.name).get(part_fields(config_type).get(field.name) or "") in (each, None):
                    usual.setdefault(inner.name, set()).add(f"{field.name}.{inner.name}")
    told = {name: keys if len(keys) == 1 else usual.get(name, set()) for name, keys in found.items()}
    every, of_usual = (
        {name: next(iter(keys)) for name, keys in these.items() if len(keys) == 1} for these in (told, usual)
    )
    return every, of_usual


def _others(table: dict[str, str]) -> dict[str, str]:
    """Return gptlab's word for each of the others'."""
    return {word: own for own, words in table.items() for word in words.split()}
