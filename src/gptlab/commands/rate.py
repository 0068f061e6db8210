"""The verb `rate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.app.installed import require_app
from gptlab.errors import UserError, require, require_choice, require_port
from gptlab.files import require_file, strict_json, write_atomically
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.app.store import Study

MODES = ("pairs", "rubric")
NEW = ("runs", "texts", "prompts", "prompts_file")  # keys that begin a study


@dataclass
class RateConfig:
    """Let people judge texts in a web page: blind, in pairs or by criteria. A study is one file."""

    study: str = "outputs/ratings.db"  # the file: a new one, with runs or texts, or one to go on with
    runs: list[str] = field(default_factory=list)  # what continues the prompts
    decoders: list[str] = field(default_factory=lambda: ["top_k"])  # each of them with each run
    texts: list[str] = field(default_factory=list)  # instead of runs: what gptlab sample json=true has printed
    prompts: list[str] = field(default_factory=list)  # [] takes openings of what the first run holds out
    prompts_file: str | None = None  # a prompt a line
    num_prompts: int = 30  # of the openings
    max_new_tokens: int = 60  # the most tokens of a text
    mode: str = "pairs"  # pairs: which of two is better | rubric: a score for each criterion
    # what is scored from 1 to 5; with mode=rubric
    criteria: list[str] = field(default_factory=lambda: ["coherence", "fluency", "relevance", "factual accuracy"])
    host: str = "127.0.0.1"  # 0.0.0.0 lets others in, who then need the token
    port: int = 8765  # 0: any that is free
    token: str | None = None  # null: a new one where others can reach the page, none on this machine alone
    report: bool = False  # instead of the page: what the ratings say
    preferences: str | None = None  # a new JSONL file for data=preferences: the pairs that raters agree about
    resamples: int = 1000  # draws for the intervals of the report
    seed: int = 1337  # of the texts, of the order of the questions and of the intervals
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.study), "study", "''", "is empty", "give a file, such as outputs/ratings.db")
        require_choice("mode", self.mode, MODES)
        for key, least in {"num_prompts": 1, "max_new_tokens": 1, "resamples": 100, "seed": 0}.items():
            value = getattr(self, key)
            require(value >= least, key, value, f"must be at least {least}", "leave it out")
        require_port(self.port)
        names = [name.strip() for name in self.criteria]
        require(
            all(names) and len({*names}) == len(names) > 0,
            "criteria",
            self.criteria,
            "must be names that differ",
            "try [fluency]",
        )
        require("" not in self.prompts, "prompts", "''", "is empty", "give some text")
        require(
            len({*self.prompts}) == len(self.prompts),
            "prompts",
            self.prompts,
            "has one of them twice",
            "give each once",
        )
        require(not (self.runs and self.texts), "texts", self.texts, "and runs are given", "give one of them")
        given = [key for key in ("prompts", "prompts_file", "texts") if getattr(self, key)]
        for key in given[1:]:
            raise UserError(key, getattr(self, key), f"and {given[0]} are given", "give one of them")
        least = 2 if self.mode == "pairs" else 1
        few = 0 < (len(self.runs) * len(self.decoders) or len(self.texts)) < least
        require(
            not few,
            "runs",
            self.runs or self.texts,
            "is one source of texts",
            "give two, or several decoders, or mode=rubric",
        )
        require(not (self.runs and not self.decoders), "decoders", "[]", "is empty", "try [top_k,top_p]")


@command
def rate(config: RateConfig) -> dict[str, Any]:
    """Let people judge texts in a web page: blind, in pairs or by criteria.

    With runs or texts it begins a study, and serves it until Ctrl-C; with `report=true` it prints what raters have
    said: win rates and places with intervals, agreement, bias of the order. Returns {"study", "answers", ...}.
    """
    path = Path(config.study).expanduser()
    begins = [key for key in NEW if getattr(config, key)]
    if begins and path.exists():
        why = f"is there already, and {begins[0]} would begin another"
        raise UserError("study", path, why, f"leave {begins[0]} out to go on with it, or give a new file")
    if config.report or config.preferences:
        return _reported(config, path)
    require_app("rate")

    from gptlab.app.server import listening, serve, token_for
    from gptlab.app.store import Study

    there = None if begins else Study(path)
    sock = listening(config.host, config.port)
    with sock:
        study = there or _begun(config, path)

        from gptlab.app.rating import rating_app

        serve(rating_app(study), sock, token_for(config.host, config.token), _say(study))
    return {"study": str(path), "answers": len(study.answers())}


def _say(study: Study) -> Callable[[str], None]:
    def say(address: str) -> None:
        prompts, sources, answers = (len(each) for each in (study.prompts(), study.sources(), study.answers()))
        print(f"{study.path}: {prompts} prompts, {sources} sources, {answers} answers")
        print(f"open {address} - Ctrl-C ends; gptlab rate study={study.path} report=true", file=sys.stdout, flush=True)

    return say


def _begun(config: RateConfig, path: Path) -> Study:
    """Make the texts, and the study of them."""
    from gptlab.app.store import Study
    from gptlab.app.study import continued, decoders_of, read_prompts, read_texts, usual_prompts
    from gptlab.evaluation.model import require_next_tokens
    from gptlab.runs.reader import expand
    from gptlab.runs.run_dir import RunDir

    require_file("study", path)
    if config.texts:
        sources, texts = read_texts([Path(name).expanduser() for name in config.texts])
    else:
        require(bool(config.runs), "runs", "[]", "is needed to begin a study", "give runs=[RUN,RUN]")
        decoders, runs = decoders_of(config.decoders), [RunDir.find_as("runs", name) for name in expand(config.runs)]
        for run in runs:
            require_next_tokens(run, "runs")
        prompts = config.prompts or (
            read_prompts(Path(config.prompts_file).expanduser()) if config.prompts_file else []
        )
        prompts = prompts or usual_prompts(runs[0], config.num_prompts)
        sources, texts = continued(runs, decoders, prompts, config.max_new_tokens, config.seed)
    settings = {"mode": config.mode, "criteria": config.criteria, "seed": config.seed}
    return Study.create(path, settings, sources, texts)


def _reported(config: RateConfig, path: Path) -> dict[str, Any]:
    """Print what the ratings say, write it beside the study, and the preferences where they are asked for."""
    from gptlab.app.store import Study
    from gptlab.evaluation.ratings import preferred, require_evalica
    from gptlab.files import require_new

    require_evalica()
    study = Study(path)
    answers = study.answers()
    require(bool(answers), "study", path, "has no answers yet", f"let people rate: gptlab rate study={path}")
    if config.preferences:
        out = Path(config.preferences).expanduser()
        require_new(out, "preferences")
        require_file("preferences", out)
        rows = _preferences(study, preferred(answers))
        require(bool(rows), "preferences", out, "raters prefer none of the texts", "let more people rate")
        write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        print(f"{len(rows)} pairs are in {out}")
        if not config.report:
            return {"study": str(path), "answers": len(answers), "preferences": str(out), "pairs": len(rows)}

    from gptlab.reporting.ratings import answer_rows, print_report, report_of

    about = {each.name: each.about for each in study.sources()}
    scores = {name: _task_scores(of.get("run")) for name, of in about.items()}
    found = report_of(answers, about, scores, config.resamples, config.seed)
    print_report(found)
    csv, report = path.with_suffix(".csv"), path.with_suffix(".json")
    write_atomically(csv, answer_rows(answers, study.prompts()).encode())
    write_atomically(report, (strict_json(found, indent=2) + "\n").encode())
    print(f"every answer is in {csv}, the report in {report}")
    return {"study": str(path), **found}


def _task_scores(run: str | None) -> dict[str, float]:
    """Return the scores of tasks that a source's run keeps, if it is still there."""
    from gptlab.evaluation.kept_scores import kept_scores
    from gptlab.runs.run_dir import RunDir

    try:
        found = RunDir.find(run) if run else None
    except UserError:
        return {}
    return kept_scores(found.path, found.checkpoint.name) if found else {}


def _preferences(study: Study, pairs: list[tuple[int, str, str]]) -> list[dict[str, str]]:
    """Return what data=preferences reads: the prompt, and the text that raters chose and the one that they did not.

    A text of white space alone is no answer to learn from: pairs with one are left out.
    """
    prompts, texts = study.prompts(), study.texts()
    found = [(prompts[prompt], texts[prompt, better], texts[prompt, worse]) for prompt, better, worse in pairs]
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, chosen, rejected in found
        if chosen.strip() and rejected.strip()
    ]
