"""Survey: one HTML page on which people choose between two replies, blind and without a network.

A pair is two replies to the same conversation: the preferred and another reply of a tree, or the replies of two arms where
their conversations are still the same. Pairs and sides are drawn by the seed. Which reply is which, and what the verifier or
the judge chose, is not in the page but in key-ID.json, which `python -m stages.tools.recompute` joins with the answers.

Run: make survey (or python -m stages.tools.survey [--pairs 40] [--trees FILE] [--arms dpo base] [--persona])
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from stages.core.cli import UserError, parser, run
from stages.core.files import Record, digest, read_jsonl, replacing, seed_of, write_json
from stages.core.prompts import Message
from stages.dialogue import tree
from stages.tools.blocks import TEMPLATES
from stages.tools.browse import block, policy
from stages.tools.people import KEYS

TEMPLATE = Path(__file__).with_name("survey.html")


@dataclass(frozen=True)
class Pair:
    """Two replies to one message."""

    names: tuple[str, str]
    """What is compared: two kinds of reply, or two arms."""
    place: str
    """File, tree or case, and turn."""
    profile: str
    """Pairs of one profile are not independent."""
    persona: list[str]
    history: list[Message]
    """Up to the message, which is its last."""
    replies: tuple[str, str]
    machine: tuple[str, float | None]
    """verifier or judge, and its choice: 1 the first of `names`, 0 the other, 0.5 neither, None not asked."""


def of_trees(path: Path, language: str) -> Iterator[Pair]:
    """Every user turn of trees in `language` (or that name none): the preferred reply with each of the others."""
    for t in tree.read_trees(path):
        nodes = tree.index(t)
        for letter, role in tree.REPLIES.items():
            for at in nodes:
                first, other = nodes.get(f"{at}/p"), nodes.get(f"{at}/{letter}")
                if letter == "p" or not first or not other or t.get("language", language) != language:
                    continue
                verdicts = (nodes[at] if letter == "r" else other).get("verdicts", [])
                chosen = [float(v["chosen"] == "preferred") for v in verdicts if v["chosen"] is not None]
                yield Pair(
                    names=("preferred", role),
                    place=f"{path}: {t['id']} {at}",
                    profile=str(t.get("profile", t["id"])),
                    persona=t.get("items", []),
                    history=tree.history(nodes, at),
                    replies=(first["text"], other["text"]),
                    machine=("verifier", sum(chosen) / len(chosen) if chosen else None),
                )


def of_arms(data: Path, names: tuple[str, str]) -> Iterator[Pair]:
    """Turns of two arms' conversations up to the first where the user's messages or the replies so far differ."""
    first, other = ({c["id"]: c for c in read_jsonl(data / f"conversations/{name}.jsonl")} for name in names)
    scores = [_scores(data / f"judgements/{name}.jsonl") for name in names]
    for case in sorted({*first} & {*other}):
        history: list[Message] = []
        for a, b in zip(first[case]["turns"], other[case]["turns"], strict=False):
            history.append({"role": "user", "content": a["user"]})
            if a["user"] != b["user"]:
                break
            x, y = (s.get((case, a["turn"])) for s in scores)
            yield Pair(
                names=names,
                place=f"{data}/conversations: {case} turn {a['turn']}",
                profile=first[case]["profile"],
                persona=first[case].get("items", []),
                history=[*history],
                replies=(a["reply"], b["reply"]),
                machine=("judge", None if x is None or y is None else 0.5 + 0.5 * ((x > y) - (x < y))),
            )
            if a["reply"] != b["reply"]:
                break
            history.append({"role": "assistant", "content": a["reply"]})


def _scores(path: Path) -> dict[tuple[str, int], float | None]:
    """By case and turn, of the file's first judge and by the right persona; none without the file."""
    rows = [r for r in read_jsonl(path) if r.get("persona", "right") == "right"] if path.exists() else []
    return {(r["id"], r["turn"]): r["score"] for r in rows if r.get("judge") == rows[0].get("judge")}


def drawn(pairs: list[Pair], number: int, seed: int) -> list[Pair]:
    """Up to `number` pairs: the comparisons in turn, within one the profiles in turn, in an order that is drawn.

    Pairs whose replies are the same, or of which one is empty, ask nothing and are left out.
    """
    draw = random.Random(seed)
    asked = [p for p in pairs if all(r.strip() for r in p.replies) and p.replies[0].strip() != p.replies[1].strip()]
    draw.shuffle(asked)
    several: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    for p in asked:
        several.setdefault(p.names, {}).setdefault(p.profile, []).append(p)
    by_names = [_in_turn(list(of_profile.values())) for of_profile in several.values()]
    found = _in_turn(by_names)[:number]
    draw.shuffle(found)
    return found


def _in_turn(lists: list[list[Pair]]) -> list[Pair]:
    """The first of each, then the second of each, and so on."""
    return [p for row in zip_longest(*lists) for p in row if p is not None]


def survey(pairs: list[Pair], seed: int, persona: bool) -> tuple[Record, Record]:
    """(what the page holds, the key): the same ids, drawn so that they tell nothing."""
    shown, key = [], {}
    for p in pairs:
        name = digest(seed, p.place, p.names)[:10]
        turned = seed_of(seed, name) % 2
        shown.append(
            {"id": name, "history": p.history, "replies": p.replies[::-1] if turned else p.replies}
            | ({"persona": p.persona} if persona else {})
        )
        key[name] = {
            "names": p.names, "left": p.names[turned], "place": p.place, "profile": p.profile,
            "machine": dict(zip(("name", "choice"), p.machine, strict=True)),
        }  # fmt: skip
    known: Record = {"id": digest(shown)[:12], "persona": persona}
    return {**known, "pairs": shown}, {**known, "seed": seed, "pairs": key}


def page(shown: Record) -> str:
    """The page: every text of the pairs is data to its one script, and the policy lets it reach nothing."""
    return TEMPLATES.get_template(TEMPLATE.name).render(
        policy=policy(TEMPLATE.read_text("utf-8")),
        data=block("survey", shown),
        persona=shown["persona"],
        n=len(shown["pairs"]),
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--pairs", type=int, default=40, metavar="N", help="asked of everybody (40)")
    p.add_argument("--seed", type=int, default=1, help="of pairs, order and sides (1)")
    p.add_argument("--persona", action="store_true", help="show the persona; without it people infer, as the model has to")
    p.add_argument("--trees", type=Path, metavar="FILE", help="read (trees.jsonl of --data)")
    p.add_argument("--language", default="en", help="of the trees that name theirs (en)")
    p.add_argument("--arms", nargs=2, metavar="ARM", help="also compare two arms")
    p.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER", help="read (data)")
    p.add_argument("--out", type=Path, default=KEYS, metavar="FOLDER", help=f"written ({KEYS})")
    a = p.parse_args()
    trees = a.trees or a.data / "trees.jsonl"
    found = list(of_trees(trees, a.language))
    found += of_arms(a.data, tuple(a.arms)) if a.arms else []
    pairs = drawn(found, a.pairs, a.seed)
    if not pairs:
        raise UserError(f"{trees}: no pair of two different replies in language {a.language}; give other TREES or ARMS")
    shown, key = survey(pairs, a.seed, a.persona)
    kept = a.out / f"key-{key['id']}.json"  # a page of its own has a key of its own: answers to earlier ones stay readable
    write_json(kept, key)
    with replacing(a.out / "survey.html") as f:
        f.write(page(shown))
    for names in dict.fromkeys(p.names for p in pairs):
        print(f"{sum(p.names == names for p in pairs)} pairs {' - '.join(names)}")
    print(f"{a.out}/survey.html: send it; {kept}: keep it, python -m stages.tools.recompute needs it")


if __name__ == "__main__":
    run(main)
