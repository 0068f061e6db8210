"""Make the task `qa`: what a part of Python's library does, among what other parts do."""

import re

import numpy as np

from gptlab.data.bundled_tasks.material import Material, Record, choices, words

ASKED = {"function": "What does {}() do?", "class": "What is {}?", "module": "What is the module {} for?"}
SHORTEST, LONGEST = 15, 100  # characters of an answer


def records(material: Material, generator: np.random.Generator) -> list[Record]:
    """Return a question for each docstring whose first paragraph is short; each question and each answer once."""
    answers: dict[str, str] = {}  # by their questions
    for name, kind, text in material.docstrings:
        answer = words(re.split(r"\n\s*\n", text, maxsplit=1)[0])
        if SHORTEST <= len(answer) <= LONGEST and material.is_new(answer):
            answers[f"Question: {ASKED[kind].format(name)}\nAnswer:"] = f" {answer}"
    questions = {answer: question for question, answer in answers.items()}
    return choices(list(questions.values()), list(questions), generator)
