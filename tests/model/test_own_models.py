"""A model of another package is at work in every verb, or is refused in one line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptlab
from gptlab import registry
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.data.tokens.shards import held_out_stream
from gptlab.decoding.decoders import Beam, Greedy, TopK
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import save_by_hand, tiny_overrides
from tests.model.own_models import ModernGPT, RNNConfig, Unfinished
from tests.training.test_resume import require_equal_after_a_kill, resumed

Start = Callable[..., TrainConfig]


def own_overrides(texts: str) -> list[str]:
    return ["model=rnn", *(each for each in tiny_overrides(texts) if not each.startswith("model."))]


@pytest.fixture
def own(texts: str) -> Start:
    """The config of a tiny run of model=rnn: own(*overrides)."""
    return lambda *more: compose("train", [*own_overrides(texts), *more])


def said_by(capfd: pytest.CaptureFixture[str], *line: str, code: int = 0) -> str:
    """Return what a command answers, or the one line of its mistake."""
    capfd.readouterr()
    assert main([*line]) == code
    out, err = capfd.readouterr()
    assert not code or err.count("\n") == 1, err
    return err if code else out


def logits_by_hand(run: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """Run the GRU in float64 NumPy from the checkpoint's tensors (Cho et al. 2014; PyTorch's form): (T, V)."""
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    w = {name.removeprefix("gpt."): value.double().numpy() for name, value in saved.items()}
    state, found = np.zeros(16), []

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    for token in ids:
        into = w["gru.weight_ih_l0"] @ w["embedding.weight"][token] + w["gru.bias_ih_l0"]
        back = w["gru.weight_hh_l0"] @ state + w["gru.bias_hh_l0"]
        reset, update = (sigmoid(into[i : i + 16] + back[i : i + 16]) for i in (0, 16))
        new = np.tanh(into[32:] + reset * back[32:])
        state = (1 - update) * new + update * state
        found.append(2 * (w["head.weight"] @ state + w["head.bias"]))
    return np.array(found)


@pytest.mark.slow
def test_it_is_trained_scored_sampled_and_compared(own: Start, texts: str, capfd: pytest.CaptureFixture[str]) -> None:
    summary = train(own("run_dir=run", "ema=0.9"))
    assert summary is not None
    n = 257 * 16 + 6 * 16 * 16 + 6 * 16 + 257 * 16 + 257
    assert (summary["parameters"], summary["flops"]) == (n, 6 * n * summary["tokens"])
    assert f"{n:,} parameters: rnn, width 16, dropout 0.0, context 32" in capfd.readouterr().out

    gpt, tokenizer = gptlab.load("run")
    assert gpt.config == RNNConfig(vocab_size=257)
    tokens = held_out_stream(Path("run/held_out"))[0][:].astype(int).tolist()
    nats = []
    for at in range(0, len(tokens) - 1, 32):
        window = tokens[at : at + 33]
        logits = logits_by_hand(Path("run"), window[:-1])
        nats += list(np.log(np.exp(logits).sum(1)) - logits[range(len(window) - 1), window[1:]])
    scored = gptlab.evaluate("run")
    assert (scored["tokens"], scored["loss"]) == (len(nats), pytest.approx(np.mean(nats), abs=1e-6))
    assert summary["val_loss"] == pytest.approx(np.mean(nats), abs=1e-6)

    # a text longer than the context is read by its last 32 tokens
    ids = tokenizer.encode("the cat")
    for _ in range(40):
        ids.append(int(logits_by_hand(Path("run"), ids[-32:])[-1, :257].argmax()))
    written = tokenizer.decode(ids[7:])
    for decoder in (Greedy(), Beam(beams=1)):
        assert gptlab.generate("run", "the cat", decoder, max_new_tokens=40) == [written]
    alone = [gptlab.generate("run", prompt, TopK(), max_new_tokens=5)[0] for prompt in ("a", "the cat")]
    together = json.loads(
        said_by(capfd, "sample", "run=run", "prompts=[a,the cat]", "max_new_tokens=5", "seed=1337", "json=true")
    )
    assert [each["text"] for each in together["samples"]] == alone

    train(own("run_dir=other", "seed=2", "name=other"))
    train(compose("train", [*own_overrides(texts)[1:], "model=bigram", "name=other", "run_dir=bigram"]))
    compared = json.loads(said_by(capfd, "compare", "a=run", "b=bigram", "json=true"))
    assert [each["run"] for each in compared["runs"]] == ["run", "bigram"]
    table = json.loads(said_by(capfd, "report", "runs=[run,other,bigram]", "pictures=false", "json=true"))["runs"]
    assert {row["run"]: row["model"] for row in table} == {"run": "rnn", "other": "rnn", "bigram": "bigram"}
    assert "model.width" not in table[0] and all(row["flops"] for row in table)


@pytest.mark.slow
def test_resumed_it_ends_as_if_never_stopped(own: Start) -> None:
    ask = ["model.dropout=0.2", "data.micro_batch_size=2", "checkpoint.every_n_steps=2", "logger=csv"]
    require_equal_after_a_kill(own, Path(), 9, *ask)
    for other in ("model=bigram", "optimizer=adam"):
        group, _, option = other.partition("=")
        before = {"model": "rnn", "optimizer": "adamw"}[group]
        with pytest.raises(UserError, match=rf"^{group}={option}: but the run that is resumed has {before}"):
            resumed(Path("run"), other, "budget.steps=9")
    begun = train(own("init_from=whole", "model=bigram", "run_dir=next", "budget.steps=1", "ema=0.999"))
    assert begun is not None and gptlab.load("next")[0].config == gptlab.load("whole")[0].config


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("loss=chunked", "loss=chunked: needs a model with hidden() and logits(), which model=rnn does not have"),
        (
            "optimizer=muon",
            "optimizer=muon: needs a model with blocks, whose matrices it updates, which model=rnn does",
        ),
        ("data.mask_documents=true", "data.mask_documents=true: needs a model with forward(idx, documents), which"),
        ("trainer.activation_checkpointing=true", "trainer.activation_checkpointing=true: needs a model with the swi"),
        ("model.vocab_size=100", "model.vocab_size=100: but the tokenizer has 257 tokens"),
    ],
)
def test_what_it_cannot_do_is_refused(asked: str, why: str, texts: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert said_by(capfd, "train", *own_overrides(texts), *asked.split(), code=2).startswith(f"error: {why}")
    assert not list(Path("outputs").rglob("config.yaml"))


def test_a_config_that_is_none_of_a_model() -> None:
    with pytest.raises(UserError, match=r"^model=Unfinished: has no field vocab_size; give the dataclass"):
        TrainConfig(model=Unfinished())  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_it_has_besides_is_used(texts: str, tmp_path: Path) -> None:
    """A GPT of another package with logits of its own: its loss in chunks is its loss, and its blocks are Muon's."""
    more = ["loss=chunked", "trainer.activation_checkpointing=true"]
    found = {}
    for name, line in {"gpt": ["model=gpt"], "plain": ["model=modern"], "more": ["model=modern", *more]}.items():
        summary = train(
            compose("train", [*tiny_overrides(texts), "optimizer=muon", "model.vocab_size=0", *line, f"run_dir={name}"])
        )
        assert summary is not None
        found[name] = summary["val_loss"]
    assert found["more"] == pytest.approx(found["plain"], abs=1e-6)
    assert abs(found["gpt"] - found["plain"]) > 1e-3
    gpt, _ = gptlab.load("plain")
    assert isinstance(gpt, ModernGPT) and gptlab.evaluate("plain")["loss"] == pytest.approx(found["plain"], abs=1e-6)
    assert gpt.lm_head.weight is gpt.wte.weight
    with pytest.raises(UserError, match=r"^run=plain: its model, modern, is none of Hugging Face's; export a run"):
        from gptlab.interop.exporting import export_run
        from gptlab.runs.run_dir import RunDir

        export_run(RunDir.find("plain"), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.slow
def test_where_it_is_not_enabled_every_verb_says_what_would(
    own: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train(own("run_dir=run", "budget.steps=2"))
    monkeypatch.delitem(registry._OPTIONS["model"], "rnn")
    lines = [
        *("train resume=run budget.steps=3", "train config=run", "train init_from=run", "check resume=run"),
        *(
            "replay run=run step=1",
            "sample run=run",
            "evaluate run=run",
            "compare a=run b=run",
            "export run=run out=hf",
        ),
    ]
    for line in lines:
        refused = said_by(capfd, *line.split(), code=2)
        assert refused.startswith("error: model=rnn: ") and "is not an option here" in refused
        assert refused.endswith("it comes from tests: install it, or give plugins=[tests]\n")
    table = json.loads(said_by(capfd, "report", "runs=run", "pictures=false", "json=true"))["runs"]
    assert table[0]["status"] == "finished" and table[0]["flops"]


def test_a_checkpoint_that_is_not_of_the_model_here(own: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    train(own("run_dir=run", "budget.steps=1"))
    path = Path("run/checkpoints/last.ckpt")
    saved = torch.load(path, weights_only=True)
    for settings, why in (
        ({"width": 10**6}, "RuntimeError: .+size mismatch"),  # refused before so much memory is asked for
        ({"depth": 3}, "TypeError: .+depth"),
        ({"width": "wide"}, "TypeError: "),
    ):
        save_by_hand({**saved, "model": saved["model"] | settings}, path)
        with pytest.raises(UserError, match=rf"^model=rnn: .+does not take what is in .+last.ckpt \({why}"):
            gptlab.load("run")
    save_by_hand({**saved, "model_option": "os\nsystem"}, path)
    with pytest.raises(UserError, match=r"^model='os\\nsystem': "):
        gptlab.load("run")
