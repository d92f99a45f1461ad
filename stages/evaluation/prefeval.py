"""PrefEval (amazon-science/PrefEval, CC BY-NC 4.0; Zhao et al. 2025): a preference that shows in a conversation.

Its implicit forms: the user makes a choice that shows it (choice-based), or mentions it in passing (persona-driven). Then
filler exchanges about other things, and a question with four options, the first of which follows the preference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.prompts import Message, alternating
from stages.evaluation.items import Item, lacks, read_json

FORMS = ("choice-based", "persona-driven")
CHOICE = ("query", "assistant_options", "user_selection", "assistant_acknowledgment")  # user and assistant in turn
FILLERS = "filtered_inter_turns.json"
COPY = " copy"  # a stray file of the published folder, `travel_hotel copy.json`, which no code of theirs reads


def history(talk: dict[str, Any]) -> list[Message]:
    """The messages of a conversation in either form. Raises KeyError for a part that lacks."""
    if CHOICE[0] in talk:
        return alternating([talk[name] for name in CHOICE])
    turns = sorted((key for key in talk if key.isdigit()), key=int) or ["0"]
    return alternating([talk[key][role] for key in turns for role in ("user", "assistant")])


def filling(root: Path, number: int) -> list[Message]:
    """The first `number` filler exchanges in the order of the file. Raises UserError where there are fewer."""
    if not number:
        return []
    path = root / FILLERS
    with lacks(f"{path}"):
        said = [(m["role"], m["content"]) for talk in read_json(path) for m in talk["conversation"]][: 2 * number]
    if len(said) < 2 * number:
        raise UserError(f"{path}: holds {len(said) // 2} exchanges; lower external.fillers from {number}")
    return [{"role": role, "content": content} for role, content in said]


def aligned(root: Path, topic: str, forms: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    """The rows of a topic by where they stand: each of `forms`, `mcq`, and `explicit` where it is there.

    Raises:
        UserError: a file lacks, has another number of rows, or another question in some row.
    """
    paths = {"mcq": root / "mcq_options" / f"{topic}.json", "explicit": root / "explicit_preference" / f"{topic}.json"}
    paths |= {form: root / "implicit_preference" / form / f"{topic}.json" for form in forms}
    files = {name: read_json(path) for name, path in paths.items() if name != "explicit" or path.exists()}
    for name, rows in files.items():
        if len(rows) != len(files["mcq"]):
            raise UserError(f"{paths[name]}: holds {len(rows)} rows, {paths['mcq']} {len(files['mcq'])}; get both anew")
        for n, (row, other) in enumerate(zip(rows, files["mcq"], strict=True)):
            with lacks(f"{paths[name]}: row {n}"):
                if row["question"] != other["question"]:
                    raise UserError(f"{paths[name]}: row {n}: `question` is not that of {paths['mcq']}; get both anew")
    return [dict(zip(files, rows, strict=True)) for rows in zip(*files.values(), strict=True)]


def plain(text: str) -> str:
    """A text without case and spacing, by which two are one."""
    return " ".join(text.casefold().split())


def read(folder: Path, forms: Sequence[str], fillers: Sequence[int]) -> list[Item]:
    """All items in each of `forms` that is PrefEval's, with each number of `fillers`.

    Args:
        folder: a clone of the repository, or its folder benchmark_dataset.
    Raises:
        UserError: what lacks, and where.
    """
    root = folder / "benchmark_dataset" if (folder / "benchmark_dataset").is_dir() else folder
    topics = sorted(p.stem for p in (root / "mcq_options").glob("*.json") if not p.stem.endswith(COPY))
    if not topics:
        raise UserError(f"{root}: holds no mcq_options/TOPIC.json; clone amazon-science/PrefEval and name its folder")
    forms = [form for form in FORMS if form in forms]
    between = {number: filling(root, number) for number in fillers}
    items = []
    for topic in topics:
        for n, row in enumerate(aligned(root, topic, forms)):
            with lacks(f"{root}: {topic}, row {n}"):
                wordings = {row[name]["preference"] for name in ("mcq", "explicit") if name in row}
                keys = {f"preference: {plain(text)}" for text in wordings} | {f"question: {plain(row['mcq']['question'])}"}
                options = tuple(row["mcq"]["classification_task_options"])
                for form in forms:
                    talk = history(row[form].get("conversation", row[form]))
                    items += [
                        Item(f"{topic}/{n}", form, count, frozenset(keys), [*talk, *said], row["mcq"]["question"], options)
                        for count, said in between.items()
                    ]
    return items
