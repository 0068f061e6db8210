"""Keep a study: its texts, who was asked what, and every rating, in one SQLite file.

Each change is one transaction that is on the disk before it is acknowledged (WAL, synchronous=FULL), so a server that
is killed loses no rating that a rater saw accepted.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, require
from gptlab.evaluation.ratings import Answer

VERSION = 1  # of the schema, in PRAGMA user_version
MAGIC = 0x67726174  # "grat", in PRAGMA application_id
SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, about TEXT NOT NULL);
CREATE TABLE prompts (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE texts (
  id INTEGER PRIMARY KEY, prompt INTEGER NOT NULL REFERENCES prompts, source INTEGER NOT NULL REFERENCES sources,
  text TEXT NOT NULL, UNIQUE (prompt, source)
);
CREATE TABLE raters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE questions (
  id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters, "left" INTEGER NOT NULL REFERENCES texts,
  "right" INTEGER REFERENCES texts, asked REAL NOT NULL
);
CREATE TABLE answers (
  question INTEGER PRIMARY KEY REFERENCES questions, answer TEXT NOT NULL, at REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Source:
    """A source of texts, such as a run with a decoder; `about` is what reports say of it, as plain values."""

    name: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """Two texts to choose from, or one (`right` is None) to judge by criteria; `left` and `right` are ids of texts."""

    id: int
    left: int
    right: int | None


class Study:
    """A study in a file. Raises UserError for one that is no study, or of a newer gptlab."""

    def __init__(self, path: Path) -> None:
        self.path = path
        require(path.is_file(), "study", path, "no such file", "begin a study: give runs=[RUN,RUN]")
        try:
            with self._open() as db:
                (magic,), (version,) = (
                    db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
                )
        except sqlite3.DatabaseError as error:
            raise UserError("study", path, f"is not a study ({error})", "give a new file") from None
        require(magic == MAGIC, "study", path, "is not a study", "give a new file")
        why = f"was made by a newer gptlab (its version is {version}, this one knows {VERSION})"
        require(version <= VERSION, "study", path, why, "pip install --upgrade gptlab")
        # what it was made with, which never changes
        self.settings = {name: json.loads(value) for name, value in self.rows("SELECT name, value FROM settings")}

    @classmethod
    def create(
        cls, path: Path, settings: dict[str, Any], sources: Sequence[Source], texts: dict[str, dict[str, str]]
    ) -> Study:
        """Make a study; `texts` has, for each prompt, the text of each source by its name."""
        require(not path.exists(), "study", path, "exists already", "give a new file, or leave runs and texts out")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.new")
        made.unlink(missing_ok=True)
        with closing(sqlite3.connect(made)) as db:
            db.executescript(f"{SCHEMA} PRAGMA application_id={MAGIC}; PRAGMA user_version={VERSION};")
            with db:
                db.executemany("INSERT INTO settings VALUES (?, ?)", [(k, json.dumps(v)) for k, v in settings.items()])
                for source in sources:
                    db.execute(
                        "INSERT INTO sources (name, about) VALUES (?, ?)", (source.name, json.dumps(source.about))
                    )
                ids = dict(db.execute("SELECT name, id FROM sources"))
                for prompt, of_source in texts.items():
                    where = db.execute("INSERT INTO prompts (text) VALUES (?)", (prompt,)).lastrowid
                    rows = [(where, ids[name], text) for name, text in of_source.items()]
                    db.executemany("INSERT INTO texts (prompt, source, text) VALUES (?, ?, ?)", rows)
        made.replace(path)
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode=WAL")
        return cls(path)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which other processes and threads wait for."""
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            yield db

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction that may write; it is undone where an error is raised."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with self._open() as db:
            return db.execute(query, values).fetchall()

    def sources(self) -> list[Source]:
        """Return the sources in the order in which they were given."""
        return [
            Source(name, json.loads(about)) for name, about in self.rows("SELECT name, about FROM sources ORDER BY id")
        ]

    def prompts(self) -> dict[int, str]:
        """Return the prompts by their ids."""
        return dict(self.rows("SELECT id, text FROM prompts ORDER BY id"))

    def texts(self) -> dict[tuple[int, str], str]:
        """Return the texts by their prompts' ids and their sources' names."""
        found = self.rows("SELECT t.prompt, s.name, t.text FROM texts t JOIN sources s ON s.id = t.source")
        return {(prompt, name): text for prompt, name, text in found}

    def text(self, text: int) -> tuple[str, str]:
        """Return the prompt and the continuation that have the id of a text."""
        ((prompt, continuation),) = self.rows(
            "SELECT p.text, t.text FROM texts t JOIN prompts p ON p.id = t.prompt WHERE t.id = ?", text
        )
        return prompt, continuation

    def rater(self, name: str) -> int:
        """Return the id of a rater, who is new or has come back."""
        with self.changing() as db:
            db.execute("INSERT INTO raters (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            return int(db.execute("SELECT id FROM raters WHERE name = ?", (name,)).fetchone()[0])

    def answer(self, rater: int, question: int, answer: Any) -> bool:
        """Keep an answer; returns False where the question is not the rater's. A second answer changes nothing."""
        with self.changing() as db:
            asked = db.execute("SELECT 1 FROM questions WHERE id = ? AND rater = ?", (question, rater)).fetchone()
            if asked:
                row = (question, json.dumps(answer), time.time())
                db.execute("INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
            return asked is not None

    def count(self, rater: int) -> int:
        """Return how many answers a rater has given."""
        query = "SELECT count(*) FROM answers a JOIN questions q ON q.id = a.question WHERE q.rater = ?"
        return int(self.rows(query, rater)[0][0])

    def answers(self) -> list[Answer]:
        """Return all answers in the order in which they were given."""
        found = self.rows("""
            SELECT r.name, lt.prompt, ls.name, rs.name, a.answer, a.at FROM answers a
            JOIN questions q ON q.id = a.question JOIN raters r ON r.id = q.rater
            JOIN texts lt ON lt.id = q."left" JOIN sources ls ON ls.id = lt.source
            LEFT JOIN texts rt ON rt.id = q."right" LEFT JOIN sources rs ON rs.id = rt.source
            ORDER BY a.at, a.question""")
        return [
            Answer(rater, prompt, left, right, json.loads(said), at) for rater, prompt, left, right, said, at in found
        ]
