"""Trees: paths, histories, decisions, and files of trees."""

import json

import pytest
from trees import a_tree

from stages.core.cli import UserError
from stages.dialogue import tree


def test_a_history_is_the_path_from_the_root():
    nodes = tree.index(a_tree())
    assert [n["id"] for n in tree.path(nodes, "u/r/u/p")] == ["u", "u/r", "u/r/u", "u/r/u/p"]
    assert tree.history(nodes, "u/r/u") == [
        {"role": "user", "content": "U1 of 0"},
        {"role": "assistant", "content": "rejected 1 of 0"},
        {"role": "user", "content": "U2 of 0"},
    ]
    assert tree.history(nodes, None) == [] and tree.parent("u") is None
    del nodes["u/r"]
    with pytest.raises(UserError, match="tree node u/r: missing"):
        tree.history(nodes, "u/r/u")


def test_decisions_are_where_both_replies_are():
    t = a_tree()
    t["nodes"] = [n for n in t["nodes"] if n["id"] != "u/r/u/r"]
    assert [[n["id"] for n in nodes] for nodes in tree.decisions(t)] == [
        ["u", "u/p", "u/r"], ["u/r/u/p/u", "u/r/u/p/u/p", "u/r/u/p/u/r"]
    ]  # fmt: skip


def test_files_of_trees(tmp_path):
    path = tmp_path / "trees.jsonl"
    path.write_text(f"{json.dumps(a_tree(0))}\n{json.dumps(a_tree(1))}\n")
    assert [t["id"] for t in tree.read_trees(path)] == ["t0", "t1"]
    for bad in (
        {"id": "x", "nodes": [{"id": 3}]},
        {"nodes": []},
        {"id": "x", "nodes": [{"id": "u", "role": "me", "text": ""}]},
    ):
        path.write_text(f"{json.dumps(a_tree())}\n{json.dumps(bad)}\n")
        with pytest.raises(UserError, match=r"trees\.jsonl:2: not a tree"):
            tree.read_trees(path)
    user, reply = ({"id": name, "role": role, "text": ""} for name, role in (("u", "user"), ("u/p", "preferred")))
    for nodes, fault in (
        ([{**user, "id": "n0"}], "node n0, user: ids are paths"),
        ([user, {**reply, "role": "rejected"}], "node u/p, rejected: ids are paths"),
        ([user, reply, reply], "node u/p, preferred: ids are paths, each once"),
        ([reply], "node u/p, preferred: ids are paths"),
        ([{**user, "note": [1]}], "node u: names an item beyond the tree's 1"),
        ([{**user, "quotes": [{"item": 1, "quote": "a"}]}], "node u: names an item beyond"),
        ([{**user, "quotes": ["a"]}], r"nodes\.0\.quotes\.0: "),
        ([{**user, "note": ["I am."]}], r"nodes\.0\.note\.0: .*, found 'I am\.'"),
        ([{**user, "verdicts": ["preferred"]}], r"nodes\.0\.verdicts\.0: "),
    ):
        path.write_text("\n" + json.dumps({"id": "x", "items": ["I am."], "nodes": nodes}))
        with pytest.raises(UserError, match=rf"trees\.jsonl:2: not a tree .*: {fault}"):
            tree.read_trees(path)
    path.write_text(json.dumps(a_tree()))
    with pytest.raises(UserError, match="1 trees cannot be split"):
        tree.read_trees(path)


def test_several_files_and_folders_of_trees(tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    for path, n in (
        (tmp_path / "one.jsonl", 0),
        (folder / "b.jsonl", 2),
        (folder / "a.jsonl", 1),
        (folder / "notes.txt", 9),
    ):
        path.write_text(json.dumps(a_tree(n)) + "\n")
    assert [t["id"] for t in tree.read_trees(tmp_path / "one.jsonl", folder)] == ["t0", "t1", "t2"]
    (folder / "b.jsonl").write_text(json.dumps(a_tree(0)) + "\n")
    with pytest.raises(UserError, match=r"b\.jsonl:1: tree t0 is in .*one\.jsonl:1, too"):
        tree.read_trees(tmp_path / "one.jsonl", folder)


def test_decisions_of_another_reply():
    t = a_tree()
    t["nodes"].append({"id": "u/m", "turn": 1, "role": "misinformed", "text": "Other.", "of": "b", "note": [5]})
    assert [[n["id"] for n in nodes] for nodes in tree.decisions(t, "m")] == [["u", "u/p", "u/m"]]
