"""Find the runs that teach another one, and compare what it predicts with what they do."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.data.batches.batch import IGNORE
from gptlab.errors import UserError, require
from gptlab.model.gpt import read_by_document, recomputed
from gptlab.runs.adapted import weights_sha256
from gptlab.runs.reader import expand
from gptlab.runs.run_dir import RunDir, located
from gptlab.tasks.base import Reading
from gptlab.tasks.cross_entropy import CHUNK, cross_entropy
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import Tokenizer, fingerprint

KEY = "task.teacher"


class Teacher(NamedTuple):
    """A run that teaches: its place, the SHA-256 of its weights, and its model, which learns nothing."""

    place: str
    sha256: str
    gpt: Any


class Taught(NamedTuple):
    """The losses of a student at each target, (B, T), in nats; zero where there is no target."""

    divergence: Tensor  # KL(teachers || student), both at the temperature
    cross_entropy: Tensor  # of the text


def find_teachers(names: Sequence[str], known: Sequence[str], tokenizer: Tokenizer, block_size: int) -> list[Teacher]:
    """Read the runs that teach one with this tokenizer and context.

    `known` are the SHA-256 that their weights had when the run was begun, if it was. Raises UserError where one cannot
    be read, is another one now, or is made for other ids.
    """
    names = expand(names)
    why = f"are {len(names)} runs, and task.sha256 names the weights of {len(known)}"
    require(len(known) in (0, len(names)), KEY, names, why, "leave task.sha256 out")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        own = fingerprint(Path(folder))
    found = [_read(name, own, block_size) for name in names]
    for earlier, each in zip(known, found, strict=False):
        why = f"its weights have SHA-256 {each.sha256[:12]}, and those that taught this run had {earlier[:12]}"
        require(each.sha256 == earlier, KEY, each.place, why, "put back the run that taught it")
    places = [each.place for each in found]
    twice = next((place for place in places if places.count(place) > 1), None)
    require(twice is None, KEY, twice, "is named twice", "name each run once")
    return found


def _read(name: str, tokenizer: str, block_size: int) -> Teacher:
    try:
        run = RunDir.find(name)
        task = task_of(run.config())
        theirs = run.path / "tokenizer"
        same, todo = fingerprint(theirs) == tokenizer, f"give tokenizer=saved tokenizer.folder={theirs}"
        require(task.predicts_tokens, KEY, name, "does not predict the next token", "name another run")
        require(same, KEY, name, "has another tokenizer than this run", todo)
        gpt = run.load(task.head)[0]
    except UserError as error:
        raise UserError(KEY, error.value, error.why, error.todo) from error
    context = gpt.config.block_size
    why, todo = f"is more than the {context} tokens that the teacher {name} reads", f"give at most {context}"
    require(block_size <= context, "model.block_size", block_size, why, todo)
    return Teacher(located(run), weights_sha256(gpt.state_dict()), gpt.requires_grad_(False))


def taught(gpt: Any, teachers: Sequence[Any], x: Tensor, y: Tensor, reading: Reading, temperature: float) -> Taught:
    """Compare what a model predicts for ids x (B, T) with the mean of what its teachers do, and with the targets y.

    The teachers compute where the model does, in its precision. Raises ValueError where a model cannot be read so.
    """
    weight = next(gpt.parameters())
    for teacher in teachers:
        if next(teacher.parameters()).device != x.device or next(teacher.parameters()).dtype != weight.dtype:
            teacher.to(x.device, weight.dtype)
    compared = _Compared(gpt, teachers, temperature)
    if not reading.chunked:
        logits = read_by_document(gpt, x, reading.separator)
        with torch.no_grad():
            theirs = [read_by_document(teacher, x, reading.separator) for teacher in teachers]
        found = compared.losses(y.flatten(), logits.flatten(0, 1), [each.flatten(0, 1) for each in theirs])
    else:
        hidden = [read_by_document(gpt.hidden, x, reading.separator)]
        with torch.no_grad():
            hidden += [read_by_document(teacher.hidden, x, reading.separator) for teacher in teachers]
        every = [y.flatten(), *(each.flatten(0, 1) for each in hidden)]
        pieces = zip(*(torch.split(each, CHUNK) for each in every), strict=True)
        found = torch.cat([recomputed(compared, *piece) for piece in pieces])
    return Taught(*(each.view_as(y) for each in found.unbind(-1)))


class _Compared(nn.Module):
    """A module that compares hidden states (N, C) of a model and of its teachers, by their heads, (N, 2)."""

    def __init__(self, gpt: Any, teachers: Sequence[Any], temperature: float) -> None:
        super().__init__()
        self.gpt, self.teachers, self.temperature = gpt, tuple(teachers), temperature  # a tuple holds no submodules

    def forward(self, y: Tensor, hidden: Tensor, *theirs: Tensor) -> Tensor:
        with torch.no_grad():
            logits = [teacher.logits(each) for teacher, each in zip(self.teachers, theirs, strict=True)]
        return self.losses(y, self.gpt.logits(hidden), logits)

    def losses(self, y: Tensor, logits: Tensor, theirs: Sequence[Tensor]) -> Tensor:
        """Return the divergence and the cross-entropy at targets y (N,) of logits (N, V), (N, 2)."""
        expected = mean_log_probs([each.float() / self.temperature for each in theirs])
        own = (logits.float() / self.temperature).log_softmax(-1)
        divergence = F.kl_div(own, expected, reduction="none", log_target=True).sum(-1)
        counted = divergence.masked_fill(y == IGNORE, 0.0)
        return torch.stack([counted, cross_entropy(logits.float()[None], y[None], reduction="none")], -1)


def mean_log_probs(logits: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of the probabilities that several logits (..., V) give."""
    shared = torch.stack([each.log_softmax(-1) for each in logits])
    return shared.logsumexp(0) - math.log(len(logits))
