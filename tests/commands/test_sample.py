import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.decoding.decoders import Beam
from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.errors import UserError
from gptlab.files import followed
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import PADDED, raise_padding

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def run(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny())
    capsys.readouterr()


def ask(*more: str) -> dict[str, object]:
    return sample(compose("sample", list(more)))


def texts(*more: str) -> list[str]:
    return [found["text"] for found in ask(*more)["samples"]]  # type: ignore[attr-defined]


def test_prompts_of_a_batch_and_their_samples(run: None, capsys: pytest.CaptureFixture[str]) -> None:
    both = texts("prompts=[the cat,a]", "num_samples=2", "max_new_tokens=12")
    assert len(both) == 4 and len(set(both)) == 4
    assert texts("prompt=the cat", "num_samples=2", "max_new_tokens=12") == both[:2]
    assert texts("prompt=the cat", "max_new_tokens=12") == both[:1]
    assert capsys.readouterr().out.count("the cat") == 2 + 2 + 1


def test_another_order_of_prompts_changes_no_text(run: None) -> None:
    ask = ["num_samples=2", "max_new_tokens=12", "decoder=sample"]
    first = texts("prompts=[the cat,a,on]", *ask)
    assert texts("prompts=[on,the cat,a]", *ask) == [*first[4:], *first[:4]]
    assert len(set(first)) == 6


@pytest.mark.slow
def test_log_probabilities_sum_to_the_likelihood(run: None) -> None:
    (found,) = ask("prompt=the cat", "max_new_tokens=8", "decoder=sample")["samples"]  # type: ignore[misc]
    gpt, tokenizer = gptlab.load()
    with torch.no_grad():
        expected, _ = loglikelihoods(gpt, [(tokenizer.encode("the cat"), found["ids"])], gpt.config.block_size)[0]
    assert found["logprob"] == pytest.approx(sum(found["logprobs"])) == pytest.approx(expected, abs=1e-3)


def test_a_stop_string_ends_a_text(run: None) -> None:
    free = texts("prompt=the cat", "max_new_tokens=30", "seed=5")[0]
    stop = free[10:12]
    assert texts("prompt=the cat", "max_new_tokens=30", "seed=5", f"stop=['{stop}']")[0] == free[: free.index(stop)]


def test_logits_processors_come_before_the_decoder_and_are_in_the_record(run: None) -> None:
    result = ask(
        "prompt=the cat",
        "max_new_tokens=30",
        "decoder=greedy",
        "logits_processors.banned=[e,97]",
        "logits_processors.presence=1",
    )
    assert result["logits_processors"] == ["presence", "banned"]
    text = result["samples"][0]["text"]  # type: ignore[index]
    assert "e" not in text and "a" not in text


def test_beam_search_finds_what_is_at_least_as_probable_as_greedy(run: None) -> None:
    greedy = ask("prompt=the cat", "max_new_tokens=6", "decoder=greedy")["samples"][0]  # type: ignore[index]
    beams = ask("prompt=the cat", "max_new_tokens=6", "decoder=beam", "num_samples=2")["samples"]
    assert beams[0]["logprob"] >= greedy["logprob"] - 1e-4 and beams[0]["score"] >= beams[1]["score"]  # type: ignore[index]


def test_bf16(run: None) -> None:
    assert len(texts("prompt=the cat", "max_new_tokens=5", "precision=bf16-true")[0]) > 0


def test_a_hint_about_temperature_and_top_p(run: None, capsys: pytest.CaptureFixture[str]) -> None:
    ask("prompt=a", "max_new_tokens=2", "decoder=top_p", "decoder.temperature=0.7")
    assert capsys.readouterr().err.count("hint: ") == 1
    ask("prompt=a", "max_new_tokens=2", "decoder=top_p")
    assert "hint" not in capsys.readouterr().err


def test_explain_shows_what_each_token_was_chosen_from(run: None, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = ask('prompt="<b>&"', "max_new_tokens=4", "explain=true", "decoder.k=7")["samples"]  # type: ignore[misc]
    for step, token, logprob in zip(found["steps"], found["ids"], found["logprobs"], strict=True):
        assert step["token"] == token and step["kept"] == 7 and step["rank"] <= 7
        chosen = next(other for other in step["alternatives"] if other["token"] == token)
        assert chosen["raw"] == pytest.approx(math.exp(logprob), rel=1e-4) and chosen["final"] >= chosen["raw"]
    page = followed(Path("outputs/latest/explain.html")).read_text()
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page  # nothing of the text is taken for the page's own
    assert "http" not in page.replace("http-equiv", "")  # self-contained
    assert "rank" in capsys.readouterr().out


def test_a_sweep_becomes_one_table(run: None) -> None:
    from gptlab.commands.sample import frontier

    options = [["decoder=greedy"], ["decoder=sample"], ["decoder=top_k", "decoder.k=3"]]
    asked = [["prompt=the cat", "num_samples=3", "max_new_tokens=20", *option] for option in options]
    results = [{**ask(*overrides), "overrides": overrides} for overrides in asked]
    rows = frontier(results)["frontier"]
    assert [row["decoder"] for row in rows] == ["greedy", "sample", "top_k decoder.k=3"]
    greedy, drawn, few = rows
    assert greedy["self_bleu"] == pytest.approx(1.0) and greedy["distinct_2"] < few["distinct_2"] < drawn["distinct_2"]
    assert greedy["perplexity"] < few["perplexity"] < drawn["perplexity"]
    samples = results[1]["samples"]
    tokens = sum(len(found["ids"]) for found in samples)  # type: ignore[attr-defined]
    nats = -sum(found["logprob"] for found in samples)  # type: ignore[attr-defined]
    assert drawn["perplexity"] == pytest.approx(math.exp(nats / tokens))
    assert isinstance(greedy["longest_copy"], int)
    folder = followed(Path("outputs/latest"))
    assert json.loads((folder / "frontier.json").read_text()) == rows
    assert (folder / "frontier.html").read_text().count("<circle") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["prompt=a", "prompts=[b]"], r"prompts=\['b'\]: and prompt are given; "),
        (["stop=['']"], r"stop=\[''\]: has an empty string"),
        (["seed=-1"], "seed=-1: is negative; "),
        (["overflow=grow"], "overflow=grow: no such option; choose one of crop, ring, refuse"),
        (["overflow=ring"], "overflow=ring: learned positions end at block_size=32; choose crop, or a model with"),
        (["sinks=4"], "sinks=4: have no effect with overflow=crop; add overflow=ring, or leave them out"),
        (["overflow=ring", "sinks=-1"], "sinks=-1: is negative; 0 turns them off, 4 is usual"),
        (["overflow=ring", "sinks=32"], "sinks=32: leaves no place for other tokens in block_size=32; 4 is usual"),
        (["precision=8"], "precision=8: no such option; "),
        (["logits_processors.banned=[qz]"], "logits_processors.banned=qz: is 2 tokens; "),
        (["logits_processors.banned=[999]"], "logits_processors.banned=999: is not one of the 257 ids; "),
        (["decoder=beam", "num_samples=9"], "num_samples=9: beam search with 4 beams finds no more; "),
        (["decoder=beam", "stop=[x]"], "stop=given: beam search searches the model's own distribution; "),
        (["prompt=the cat", "overflow=refuse", "max_new_tokens=99"], "prompt=7 tokens: and 99 new ones do not fit"),
    ],
)
def test_mistakes(overrides: list[str], why: str, run: None) -> None:
    with pytest.raises(UserError, match=f"^{why}"):
        ask(*overrides)


@pytest.mark.parametrize("decoder", ["greedy", "sample", "beam"])
def test_ids_beyond_the_tokenizer_are_never_drawn(decoder: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*PADDED))
    raise_padding(tmp_path / "run/checkpoints/last.ckpt")
    gpt, tokenizer = gptlab.load()
    ids = tokenizer.encode("the cat")
    with torch.no_grad():
        assert gpt(torch.tensor([ids])).softmax(-1)[..., 257:].sum(-1).min() > 0.999
    found = ask("prompt=the cat", f"decoder={decoder}", "max_new_tokens=40")["samples"]
    new = found[0]["ids"]  # type: ignore[index]
    assert len(new) > 5 and max(new) < 257


@pytest.mark.slow
def test_texts_past_the_context_in_a_ring(tiny: Tiny) -> None:
    """Three windows of 32: the same by the command and the API, of several prompts and samples and of one."""
    train(tiny("model.positions=rope"))
    asked = ["max_new_tokens=96", "seed=3"]
    both = texts("prompts=[the cat,a]", "num_samples=2", "overflow=ring", *asked)
    assert texts("prompt=a", "num_samples=2", "overflow=ring", *asked) == both[2:]
    more = {"max_new_tokens": 96, "num_samples": 2, "seed": 3}
    assert gptlab.generate("latest", "a", overflow="ring", **more) == both[2:]  # type: ignore[arg-type]
    assert texts("prompt=a", "num_samples=2", *asked) != both[2:]
    sinks = texts("prompt=a", "num_samples=2", "overflow=ring", "sinks=4", *asked)
    assert sinks == gptlab.generate("latest", "a", overflow="ring", sinks=4, **more)  # type: ignore[arg-type]
    assert sinks != both[2:]
    for number in (0, 4):
        (best,) = texts("prompt=a", "decoder=beam", "overflow=ring", f"sinks={number}", "max_new_tokens=50")
        assert [best] == gptlab.generate("latest", "a", Beam(), overflow="ring", sinks=number, max_new_tokens=50)
    with pytest.raises(UserError, match="^overflow=end: no such option; choose one of crop, ring, refuse"):
        gptlab.generate("latest", "a", overflow="end")
    with pytest.raises(UserError, match="^sinks=32: leaves no place for other tokens in block_size=32; "):
        gptlab.generate("latest", "a", overflow="ring", sinks=32)


@pytest.mark.slow
def test_a_text_begins_at_the_separator(run: None) -> None:
    """start=eot is the token of evaluation before a document: without a prompt, and before one."""
    gpt, tokenizer = gptlab.load("run")
    for prompt in ("", "the"):
        asked = [
            "run=run",
            "start=eot",
            "decoder=greedy",
            "max_new_tokens=1",
            *([f"prompt={prompt}"] if prompt else []),
        ]
        (found,) = ask(*asked)["samples"]  # type: ignore[misc]
        ids = [tokenizer.eot, *tokenizer.encode(prompt)]
        best = int(gpt(torch.tensor([ids]))[0, -1].argmax())
        assert found["ids"] == ([] if best == tokenizer.eot else [best]) and found["prompt"] == prompt
    assert texts("start=eot", "max_new_tokens=9") == gptlab.generate("run", "", start="eot", max_new_tokens=9)
    with pytest.raises(UserError, match="^start=bos: no such option"):
        compose("sample", ["start=bos"])
