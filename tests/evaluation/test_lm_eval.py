"""Tasks of lm-eval: its own adapter of Hugging Face models gives the same scores of the exported model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.evaluation import core
from gptlab.evaluation.kept_scores import kept_scores
from gptlab.evaluation.statistics import mcnemar
from gptlab.training.run import train
from tests.conftest import WORDS, tiny_overrides, working_in, write_texts
from tests.tasks.test_sft import LEARN, T, talks, write

lm_eval = pytest.importorskip("lm_eval")
huggingface = pytest.importorskip("lm_eval.models.huggingface")

DATA = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: items.jsonl\ntest_split: test\n"
METRICS = "metric_list:\n" + "".join(
    f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: true\n" for name in ("acc", "acc_norm")
)
FILES = {
    "words": f"task: words\n{DATA}output_type: multiple_choice\ndoc_to_text: '{{{{context}}}}'\n"
    f"doc_to_choice: '{{{{choices}}}}'\ndoc_to_target: answer\n{METRICS}",
    "texts": f"task: texts\n{DATA}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{text}}}}'\n"
    "metric_list:\n  - metric: word_perplexity\n  - metric: byte_perplexity\n  - metric: bits_per_byte\n",
    "answers": f"task: answers\n{DATA}output_type: generate_until\ndoc_to_text: '{{{{context}}}}'\n"
    "doc_to_target: '{{choices[0]}}'\ngeneration_kwargs:\n  until: ['a a a']\n  max_gen_toks: 12\n  do_sample: false\n"
    "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n",
}
NAMES = ["words", "texts", "answers"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, the same model for transformers, and three tasks of lm-eval over one local file."""
    folder = tmp_path_factory.mktemp("lm_eval")
    with working_in(folder):
        texts = write_texts(folder / "texts")
        more = ["tokenizer=bpe", "tokenizer.vocab_size=300", "logger=csv", "optimizer.lr=0.02", "budget.steps=20"]
        train(compose("train", [*tiny_overrides(texts), *more, "run_dir=run"]))
        export(compose("export", ["run=run", "out=hf"]))
    items = [
        {
            "context": " ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(1 + i % 9)),
            "choices": [WORDS[(i + k * k) % len(WORDS)] + " on" * (k % 2) for k in range(3)],
            "answer": i % 3,
            "text": " ".join(WORDS[(i * 3 + j * j) % len(WORDS)] for j in range(5 + 9 * i)),
        }
        for i in range(12)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    (folder / "own").mkdir()
    for name, text in FILES.items():
        (folder / f"own/{name}.yaml").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))


def ask(*overrides: str) -> dict[str, Any]:
    return evaluate(compose("evaluate", list(overrides)))["tasks"]


def theirs(names: list[str], hf: str = "hf", size: int = 32, **settings: Any) -> dict[str, Any]:
    """Return the results, and the answers to each item, of lm-eval with its own adapter."""
    model = huggingface.HFLM(pretrained=hf, device="cpu", dtype="float32", batch_size=4, max_length=size)
    manager = lm_eval.tasks.TaskManager(include_path="own", include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)


def test_the_scores_of_lm_eval_s_own_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    found, expected = ask("run=run", f"tasks=[{','.join(NAMES)},cloze]", "tasks_dir=own"), theirs(NAMES)
    said = capsys.readouterr().out
    assert set(found) == {*NAMES, "cloze"} and "bits_per_byte" in said
    for name in NAMES:
        scores = {key: value for key, value in expected["results"][name].items() if "," in key and "stderr" not in key}
        assert scores and {key: found[name][key] for key in scores} == pytest.approx(scores, rel=1e-5), name
        kept = json.loads(Path(f"run/tasks/{name}.json").read_text())
        per_item, samples = kept.pop("per_item"), expected["samples"][name]
        config = kept.pop("config")
        assert {**kept, "file": f"run/tasks/{name}.json"} == found[name] and config["task"] == name
        answers = per_item["answers,none"]
        for own, sample in zip(answers, samples, strict=True):
            if name == "answers":
                assert own == sample["filtered_resps"]  # the texts that it has written
            else:
                flat = [each[0] if name == "words" else each for each in own]
                other = [each[0] if name == "words" else each for each in sample["filtered_resps"]]
                assert flat == pytest.approx(other, abs=1e-4)
    assert found["words"]["acc,none"] == sum(kept_of("words")["acc,none"]) / 12
    items = [json.loads(line) for line in Path("items.jsonl").read_text().splitlines()]
    right = [
        float(each["filtered_resps"][i["answer"]][0])
        for i, each in zip(items, expected["samples"]["words"], strict=True)
    ]
    size = sum(len(" " + item["choices"][item["answer"]]) for item in items)
    assert found["words"]["answer_bits_per_byte,none"] == pytest.approx(-sum(right) / np.log(2) / size, rel=1e-5)
    assert "answer_bits_per_byte,none" not in found["answers"]


def kept_of(name: str, run: str = "run") -> dict[str, Any]:
    return json.loads(Path(f"{run}/tasks/{name}.json").read_text())["per_item"]


def test_runs_are_compared_item_by_item(capsys: pytest.CaptureFixture[str]) -> None:
    """By the items' own figures, which are those that `evaluate` keeps."""
    texts = "[texts/*.txt]"
    train(compose("train", [*tiny_overrides(texts), "tokenizer=bpe", "tokenizer.vocab_size=300", "run_dir=other"]))
    asked = ["a=run", "b=other", "tasks=[words,answers,cloze]", "tasks_dir=own", "resamples=200"]
    found = compare(compose("compare", asked))["tasks"]
    said = capsys.readouterr().out
    assert list(found) == ["cloze", "words", "answers"] and "acc,none" in said
    alone = {run: ask(f"run={run}", "tasks=[words,answers]", "tasks_dir=own") for run in ("run", "other")}
    for name, metric in {"words": "acc,none", "answers": "exact_match,none"}.items():
        a, b = (np.array(kept_of(name, run)[metric]) for run in ("run", "other"))
        assert found[name]["difference"]["value"] == pytest.approx(b.mean() - a.mean())
        assert (found[name]["metric"], found[name]["better"], found[name]["units"]["number"]) == (metric, "higher", 12)
        assert found[name]["mcnemar"] == mcnemar(a, b)
    cost = "metric=answer_bits_per_byte,none"
    by = compare(compose("compare", [*asked[:2], "tasks=[words]", *asked[3:], cost]))["tasks"]["words"]
    a, b = (alone[run]["words"][cost[7:]] for run in ("run", "other"))
    assert by["difference"]["value"] == pytest.approx(b - a) and by["better"] == "lower" and by["mcnemar"] is None
    with pytest.raises(UserError, match="metric=no,none: the task words has no such metric; choose one of acc,none"):
        compare(compose("compare", [*asked[:2], "tasks=[words]", *asked[3:], "metric=no,none"]))
    with pytest.raises(UserError, match="tasks=texts: has no figures of single items"):
        compare(compose("compare", [*asked[:2], "tasks=[texts]", *asked[3:]]))


def test_core_is_the_mean_of_centred_accuracies(capsys: pytest.CaptureFixture[str]) -> None:
    """Of local tasks by the names of lm-eval's; each is asked with CORE's number of answered items before it."""
    Path("core").mkdir()
    for each in core.TASKS:
        kind = "words" if each.shots in (0, 3) or each.task.startswith("arc") else "answers"
        text = FILES[kind].replace(f"task: {kind}", f"task: {each.task}") + "fewshot_split: test\n"
        Path(f"core/{each.task}.yaml").write_text(text)
    found = ask("run=run", "tasks=[core]", "tasks_dir=core", "batch_size=32")
    assert list(found) == [*(each.title for each in core.TASKS), "core"] and len(found) == 22
    parts = []
    for each in core.TASKS:
        kept = json.loads(Path(f"run/tasks/{each.title}.json").read_text())
        choices, key = ("acc_norm,none", 1 / 3) if "acc_norm,none" in kept else ("exact_match,none", 0.0)
        parts.append((kept[choices] - key) / (1 - key))
        assert kept["centred_accuracy"] == pytest.approx(parts[-1]) and kept["chance"] == pytest.approx(key)
        assert kept["protocol"]["num_fewshot"] == each.shots == kept["config"]["num_fewshot"]
    assert found["core"]["centred_accuracy,none"] == pytest.approx(np.mean(parts))
    assert set(found["core"]["parts"]) == {each.name for each in core.TASKS}
    assert "centred_accuracy" in capsys.readouterr().out
    assert kept_scores(Path("run"))["core centred_accuracy,none"] == found["core"]["centred_accuracy,none"]


def test_bits_per_byte_in_sliding_windows_is_that_of_a_rolling_task() -> None:
    """Of one document without an end, which `evaluate` does not predict either."""
    text = json.loads(Path("items.jsonl").read_text().splitlines()[-1])["text"]
    Path("long.jsonl").write_text(json.dumps({"text": text}) + "\n")
    Path("long.txt").write_text(text)
    Path("own/long.yaml").write_text(FILES["texts"].replace("task: texts", "task: long").replace("items", "long"))
    asked = ["data=text", "data.files=[long.txt]", "data.val_fraction=1", "protocol=sliding", "stride=32"]
    own = evaluate(compose("evaluate", ["run=run", *asked]))
    assert own["bytes"] == len(text) and own["tokens"] > 3 * 32
    expected = theirs(["long"])["results"]["long"]["bits_per_byte,none"]
    assert own["bits_per_byte"] == pytest.approx(expected, abs=1e-6)


def test_chat_in_the_template_of_the_run() -> None:
    """The texts that both ask with are the same, and so are the answers."""
    write(Path("talk.jsonl"), talks())
    train(compose("train", [*LEARN, "run_dir=talk", "logger=csv"]))
    export(compose("export", ["run=talk", "out=hf-talk"]))
    shots = FILES["words"].replace("task: words", "task: shots") + "num_fewshot: 1\nfewshot_split: test\n"
    Path("own/shots.yaml").write_text(shots)  # the example before is a turn, with the special token that ends it
    found = ask("run=talk", "tasks=[shots,answers]", "tasks_dir=own", "chat=true")
    expected = theirs(["shots", "answers"], "hf-talk", T, apply_chat_template=True)
    assert "<|endoftext|>" in expected["samples"]["shots"][0]["arguments"][0][0]
    assert found["shots"]["protocol"]["chat"] is True
    for name in ("shots", "answers"):
        key = "acc,none" if name == "shots" else "exact_match,none"
        assert found[name][key] == expected["results"][name][key]
    own, other = kept_of("shots", "talk")["answers,none"], expected["samples"]["shots"]
    for each, sample in zip(own, other, strict=True):
        assert [a for a, _ in each] == pytest.approx([float(a) for a, _ in sample["filtered_resps"]], abs=1e-4)
    texts = [sample["filtered_resps"] for sample in expected["samples"]["answers"]]
    assert kept_of("answers", "talk")["answers,none"] == texts


MISTAKES = [
    (
        ["tasks=[wrds]", "tasks_dir=own"],
        "tasks=wrds: no such task or file .did you mean words.*; choose one of .+, or a task of lm-eval$",
    ),
    (["tasks=[words,words]", "tasks_dir=own"], "tasks=words: is named twice"),
    (["tasks=[answers]", "tasks_dir=own", "block_size=12"], "tasks=answers: writes 12 tokens, which leaves no room"),
    (["tasks=[away]", "tasks_dir=own"], "tasks=away: its data cannot be had .+network"),
    (["tasks=[core]"], "tasks=core: its data cannot be had .+ go online once, if they come from the network"),
    (["tasks=[broken]", "tasks_dir=own"], "tasks=broken: fails .+; mend the task"),
    (
        ["tasks=[words]", "tasks_dir=own", "chat=true"],
        "run=run: neither its task nor its tokenizer has a chat template",
    ),
]


@pytest.mark.parametrize(("given", "line"), MISTAKES, ids=[" ".join(given) for given, _ in MISTAKES])
def test_one_line_says_what_is_wrong(given: list[str], line: str) -> None:
    Path("own/away.yaml").write_text(FILES["words"].replace("task: words", "task: away").replace("json\n", "no/data\n"))
    Path("own/broken.yaml").write_text(
        FILES["words"].replace("task: words", "task: broken").replace("{{cont", "{{con(")
    )
    before = sorted(Path("run/tasks").glob("*"))
    with pytest.raises(UserError, match=f"^{line}") as error:
        ask("run=run", *given)
    assert "\n" not in str(error.value) and sorted(Path("run/tasks").glob("*")) == before
