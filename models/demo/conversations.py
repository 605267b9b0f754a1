"""Reads the folder `text` and draws training conversations from it. Pure Python; no tokenizer, no torch.

The files hold topics, in Chinese and English, with many ways to ask each question (README.md has the format). Tables
hold what the topics are filled with. `Text.draw` makes one conversation: one to three topics, so that every answer is
also learnt in a later round, and now and then a request that needs the round before it ("Repeat that.").
`Text.pairs` lists what can be drawn, for the tests. Not here: how a conversation becomes token ids (train.py).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Round = tuple[str, str]  # question, answer
Table = list[dict[str, str]]

LANGUAGES = ("en", "zh")
HEADER = re.compile(r"== (?P<name>\w+)(?: for (?P<slots>\w+(?:, \w+)*) in (?P<table>\w+))?(?P<flags>(?: \+\w+)*)$")
TABLE = re.compile(r"== table (?P<name>\w+): (?P<columns>\w+(?: \| \w+)*)$")
CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\.(\w+)\}")

BEFORE = {
    "en": ("Hello, ", "Hi, ", "Please tell me: ", "Excuse me, ", "Hey, ", "So, ", "OK, ", "And now: ", "Well, "),
    "zh": ("请问", "请问，", "请问一下，", "你好，", "您好，", "我想知道，", "请告诉我，", "那么，", "嗯，", "好的，"),
}
AFTER = {"en": (" Please.", " Thanks.", " Thank you."), "zh": ("谢谢。", "谢谢！", "请回答。")}


@dataclass(frozen=True)
class Ask:
    """One round of a topic: templates of the question, one template of the answer."""

    questions: tuple[str, ...]
    answer: str
    gap: bool = False  # another topic may come between the round before and this one


@dataclass
class Topic:
    """What can be asked about one thing, in either language or both; all rounds share the values of the slots."""

    name: str
    slots: tuple[str, ...] = ()
    table: str = ""
    flags: frozenset[str] = frozenset()
    rounds: dict[str, list[Ask]] = field(default_factory=dict)


def generated_tables() -> dict[str, Table]:
    """Sums, differences and products of small numbers: fields a, b, r (the result) and next (the result plus one)."""

    def rows(triples: Iterator[tuple[int, int, int]]) -> Table:
        return [{"a": str(a), "b": str(b), "r": str(r), "next": str(r + 1)} for a, b, r in triples]

    small = range(11)
    return {
        "sums": rows((a, b, a + b) for a in small for b in small),
        "differences": rows((a, b, a - b) for a in small for b in range(a + 1)),
        "products": rows((a, b, a * b) for a in range(1, 10) for b in range(1, 10)),
    }


def choices(template: str) -> list[str]:
    """Every text that a template with `[a|b]` alternatives stands for."""
    parts = CHOICE.split(template)
    options = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(picked) for picked in itertools.product(*options)]


def one_choice(template: str, rng: random.Random) -> str:
    return CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)


def fill(template: str, rows: dict[str, dict[str, str]]) -> str:
    return SLOT.sub(lambda match: rows[match[1]][match[2]], template)


def vary(question: str, language: str, rng: random.Random, *, keep_case: bool = False) -> str:
    """The same question as another person would type it: case, punctuation, a polite word around it."""
    if rng.random() < 0.35:
        question = question.rstrip("?.!？。！")
    elif rng.random() < 0.15:
        ascii_marks = question.translate(str.maketrans("？！，", "?!,"))
        question = ascii_marks if language == "zh" else question.rstrip("?.!") + "?"
    if rng.random() < 0.12:
        before = rng.choice(BEFORE[language])
        start = question[:1].lower() if rng.random() < 0.5 and not keep_case else question[:1]
        question = before + start + question[1:]
    elif rng.random() < 0.03 and question[-1:] in "?.!？。！":
        question += rng.choice(AFTER[language])
    if language == "en" and keep_case and rng.random() < 0.2:
        question = question[:1].lower() + question[1:]
    elif language == "en" and not keep_case and rng.random() < 0.25:
        question = question.lower() if rng.random() < 0.9 else question.upper()
    elif language == "zh" and rng.random() < 0.15:
        question = question.replace(" ", "")
    return question.replace("'", "") if rng.random() < 0.05 else question


class Text:
    """The topics and tables of a folder."""

    def __init__(self, folder: Path) -> None:
        self.tables = generated_tables()
        self.topics: list[Topic] = []
        for path in sorted(folder.glob("*.txt")):
            if path.name != "heldout.txt":
                self._read(path)
        for topic in self.topics:
            if topic.table and topic.table not in self.tables:
                raise ValueError(f"topic {topic.name} uses the table {topic.table}, which is nowhere")
        self._repeat = self._named("repeat")
        self._translate = self._named("translate")
        self._drawn = [topic for topic in self.topics if "request" not in topic.flags]
        self._weights = [self._weight(topic) for topic in self._drawn]

    def _named(self, name: str) -> Topic:
        return next(topic for topic in self.topics if topic.name == name)

    def _weight(self, topic: Topic) -> float:
        """How often a topic is drawn: by the number of things it can say, `+often` ones more."""
        if topic.table:
            weight: float = len(self.tables[topic.table]) ** 0.6
        else:
            weight = 2 + sum(len(ask.questions) for asks in topic.rounds.values() for ask in asks) / 4
        return weight * (3 if "often" in topic.flags else 1)

    def _read(self, path: Path) -> None:
        topic: Topic | None = None
        table: Table | None = None
        columns: list[str] = []
        questions: list[str] = []
        gap = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if match := TABLE.match(text):
                columns, topic = match["columns"].split(" | "), None
                table = self.tables.setdefault(match["name"], [])
            elif match := HEADER.match(text):
                flags = frozenset(match["flags"].replace("+", "").split())
                topic = Topic(match["name"], tuple((match["slots"] or "").split(", ")), match["table"] or "", flags)
                self.topics.append(topic)
            elif topic is None and table is not None:
                cells = [cell.strip() for cell in text.split("|")]
                if len(columns) == 1:
                    table += [{columns[0]: cell} for cell in cells]
                elif len(cells) == len(columns):
                    table.append(dict(zip(columns, cells, strict=True)))
                else:
                    raise ValueError(f"{path}:{number}: {len(cells)} cells, the table has {len(columns)} columns")
            elif topic is not None and text[:2] in LANGUAGES and text[2:4] in ("? ", "+ ", ": "):
                if text[2] == ":":
                    asked = Ask(tuple(questions), text[4:].replace("\\n", "\n"), gap)
                    topic.rounds.setdefault(text[:2], []).append(asked)
                    questions, gap = [], False
                else:  # "en+" instead of "en?" allows another topic before this question
                    gap = gap or text[2] == "+"
                    questions.append(text[4:])
            else:
                raise ValueError(f"{path}:{number}: neither a header nor a question or answer: {text!r}")

    def _rows(self, topic: Topic, rng: random.Random) -> dict[str, dict[str, str]]:
        if not topic.table:
            return {}
        return dict(zip(topic.slots, rng.sample(self.tables[topic.table], len(topic.slots)), strict=True))

    def draw(self, rng: random.Random) -> list[Round]:
        """One conversation of one to about six rounds."""
        count = rng.choices((1, 2, 3), (0.5, 0.3, 0.2))[0]
        rounds: list[Round] = []
        told = False
        for _ in range(count):
            topic = rng.choices(self._drawn, self._weights)[0]
            if "unknown" in topic.flags and told:  # "I do not know your name" would be wrong by now
                continue
            told = told or "tells" in topic.flags
            rounds += self._draw_topic(topic, rng)
        return rounds

    def _draw_topic(self, topic: Topic, rng: random.Random) -> list[Round]:
        language = rng.choice(list(topic.rounds))
        rows = self._rows(topic, rng)
        asks = topic.rounds[language]
        rounds: list[Round] = []
        for ask in asks[: rng.randint(1, len(asks))] if rng.random() < 0.3 else asks:
            if ask.gap and rng.random() < 0.4:
                between = rng.choices(self._drawn, self._weights)[0]
                if not between.flags & {"tells", "unknown"}:
                    rounds += self._draw_topic(between, rng)[:1]
            question = one_choice(rng.choice(ask.questions), rng)
            if "keepcase" in topic.flags:  # what the answer copies stays as it is written
                question = fill(vary(question, language, rng, keep_case=True), rows)
            else:
                question = vary(fill(question, rows), language, rng)
            rounds.append((question, fill(ask.answer, rows)))
        if rng.random() < 0.12 and len(rounds[-1][1]) < 160:
            rounds.append(self._request(topic, language, rows, rounds[-1], len(rounds), rng))
        return rounds

    def _request(
        self, topic: Topic, language: str, rows: dict[str, dict[str, str]], last: Round, count: int, rng: random.Random
    ) -> Round:
        """Round `count + 1`: "Say it in Chinese" where the topic has the same rounds in both, else "Repeat that"."""
        other = "zh" if language == "en" else "en"
        mine, theirs = topic.rounds[language], topic.rounds.get(other, [])
        spoken = rng.choice(LANGUAGES) if rng.random() < 0.3 else language
        ask, answer = self._repeat.rounds[spoken][0], last[1]
        both = len(mine) == len(theirs) >= count and "alone" not in topic.flags
        if both and rng.random() < 0.5 and fill(mine[count - 1].answer, rows) == last[1]:
            # The topic `translate` asks for Chinese in its first round and for English in its second.
            ask, answer = (
                self._translate.rounds[spoken][LANGUAGES.index(language)],
                fill(theirs[count - 1].answer, rows),
            )
        question = one_choice(rng.choice(ask.questions), rng)
        return vary(question, spoken, rng), answer

    def pairs(self) -> Iterator[Round]:
        """Every question, before `vary`, with its answer: all alternatives, all rows of the tables."""
        for topic in self.topics:
            table = self.tables[topic.table] if topic.table else []
            combos = itertools.permutations(table, len(topic.slots)) if table else iter([()])
            for combo in combos:
                rows = dict(zip(topic.slots, combo, strict=False))
                for ask in itertools.chain.from_iterable(topic.rounds.values()):
                    for template in ask.questions:
                        for question in choices(template):
                            yield fill(question, rows), fill(ask.answer, rows)
