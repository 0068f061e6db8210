"""The verb `rate`: it makes the texts, and says what raters have said."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from gptlab.app.questions import next_question
from gptlab.app.store import Source, Study
from gptlab.commands.main import main
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptlab.app.server.serve", lambda app, sock, token, say: say("http://here/"))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_server")
def test_a_study_of_runs_and_decoders(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, seed in {"a": 1, "b": 2}.items():
        train(tiny(f"run_dir={tmp_path}/{name}", f"name={name}", f"seed={seed}", "budget.steps=2"))
    begin = ["rate", "study=new/s.db", "runs=[a,b]", "decoders=[greedy,top_k]", "num_prompts=3", "max_new_tokens=5"]
    assert main([*begin, "port=0"]) == 0
    assert "3 prompts, 4 sources, 0 answers" in capfd.readouterr().out
    study = Study(Path("new/s.db"))
    assert [each.name for each in study.sources()] == ["a, greedy", "a, top_k", "b, greedy", "b, top_k"]
    prompts, texts = study.prompts(), study.texts()
    assert len(prompts) == 3 and len(texts) == 12
    (drawn,) = sample(compose("sample", ["run=b", f"prompt='{prompts[1]}'", "decoder=top_k", "max_new_tokens=5"]))[
        "samples"
    ]
    assert texts[1, "b, top_k"] == drawn["text"]
    for rater in map(study.rater, ("Ann", "Bob")):
        while question := next_question(study, rater):
            left, right = (study.text(each)[1] for each in (question.left, question.right) if each)
            study.answer(rater, question.id, "left" if left > right else "right")  # by the alphabet
    for name, acc in {"a": 0.25, "b": 0.5}.items():
        (tmp_path / name / "tasks").mkdir()
        (tmp_path / name / "tasks/qa.json").write_text(json.dumps({"acc": acc, "items": 4, "per_item": []}))
    (tmp_path / "a/tasks/broken.json").write_text("{")
    capfd.readouterr()
    assert main(["rate", "study=new/s.db", "report=true", "preferences=pairs.jsonl", "resamples=100", "json=true"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found == {"study": "new/s.db", **json.loads(Path("new/s.json").read_text())}
    rates = {row["source"]: row["win_rate"]["value"] for row in found["standings"]}
    by_hand = spearmanr([rates[name] for name in rates], [0.25 if name[0] == "a" else 0.5 for name in rates]).statistic
    assert found["correlation_with_tasks"] == {"qa acc": pytest.approx(by_hand)}
    assert (found["raters"], len(found["standings"])) == (2, 4) and found["agreement"]["choice"] == 1
    assert found["standings"][0]["run"] in ("a", "b") and found["standings"][0]["val_perplexity"] > 1
    rows = list(csv.DictReader(Path("new/s.csv").read_text().splitlines()))
    assert len(rows) == found["answers"] and {row["rater"] for row in rows} == {"Ann", "Bob"}
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    said = {prompt: [text for (p, _), text in texts.items() if p == prompt and text.strip()] for prompt in prompts}
    expected = [{a, b} for of in said.values() for a, b in itertools.combinations(of, 2) if a != b]
    assert len(pairs) == len(expected) > 5 and all({p["chosen"], p["rejected"]} in expected for p in pairs)
    assert all(pair["chosen"] > pair["rejected"] and pair["prompt"] in prompts.values() for pair in pairs)


@pytest.mark.usefixtures("_no_server")
def test_a_study_of_texts_by_criteria(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, prompts in {"ours": "abc", "theirs": "bcd"}.items():
        said = [{"prompt": prompt, "text": f"{prompt} of {name}"} for prompt in prompts]
        Path(f"{name}.json").write_text(json.dumps({"samples": [*said, {"prompt": "b", "text": "a second one"}]}))
    assert (
        main(["rate", "study=s.db", "texts=[ours.json,theirs.json]", "mode=rubric", "criteria=[fluency]", "port=0"])
        == 0
    )
    study = Study(Path("s.db"))
    assert list(study.prompts().values()) == ["b", "c"] and study.texts()[1, "theirs"] == "b of theirs"
    assert main(["rate", "study=s.db", "report=true"]) == 2
    assert "has no answers yet" in capfd.readouterr().err
    rater = study.rater("Ann")
    while question := next_question(study, rater):
        study.answer(rater, question.id, {"fluency": 5 if "ours" in study.text(question.left)[1] else 2})
    capfd.readouterr()
    assert main(["rate", "study=s.db", "report=true", "resamples=100", "json=true"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {name: row["fluency"]["value"] for name, row in found["scores"].items()} == {"ours": 5.0, "theirs": 2.0}
    assert "standings" not in found


def test_pairs_with_a_blank_text_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [Source(name, {}) for name in "ab"]
    texts = {"one": {"a": " \n", "b": "words"}, "two": {"a": "some", "b": "others"}}
    study = Study.create(Path("s.db"), {"mode": "pairs", "criteria": [], "seed": 1}, sources, texts)
    rater = study.rater("Ann")
    while question := next_question(study, rater):
        study.answer(rater, question.id, "left")
    assert main(["rate", "study=s.db", "preferences=pairs.jsonl"]) == 0
    (pair,) = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert pair["prompt"] == "two" and {pair["chosen"], pair["rejected"]} == {"some", "others"}
