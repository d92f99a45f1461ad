"""Conversation trees: the unit of role-play. Every node's message history is the path from the root to it.

A node's id is its path: `u` is the user's first turn, `u/p`, `u/r` and `u/m` the preferred, rejected and misinformed reply
to it, `u/p/u` the user's next turn after the preferred reply. The id is part of the seed of every call, so a tree that grows
keeps what it has.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from stages.core.cli import UserError
from stages.core.files import Record, jsonl_files, read_objects
from stages.core.params import checked
from stages.core.prompts import Message

Node = dict[str, Any]
REPLIES = {"p": "preferred", "r": "rejected", "m": "misinformed"}
_PATH = re.compile(r"u(/[prm]/u)*(/[prm])?")  # an id


def index(tree: Record) -> dict[str, Node]:
    """Nodes by id."""
    return {n["id"]: n for n in tree["nodes"]}


def parent(node_id: str) -> str | None:
    """Id of the node before, None at the root."""
    return node_id.rpartition("/")[0] or None


def path(nodes: dict[str, Node], node_id: str | None) -> list[Node]:
    """Nodes from the root to `node_id`. Raises UserError if one is missing."""
    found: list[Node] = []
    while node_id is not None:
        if node_id not in nodes:
            raise UserError(f"tree node {node_id}: missing; the tree is damaged, run roleplay again")
        found.append(nodes[node_id])
        node_id = parent(node_id)
    return found[::-1]


def history(nodes: dict[str, Node], node_id: str | None) -> list[Message]:
    """The exact chat messages from the root to `node_id`, none for None. All kinds of reply are the assistant's."""
    return [{"role": "user" if n["role"] == "user" else "assistant", "content": n["text"]} for n in path(nodes, node_id)]


def decisions(tree: Record, other: str = "r") -> Iterator[tuple[Node, Node, Node]]:
    """(user node, preferred reply, the `other` of REPLIES) wherever both replies exist, in order of id."""
    nodes = index(tree)
    for node_id in sorted(nodes):
        preferred, rejected = nodes.get(f"{node_id}/p"), nodes.get(f"{node_id}/{other}")
        if preferred and rejected:
            yield nodes[node_id], preferred, rejected


class _Quote(BaseModel, strict=True):
    item: int
    quote: str


class _Verdict(BaseModel, strict=True):
    chosen: Literal["preferred", "rejected", "misinformed"] | None


class _Node(BaseModel, strict=True):
    id: str
    role: Literal["user", "preferred", "rejected", "misinformed"]
    text: str
    note: list[int] | None = None
    quotes: list[_Quote] = []
    mentions: list[_Quote] | None = None
    verdicts: list[_Verdict] = []


class _Tree(BaseModel, strict=True):
    id: str
    nodes: list[_Node]
    items: list[str] = []
    profile: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        ids = Counter(n.id for n in self.nodes)
        for n in self.nodes:
            known = _PATH.fullmatch(n.id) and REPLIES.get(n.id[-1], "user") == n.role
            if not known or ids[n.id] > 1 or (parent(n.id) or n.id) not in ids:
                raise ValueError(f"node {n.id}, {n.role}: ids are paths, each once: u, u/p, u/r, u/m, then u/p/u ...")
            quoted = (q.item for q in [*n.quotes, *(n.mentions or [])])
            noted = n.note if n.role == "user" else None  # a misinformed reply's note is on somebody else
            if not all(0 <= i < len(self.items) for i in [*(noted or []), *quoted]):
                raise ValueError(f"node {n.id}: names an item beyond the tree's {len(self.items)} `items`, counted from 0")
        return self


def read_trees(*paths: Path) -> list[Record]:
    """Trees of several files, or of the *.jsonl of folders, in the order given.

    Raises:
        UserError: a row that is no tree, with its line; an id that two trees have; fewer than two trees.
    """
    places: dict[str, str] = {}
    trees = []
    for file in jsonl_files(*paths):
        for number, t in read_objects(file):
            where = f"{file}:{number}"
            if wrong := checked(_Tree, t)[1]:
                raise UserError(f"{where}: not a tree (data/natural/README.md has its form): {wrong[0].lstrip(': ')[:300]}")
            if t["id"] in places:
                raise UserError(f"{where}: tree {t['id']} is in {places[t['id']]}, too; give each tree an id of its own")
            places[t["id"]] = where
            trees.append(t)
    if len(trees) < 2:
        read = " and ".join(map(str, paths))
        raise UserError(f"{read}: {len(trees)} trees cannot be split into train and validation; grow more personas")
    return trees
