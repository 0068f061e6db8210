"""One training of `train.py`, in a process of its own: gptlab, our bare loop, the peers, and what they all start from.

    python benchmarks/trainers.py KIND OPTIONS FOLDER

FOLDER holds the model's config, the device, the initial weights and the batches; the last line of the output is JSON:
the seconds at the start and after every so many steps, and the loss of each. OPTIONS is fp32, bf16 or bf16_compile.
"""

import dataclasses
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.interop.families import FAMILIES
from gptlab.interop.names import config_to
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.planning.limits import best_product, read_bandwidth, wait_for_device
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.training.memory import keep_freed_pages

Step = Callable[[Tensor, Tensor], Tensor]
Measured = dict[str, Any]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Task:
    """The task given to all candidates."""

    def __init__(self, folder: Path) -> None:
        saved = torch.load(folder / "task.pt", weights_only=True, mmap=True)
        self.config, self.weights = GPTConfig(**saved["model"]), saved["weights"]
        self.x, self.y = saved["x"], saved["y"]  # (steps, B, T)
        self.optimizer = AdamW(**saved["optimizer"])
        self.clip_norm: float = saved["clip_norm"]
        self.device = torch.device(saved["device"])
        # a GPU is waited for as often as gptlab waits for it: when it logs
        self.every: int = 1 if self.device.type == "cpu" else saved["every"]

    def gpt(self) -> GPT:
        gpt = GPT(self.config)
        gpt.load_state_dict(self.weights)
        return gpt.to(self.device)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every batch once, on the device; to a GPU by pinned memory, without waiting."""
        for pair in zip(self.x, self.y, strict=True):
            if self.device.type == "cuda":
                pair = tuple(t.pin_memory().to(self.device, non_blocking=True) for t in pair)
            yield pair


class Clock:
    """Seconds at the start and after every `task.every` steps, when their losses are read: all work is done then."""

    def __init__(self, task: Task) -> None:
        self.every, self.waiting = task.every, list[Tensor]()
        self.losses: list[float] = []
        wait_for_device(task.device)
        self.seconds = [time.perf_counter()]

    def after(self, loss: Tensor) -> None:
        """Record that a step has ended, or will."""
        self.waiting.append(loss)
        if len(self.waiting) == self.every:
            self.losses += torch.stack(self.waiting).tolist()
            self.seconds.append(time.perf_counter())
            self.waiting.clear()

    def measured(self) -> Measured:
        return {"seconds": self.seconds, "losses": self.losses, "every": self.every}


def gptlab(*overrides: str) -> Measured:
    """Run the command `gptlab train`; its measurements are in its run directory."""
    from gptlab.commands.main import main as command

    if code := command(["train", *overrides]):
        raise SystemExit(code)
    return {}


def prepare_task(folder: str, *overrides: str) -> Measured:
    """Save what `gptlab train` with these overrides begins with: its weights, its batches in their order."""
    from gptlab.batch_sizes import BatchSizes
    from gptlab.config import compose
    from gptlab.data.batches.order import Order
    from gptlab.data.batches.sampler import TrainBatches
    from gptlab.data.batches.windows import dense
    from gptlab.data.tokens.prepare import prepare
    from gptlab.planning.flops import flops_per_token
    from gptlab.training.start import with_vocabulary

    config = compose("train", list(overrides))
    corpus = prepare(config.data, config.tokenizer)
    model = with_vocabulary(config.model, corpus.tokenizer.n_vocab)
    torch.manual_seed(config.seed)
    weights = GPT(model).state_dict()
    windows = dense(corpus.train[0], model.block_size)
    order, size = Order([len(windows)], [1.0], config.seed), config.data.batch_size
    places = TrainBatches(order, config.budget.steps, BatchSizes(size), size, 0, 1)
    batches = [windows.__getitems__([window for _, window in each.windows]) for each in places]
    task = {
        "model": dataclasses.asdict(model),
        "weights": weights,
        "x": torch.stack([batch.x for batch in batches]),
        "y": torch.stack([batch.y for batch in batches]),
        "optimizer": dataclasses.asdict(config.optimizer),
        "clip_norm": config.trainer.gradient_clip_val,
        "device": {"cpu": "cpu", "gpu": "cuda"}[config.trainer.accelerator],
        "every": config.logger.every_n_steps,
    }
    torch.save(task, Path(folder) / "task.pt")
    return {"flops_per_token": flops_per_token(model), "parameters": sum(p.numel() for p in GPT(model).parameters())}


def bare(task: Task, options: str) -> Measured:
    """Train gptlab's GPT without Lightning and Hydra; in bf16 with fp32 masters, as `trainer.precision=bf16-true`."""
    if task.device.type == "cpu":
        keep_freed_pages()  # as `gptlab train` does
    gpt = task.gpt()
    mixed = options != "fp32"
    keeper = task.gpt() if mixed else gpt  # of the weights that the optimizer moves
    optimizer = task.optimizer.build(keeper)
    if mixed:
        gpt.bfloat16()
    params, masters = list(gpt.parameters()), list(keeper.parameters())

    def mean_loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(gpt(x).float(), y)

    compiled = torch.compile(mean_loss) if options.endswith("compile") else mean_loss

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = compiled(x, y)
        loss.backward()
        if mixed:
            for master, p in zip(masters, params, strict=True):
                master.grad = None if p.grad is None else p.grad.float()
        nn.utils.clip_grad_norm_(masters, task.clip_norm)
        optimizer.step()
        if mixed:
            with torch.no_grad():
                torch._foreach_copy_(params, masters)
        gpt.zero_grad(set_to_none=True)
        return loss.detach()

    return timed(task, step)


def nanogpt(task: Task, options: str, folder: str) -> Measured:
    """Train nanoGPT's model and optimizer, in the order of its train.py; in bf16 by autocast."""
    sys.path.insert(0, folder)
    theirs_ = importlib.import_module("model")
    c = task.config
    sizes = {key: getattr(c, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
    model = theirs_.GPT(theirs_.GPTConfig(**sizes, dropout=0.0, bias=True))
    family = FAMILIES["gpt2"]
    names = {name: family.theirs(name)[0] for name in task.weights}
    rooted = {name: each if family.is_head(each) else family.root + each for name, each in names.items()}
    model.load_state_dict({rooted[name]: tensor for name, tensor in task.weights.items()})
    model.to(task.device)
    o, kind = task.optimizer, task.device.type
    optimizer = model.configure_optimizers(o.weight_decay, o.lr, (o.beta1, o.beta2), kind)  # fused on a GPU
    compiled = torch.compile(model) if options.endswith("compile") else model
    autocast = torch.amp.autocast(kind, torch.bfloat16, enabled=options != "fp32")

    def step(x: Tensor, y: Tensor) -> Tensor:
        with autocast:
            _, loss = compiled(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return timed(task, step)


def litgpt(task: Task, options: str) -> Measured:
    """LitGPT's GPT in Fabric, in the order of its pretrain.py; it has no learned positions, so these are rotary."""
    import lightning as L
    from litgpt.config import Config
    from litgpt.model import GPT as LitGPT
    from litgpt.utils import chunked_cross_entropy

    c = task.config
    sizes = {key: getattr(c, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
    shape = {"padded_vocab_size": c.vocab_size, "parallel_residual": False, "gelu_approximate": "tanh"}
    precision = "32-true" if options == "fp32" else "bf16-mixed"
    fabric = L.Fabric(devices=1, accelerator=task.device.type, precision=precision)
    model = LitGPT(Config(**sizes, **shape))
    model.load_state_dict({litgpt_name(name): t for name, t in task.weights.items() if not name.startswith("wpe")})
    model.lm_head.weight = model.transformer.wte.weight
    setup = fabric.setup(torch.compile(model) if options.endswith("compile") else model)
    optimizer = fabric.setup_optimizers(task.optimizer.build(model))

    def step(x: Tensor, y: Tensor) -> Tensor:
        with fabric.no_backward_sync(setup, enabled=False):
            loss = chunked_cross_entropy(setup(x), y)
            fabric.backward(loss)
        fabric.clip_gradients(setup, optimizer, max_norm=task.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return timed(task, step)


def litgpt_name(name: str) -> str:
    if name == "lm_head.weight":
        return name
    name = name.replace("blocks.", "h.").replace("ln_1", "norm_1").replace("ln_2", "norm_2")
    return f"transformer.{name}"


def hf_trainer(task: Task, options: str) -> Measured:
    """Train with transformers' Trainer and its own GPT-2, in bf16 by autocast; only its order of the data is used."""
    import transformers
    from torch.utils.data import SequentialSampler

    from gptlab.interop.names import weights_of

    hf = config_to(task.config)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf))
    model.load_state_dict(weights_of(task.gpt(), hf), strict=False)
    model.tie_weights()
    x, y = task.x.flatten(0, 1), task.y.flatten(0, 1)
    data = [{"input_ids": x[i], "labels": y[i], "shift_labels": y[i]} for i in range(len(x))]
    clocks: list[Clock] = []

    class Times(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clocks.append(Clock(task))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clocks[0].after(trainer.loss)

    class InOrder(transformers.Trainer):
        loss: Tensor

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(data)

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            self.loss = super().training_step(*args, **kwargs)
            return self.loss

    o = task.optimizer
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            use_cpu=task.device.type == "cpu",
            bf16=options != "fp32",
            torch_compile=options.endswith("compile"),
            per_device_train_batch_size=task.x.shape[1],
            max_steps=len(task.x),
            learning_rate=o.lr,
            lr_scheduler_type="constant",
            weight_decay=o.weight_decay,
            adam_beta1=o.beta1,
            adam_beta2=o.beta2,
            max_grad_norm=task.clip_norm,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,  # of the batches: it would take away shift_labels
        )
        trainer = InOrder(model, arguments, train_dataset=data, callbacks=[Times()])
        trainer.train()
    return clocks[0].measured()


def timed(task: Task, step: Step) -> Measured:
    clock = Clock(task)
    for x, y in task.batches():
        clock.after(step(x, y))
    return clock.measured()


LOOPS: dict[str, Callable[..., Measured]] = {
    "bare": bare,
    "hf_trainer": hf_trainer,
    "litgpt": litgpt,
    "nanogpt": nanogpt,
}


def limits(folder: str) -> Measured:
    """Measure the most that the device can do, at the model's shapes."""
    task = Task(Path(folder))
    c = task.config
    widths = [(c.n_embd, 3 * c.n_embd), (c.n_embd, 4 * c.n_embd), (4 * c.n_embd, c.n_embd), (c.n_embd, c.vocab_size)]
    flops = {key: best_product(task.x[0].numel(), widths, dtype, task.device) for key, dtype in DTYPES.items()}
    return {"flops": flops, "bandwidth": read_bandwidth(task.device)}


WHOLE: dict[str, Callable[..., Measured]] = {"gptlab": gptlab, "prepare": prepare_task, "limits": limits}


def main(kind: str, *rest: str) -> None:
    if kind in WHOLE:
        answer = WHOLE[kind](*rest)
    else:
        options, folder, *more = rest
        answer = LOOPS[kind](Task(Path(folder)), options, *more)
    if torch.cuda.is_available():
        answer["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
