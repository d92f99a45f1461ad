"""Choose: crossed choice, a judge-free measure with exact chance (stages/evaluation/crossed.py, data/crossed/README.md).

Of each group, log p of every user's reply after every user's history and the last message: the chat template of the folder
with its generation prompt, and the reply's tokens as the template writes them, the token that ends the turn included. A
template that writes a system prompt of its own where none is given (that of models/base does) writes it here, too.

Run: python -m stages.choose --weights FOLDER --groups FILE --choices OUT.jsonl --metrics OUT.json
With these four arguments alone no params.yaml is read. dvc.yaml adds those of an arm, and the settings are section `choose`.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.prompts import Message, Prompt


def head(prompt: Prompt | None, user: Record, group: Record) -> list[Message]:
    """System prompt of a user. Raises UserError where it wants a persona that the user lacks."""
    if prompt is None:
        return []
    if "persona" not in prompt.variables:
        return prompt.messages()
    if not user.get("persona"):
        raise UserError(f"{prompt.path}: wants a persona, but user {user['id']} of group {group['group']} has none")
    return prompt.messages(persona=user["persona"])


def contexts(group: Record, prompt: Prompt | None, reading: str) -> list[list[Message]]:
    """What each user's replies are chosen after, in a reading (`crossed.seen`)."""
    from stages.evaluation.crossed import seen

    last = {"role": "user", "content": group["message"]}
    return [[*head(prompt, user, group), *seen(user["history"], reading), last] for user in group["users"]]


def readings(a: Namespace, groups: list[Record]) -> Iterator[tuple[str, Prompt | None, str]]:
    """(name, system prompt, what is seen of the history) of the measure and of its twins."""
    from stages.evaluation.crossed import curve

    prompt = prompts.load(a.system_prompt) if a.system_prompt else None
    yield "history", prompt, "none" if a.memory == "none" else "history"
    yield "no_history", prompt, "none"
    if a.persona_prompt:
        told = prompts.load(a.persona_prompt)
        yield from [("persona", told, "none"), ("persona_and_history", told, "history")]
    if a.exchanges:
        yield from ((name, prompt, name) for name in curve(groups))


def local(a: Namespace, groups: list[Record]) -> dict[str, list[Any]]:
    """L of each group by reading, from the weights."""
    from stages.training.choices import load, matrix

    model, tokenizer = load(a.weights)
    found: dict[str, list[Any]] = {}
    wanted = list(readings(a, groups))
    with Progress(f"choose: {a.choices.stem}", len(groups) * len(wanted)) as progress:
        for name, prompt, reading in wanted:
            found[name] = []
            for group in groups:
                replies = [user["reply"] for user in group["users"]]
                found[name].append(matrix(model, tokenizer, contexts(group, prompt, reading), replies))
                progress.step()
    return found


def main() -> None:
    arguments = parser(__doc__, ["weights", "groups"], ["choices", "metrics"])
    arguments.add_argument("--system-prompt", type=Path, metavar="PATH", help="prompt file; may hold {persona}")
    arguments.add_argument("--persona-prompt", type=Path, metavar="PATH",
                           help="prompt file with {persona}: adds the twins persona (in place of the history) and "
                           "persona_and_history")  # fmt: skip
    arguments.add_argument("--exchanges", action="store_true", help="add the curve over the exchanges seen")
    arguments.add_argument("--memory", default="all", help="none: the arm sees no history")
    arguments.add_argument("--resamples", type=int, default=10000, help="of the bootstrap over groups")
    arguments.add_argument("--seed", type=int, default=1, help="of the bootstrap over groups")
    a = arguments.parse_args()
    from stages.evaluation import crossed

    groups = crossed.read(a.groups)
    found = local(a, groups)
    write_jsonl(a.choices, crossed.rows(groups, found))
    result = crossed.summary(groups, found, a.resamples, a.seed)
    write_json(a.metrics, result)
    print(f"choose: pair accuracy {result['pair_accuracy']}, top-1 {result['top1']}")


if __name__ == "__main__":
    run(main)
