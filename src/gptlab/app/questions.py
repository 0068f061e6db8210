"""Choose what a rater is asked next: what teaches most, in an order that tells nothing."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, TypeVar

from gptlab.app.store import Question, Study

T = TypeVar("T")


def next_question(study: Study, rater: int) -> Question | None:
    """Return the question that a rater has not answered yet, or a new one; None where all is judged."""
    pairs, seed = study.settings["mode"] == "pairs", study.settings["seed"]
    with study.changing() as db:
        open_one = db.execute(
            'SELECT q.id, q."left", q."right" FROM questions q LEFT JOIN answers a ON a.question = q.id '
            "WHERE q.rater = ? AND a.question IS NULL",
            (rater,),
        ).fetchone()
        if open_one:
            return Question(*open_one)
        (asked,) = db.execute("SELECT count(*) FROM questions WHERE rater = ?", (rater,)).fetchone()
        rng = random.Random(f"{seed}/{rater}/{asked}")
        chosen = _next_pair(db, rater, rng) if pairs else _next_text(db, rater, rng)
        if chosen is None:
            return None
        row = (rater, *chosen, time.time())
        made = db.execute('INSERT INTO questions (rater, "left", "right", asked) VALUES (?, ?, ?, ?)', row).lastrowid
        assert made is not None
        return Question(made, *chosen)


def _next_pair(db: sqlite3.Connection, rater: int, rng: random.Random) -> tuple[int, int] | None:
    """Return the texts to compare, the left one first.

    The two sources are those whose win rate is known least: of the widest Beta(1 + wins, 1 + losses), where a tie, and
    a question that is still open, count as half of each. Of their prompts, one that the fewest have judged.
    """
    texts = {(source, prompt): (id_, text) for id_, prompt, source, text in db.execute("SELECT * FROM texts")}
    sources, prompts = sorted({source for source, _ in texts}), sorted({prompt for _, prompt in texts})
    found = db.execute("""
        SELECT lt.source, rt.source, lt.prompt, q.rater, a.answer FROM questions q
        JOIN texts lt ON lt.id = q."left" JOIN texts rt ON rt.id = q."right"
        LEFT JOIN answers a ON a.question = q.id""")
    wins: dict[tuple[int, int], float] = defaultdict(float)  # of the first source
    counts, judged, seen = Counter[tuple[int, int]](), Counter[tuple[int, int, int]](), set[tuple[int, int, int]]()
    for left, right, prompt, who, answer in found:
        pair = (min(left, right), max(left, right))
        won = {'"left"': 1.0, '"right"': 0.0}.get(answer, 0.5)
        wins[pair] += won if left == pair[0] else 1 - won
        counts[pair] += 1
        judged[(*pair, prompt)] += 1
        if who == rater:
            seen.add((*pair, prompt))
    for a, b in _shuffled(combinations(sources, 2), rng, lambda pair: -beta_variance(wins[pair], counts[pair])):
        there = [p for p in prompts if {(a, p), (b, p)} <= texts.keys() and texts[a, p][1] != texts[b, p][1]]
        for prompt in _shuffled((p for p in there if (a, b, p) not in seen), rng, lambda p: judged[a, b, p]):  # noqa: B023
            left, right = rng.sample([texts[a, prompt][0], texts[b, prompt][0]], 2)
            return left, right
    return None


def beta_variance(wins: float, n: int) -> float:
    """Compute the variance of a win rate after `wins` of `n`, from a uniform prior."""
    a, b = 1 + wins, 1 + n - wins
    return a * b / ((a + b) ** 2 * (a + b + 1))


def _next_text(db: sqlite3.Connection, rater: int, rng: random.Random) -> tuple[int, None] | None:
    """Return the text that the fewest have judged, of those that this rater has not."""
    found = db.execute(
        'SELECT t.id, count(q.id) FROM texts t LEFT JOIN questions q ON q."left" = t.id '
        'WHERE t.id NOT IN (SELECT "left" FROM questions WHERE rater = ?) GROUP BY t.id',
        (rater,),
    ).fetchall()
    return next(((text, None) for text, _ in _shuffled(found, rng, lambda row: row[1])), None)


def _shuffled(values: Iterable[T], rng: random.Random, key: Callable[[T], Any]) -> list[T]:
    """Return the values by `key`, the smallest first, and equal ones in any order."""
    found = list(values)
    rng.shuffle(found)
    return sorted(found, key=key)
