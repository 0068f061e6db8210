"""Values reach Hydra as they were meant."""

from pathlib import Path

import pytest

from gptlab.config import compose
from gptlab.config.overrides import quote_values, quoted, unquoted
from gptlab.runs.config_file import record, write_config
from gptlab.training.config import TrainConfig

NAMES = [
    "plain",
    "a b",
    "a  b",
    "a=b",
    "0-optimizer.lr=1e-3,seed=2",
    "a,b",
    "it's",
    'say "hi"',
    "mixed'\"quotes",
    "(2)",
    "a (2)",
    "[x]",
    "[",
    "]",
    "{x}",
    "#1",
    "a&b",
    "a;b",
    "a!b",
    "Größe",
    "日本語",
    "back\\slash",
    "end\\",
    "\\'",
    "${HOME}",
    "${seed}",
    "$seed",
    "a:b",
    "a~b",
    "~a",
    "+a",
    "-a",
    "1e5",
    "1_000",
    "007",
    "true",
    "nan",
    "Once, upon a time: (he) said 'no'",
    " spaces ",
    "x'y&z#[{",
    "choice(1,2)",
    "100%",
    "a\tb",
    "line\nbreak",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_name_reaches_its_key(name: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/{name}"
    assert unquoted(quoted(path)) == path
    in_quotes = compose("train", [f"run_dir={quoted(path)}", "data=text", f"data.files=[{quoted(path)}]"])
    assert (in_quotes.run_dir, in_quotes.data.files) == (path, [path])
    if "${" not in name:  # which Hydra looks up where there are no quotes
        bare = compose("sample", [f"run={path}", f"prompt={name}", f"stop=[{quoted(name)}]"])
        assert (bare.run, bare.prompt, bare.stop) == (path, name, [name])


@pytest.mark.parametrize("name", NAMES)
def test_a_config_in_a_folder_of_any_name_is_repeated(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    write_config(folder / "config.yaml", record(TrainConfig(seed=5)))
    assert compose("train", [f"config={folder}/config.yaml", "budget.steps=3"]).seed == 5


def test_lists_of_texts() -> None:
    files = compose("train", ["data=text", "data.files=[Bücher/*.txt, a (1).txt,'x, y.txt',1e5]"]).data.files
    assert files == ["Bücher/*.txt", "a (1).txt", "x, y.txt", "1e5"]
    assert compose("compare", ["a=[Läufe/1,Läufe/2]", "b=Läufe/0-seed=1,lr=2"]).a == ["Läufe/1", "Läufe/2"]
    assert compose("train", ["sample_prompts=[]"]).sample_prompts == []


@pytest.mark.parametrize("name", ["my.txt", "a,b (1).txt", "1e5", "[draft].txt", "it's"])
def test_one_text_of_a_list_needs_no_brackets(name: str) -> None:
    assert compose("train", ["data=text", f"data.files={name}"]).data.files == [name]
    assert compose("train", ["data=text", f"data.files={quoted(name)}"]).data.files == [name]


def test_single_texts_of_a_list_are_swept_over() -> None:
    swept = quote_values(["data.files=a.txt,'b,c.txt'", "data.files=[a,b],[c]"], TrainConfig, multirun=True)
    assert swept == ["data.files=['a.txt'],['b,c.txt']", "data.files=[a,b],[c]"]


def test_what_hydra_means_stays() -> None:
    kept = [
        "seed=2",
        "prompt='a=b'",
        "prompt=null",
        "data=text",
        "+data@data.parts.a=verdict",
        "hydra/launcher=local",
        "optimizer.lr=1e-3",
        "optimizer.lr=${seed}",
        "trainer.devices=[0,1]",
        "model.bias=true",
        "--config-dir",
        "a=b=c",
        "choice(1=2)",
        "~data",
    ]
    assert quote_values(kept, TrainConfig) == kept
    swept = ["seed=1,2", "optimizer.lr=interval(1e-4,1e-2)", "name=choice(a,b)", "name=a,b", "model=nano,micro"]
    assert quote_values(swept, TrainConfig, multirun=True) == swept
    assert quote_values(["name=Ä,b", "init_from=0-a=1,b=2"], TrainConfig, multirun=True) == [
        "name='Ä',b",
        "init_from='0-a=1,b=2'",
    ]
    assert compose("train", ["debug=nan"]).trainer.detect_anomaly
