"""Name the tasks of CORE, 22 that tell small models apart, and take the mean of their centred accuracies.

(Li et al. 2024, "DataComp-LM", appendix G.) lm-eval has 21 of them; Jeopardy is not among its tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

NAME = "core"  # by which `tasks` has them
CENTRED = "centred_accuracy"
METRICS = ("acc_norm", "acc", "exact_match", "em", "contains")  # the first that a task has is its accuracy


@dataclass(frozen=True)
class CoreTask:
    """A task of CORE: its name there, that of the task of lm-eval, and how many answered items stand before each."""

    name: str
    task: str
    shots: int

    @property
    def title(self) -> str:
        """The name by which its result is kept."""
        return f"{NAME}-{self.name}"


TASKS = (
    CoreTask("hellaswag_zeroshot", "hellaswag", 0),
    CoreTask("bigbench_qa_wikidata", "bigbench_qa_wikidata_generate_until", 10),
    CoreTask("arc_easy", "arc_easy", 10),
    CoreTask("arc_challenge", "arc_challenge", 10),
    CoreTask("copa", "copa", 0),
    CoreTask("commonsense_qa", "commonsense_qa", 10),
    CoreTask("piqa", "piqa", 10),
    CoreTask("openbook_qa", "openbookqa", 0),
    CoreTask("lambada_openai", "lambada_openai", 0),
    CoreTask("hellaswag", "hellaswag", 10),
    CoreTask("winograd", "wsc273", 0),
    CoreTask("winogrande", "winogrande", 0),
    CoreTask("bigbench_dyck_languages", "bigbench_dyck_languages_generate_until", 10),
    CoreTask("agi_eval_lsat_ar", "agieval_lsat_ar", 3),
    CoreTask("bigbench_cs_algorithms", "bigbench_cs_algorithms_generate_until", 10),
    CoreTask("bigbench_operators", "bigbench_operators_generate_until", 10),
    CoreTask("bigbench_repeat_copy_logic", "bigbench_repeat_copy_logic_generate_until", 10),
    CoreTask("squad", "squad_completion", 10),
    CoreTask("coqa", "coqa", 0),
    CoreTask("boolq", "boolq", 10),
    CoreTask("bigbench_language_identification", "bigbench_language_identification_multiple_choice", 10),
)


def centred(scores: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], by_choices: bool) -> dict[str, float]:
    """Return the accuracy of a task, what it is by chance, and the accuracy on a scale where that is 0 and all is 1.

    Chance is the mean of 1 over the number of an item's choices, and 0 for tasks without choices.
    """
    by_title = {name.partition(",")[0]: value for name, value in scores.items() if "," in name}
    accuracy = next(float(by_title[name]) for name in METRICS if name in by_title)
    chance = fmean(1 / len(each["resps"]) for each in samples) if by_choices else 0.0
    return {"accuracy": accuracy, "chance": chance, CENTRED: (accuracy - chance) / (1 - chance)}


def summary(parts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the mean of the centred accuracies of tasks, by the tasks' names, as lm-eval has the scores of a group."""
    return {f"{CENTRED},none": fmean(part[CENTRED] for part in parts.values()), "parts": dict(parts)}
