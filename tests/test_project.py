"""What stands around the code: links, versions, the container, hosted CI, and the reference made from docstrings."""

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gptlab.version import VERSION
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def pythons() -> list[str]:
    """Return the versions of Python that gptlab says it supports."""
    found = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"])
    assert found
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_readme_s_figures_are_those_of_its_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    trust, comparing, book = ((ROOT / f"docs/{name}.md").read_text("utf-8") for name in ("trust", "comparing", "book"))
    assert "20 times in each run of CI, 200 on request" in readme and "20 in CI, 200" in trust
    assert "each of 13 hooks and 8 file operations (an eighth of the kills in CI, all on request)" in readme
    assert "every one of 13 hooks and 8 file operations | each hook once and an eighth of the kills in CI" in trust
    assert "93 to 95% of the time" in readme and "95.0%, 93.2% and 94.8% of the time" in comparing
    assert (
        "a loss of 10.7940, a perplexity of 48,726" in readme
        and "loss 10.7940 nats per token, perplexity 48,726" in book
    )
    results = json.loads((ROOT / "benchmarks/results/train-w2-batch-8-2-cores.json").read_text(encoding="utf-8"))
    best: dict[str, float] = {}  # of each program, plain, in bf16, compiled
    for name, found in results["workloads"][0]["candidates"].items():
        program = name.removesuffix("_compile").removesuffix("_bf16")
        best[program] = max(best.get(program, 0), found["tokens_per_second"]["median"])
    (row,) = re.findall(r"^\| tokens/s on two CPU cores.*$", readme, re.MULTILINE)
    shown = [int(number) for number in re.findall(r"\*{0,2}\b(\d{3})\b", row.partition("batch 8")[2])]
    assert shown == [round(best[each]) for each in ("gptlab", "nanogpt", "litgpt", "hf_trainer")]


def test_one_version_and_its_changes() -> None:
    assert PYPROJECT["project"]["version"] == VERSION
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [version for version in versions if version != "Unreleased"]
    assert released[0] == VERSION and "Unreleased" in versions[:1]
    assert released == sorted(released, key=lambda version: tuple(map(int, version.split("."))), reverse=True)


def test_the_supported_pythons_are_those_that_hosted_ci_tries() -> None:
    named = {f"Programming Language :: Python :: {version}" for version in pythons()}
    stated = {each for each in PYPROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", each)}
    assert stated == named
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == pythons()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_container_has_all_that_the_build_reads() -> None:
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PYPROJECT["project"]
    read = [*wheel["packages"], *wheel["force-include"], project["readme"], *project["license-files"], "pyproject.toml"]
    assert [path for path in read if path.split("/")[0] not in copied] == []
    (extras,) = re.findall(r"'\.\[(\S+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert version in pythons()
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000"]  # never root


def test_the_container_s_file_is_clean() -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def reference() -> ModuleType:
    """Load docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_reference_is_made_from_docstrings(tmp_path: Path) -> None:
    """Two of its packages; all others are found."""
    pytest.importorskip("pdoc")
    package, names = ROOT / "src/gptlab", reference().modules()
    inside = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    assert set(names) == {"gptlab", *(f"gptlab.{name}" for name in inside - {"__init__", "__main__"})}
    reference().write(tmp_path, ["gptlab", "gptlab.decoding"])
    pages = {path.stem for path in (tmp_path / "gptlab/decoding").glob("*.html")}
    assert pages == {path.stem for path in (package / "decoding").glob("*.py")} - {"__init__"}
    assert "Always the most probable token." in (tmp_path / "gptlab/decoding/decoders.html").read_text(encoding="utf-8")
    assert "Train a model and return what its run" in (tmp_path / "gptlab.html").read_text(encoding="utf-8")
