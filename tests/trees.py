"""Small conversation trees whose contents are known, for tests of trees and of the pairs made of them."""

from fakes import YAML, section

from stages.pairs.settings import ExtractPairs

REPLIES = {"p": "preferred", "r": "rejected"}
ITEMS = [
    "I mend fishing nets on the beach at Elmina.",
    "My left thumb has been stiff since a hook went through it.",
    "I keep three ducks in an upturned canoe.",
    "I am saving for a nursing college in Cape Coast.",
    "I am blunt.",
]
PLAIN = "Take a slow walk, drink some water and go to bed early tonight."
OFF = {name: None for name in YAML["extract_pairs"]["filters"]} | {"names_inference": False, "confused": False}
LABELS = (("preferred", "preferred"), ("rejected", "rejected"), ("preferred", "rejected"))


def extracting(on_disagreement="drop", **filters):
    """Section extract_pairs with these filters alone."""
    return section(ExtractPairs, "extract_pairs", on_disagreement=on_disagreement, filters={**OFF, **filters})


def a_tree(number=0, verdicts=LABELS):
    """Three turns: the rejected reply continues first, then the preferred one."""
    nodes, node_id = [], "u"
    for turn, (answers, onward) in enumerate(zip(verdicts, "rpp", strict=True), 1):
        nodes.append({"id": node_id, "turn": turn, "role": "user", "text": f"U{turn} of {number}", "item": 0, "note": [],
                      "verdicts": [{"chosen": a} for a in answers]})  # fmt: skip
        for name, role in REPLIES.items():
            nodes.append({"id": f"{node_id}/{name}", "turn": turn, "role": role, "text": f"{role} {turn} of {number}"})
        node_id += f"/{onward}/u"
    return {"id": f"t{number}", "nodes": nodes}


def recite(user, preferred, rejected):
    """The informed reply says three items."""
    preferred["text"] = " ".join(ITEMS[:3])


def planted(number=0, every=0, plant=recite, verdicts=("preferred", "preferred")):
    """A tree of one decision, clean but for every `every`-th one, which `plant` spoils."""
    answers = [{"first": f, "chosen": c} for f, c in zip(("preferred", "rejected"), verdicts, strict=True)]
    said = f"{ITEMS[0]} What about plan {number}?"
    user = {"id": "u", "turn": 1, "role": "user", "text": said, "item": 0, "note": [0], "verdicts": answers}
    replies = {"p": f"{PLAIN} Number {number} suits nets.", "r": f"Read a good book and rest now. Number {number} is fine."}
    nodes = [user, *({"id": f"u/{k}", "turn": 1, "role": REPLIES[k], "text": v} for k, v in replies.items())]
    if every and number % every == 0:
        plant(*nodes)
    return {"id": f"t{number}", "items": ITEMS, "nodes": nodes}


def two_turns(first, second, note):
    """A tree whose user first speaks of nets, then of ducks; `second` is the informed reply to the latter."""
    kept, earlier = ({}, {}) if note is None else ({"note": note}, {"note": note[:1]})
    nodes = [
        {"id": "u", "turn": 1, "role": "user", "text": f"{ITEMS[0]} What now?", "item": 0, **earlier},
        {"id": "u/p", "turn": 1, "role": "preferred", "text": first},
        {"id": "u/r", "turn": 1, "role": "rejected", "text": PLAIN},
        {"id": "u/p/u", "turn": 2, "role": "user", "text": f"{ITEMS[2]} Any advice?", "item": 2, **kept},
        {"id": "u/p/u/p", "turn": 2, "role": "preferred", "text": second},
        {"id": "u/p/u/r", "turn": 2, "role": "rejected", "text": PLAIN},
    ]
    return {"id": "t", "items": ITEMS, "nodes": nodes}


def sized(number, longer):
    """A tree whose chosen reply is longer than the other one, by a little more in each, or shorter."""
    t = planted(number)
    long, short = (" ".join(f"w{i}x{number}{k}" for i in range(n)) for k, n in enumerate((12 + number % 7, 10)))
    t["nodes"][1]["text"], t["nodes"][2]["text"] = (long, short) if longer else (short, long)
    return t
