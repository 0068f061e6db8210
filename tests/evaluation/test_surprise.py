import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.files import followed
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import PADDED, raise_padding, save_by_hand


def ask(*more: str) -> dict[str, object]:
    return evaluate(compose("evaluate", list(more)))


def test_every_token_of_a_text_by_its_surprise(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny())
    text = 'the cat & the <i>dog</i> "ran"\n' * 3
    (tmp_path / "a.txt").write_text(text)
    result = ask("explain=true", "text=a.txt")
    gpt, tokenizer = gptlab.load()
    ids = [tokenizer.eot, *tokenizer.encode(text)]
    nats = []
    with torch.no_grad():
        for t in range(1, len(ids)):  # windows of block_size, as evaluation has them
            start = (t - 1) // 32 * 32
            nats.append(-gpt(torch.tensor([ids[start:t]]))[0, -1].double().log_softmax(-1)[ids[t]].item())
    assert result["tokens"] == len(nats)
    assert result["loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    page = followed(tmp_path / "outputs/latest/surprise.html").read_text()
    assert page.count('class="t"') == len(nats) and f"{nats[0]:.2f} nats" in page
    assert "<i>" not in page and "&lt;" in page


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["explain=true"], "explain=True: goes with text=FILE; "),
        (["text=a.txt"], "explain=False: goes with text=FILE; "),
        (["explain=true", "text=none.txt"], "text=none.txt: no such file; "),
        (["explain=true", "text=empty.txt"], "text=empty.txt: is empty; "),
    ],
)
def test_mistakes(overrides: list[str], why: str, tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny("budget.steps=1"))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=f"^{why}"):
        ask(*overrides)


def test_colours_go_from_white_to_orange() -> None:
    from gptlab.reporting.html import colour

    assert colour(0.0) == "rgb(255,255,255)" and colour(10.0) == colour(99.0) == "rgb(255,125,40)"
    assert math.isclose(int(colour(5.0).split(",")[1]), 190)


def test_explained_loss_is_the_evaluated_one(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Also where padding ids take nearly all of the probability, and a softmax in fp32 gives the tokens none."""
    train(tiny(*PADDED, "data.mask_documents=true"))
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    raise_padding(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"]["gpt.lm_head.weight"][257:] = 5.0
    save_by_hand(saved, checkpoint)
    (tmp_path / "one.txt").write_text("the cat sat on the mat. " * 9)
    scored = evaluate(compose("evaluate", ["run=run", "data=text", "data.files=[one.txt]", "data.val_fraction=1"]))
    explained = evaluate(compose("evaluate", ["run=run", "explain=true", "text=one.txt"]))
    assert math.isfinite(explained["loss"]) and scored["loss"] > 104  # beyond what exp of a float32 can say
    assert explained["loss"] == pytest.approx(scored["loss"], rel=1e-12) and explained["tokens"] == scored["tokens"]
    assert {key: explained["protocol"][key] for key in scored["protocol"]} == scored["protocol"]
