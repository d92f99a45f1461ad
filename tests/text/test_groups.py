"""Groups of users: what is no group gets one line."""

import json

import pytest
from scoring import group

from stages.core.cli import UserError
from stages.text import groups


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda g: g.pop("message"), "lacks the text `message`"),
        (lambda g: g.pop("kind"), "lacks the text `kind`"),
        (lambda g: g.update(users=g["users"][:1]), "list of two or more"),
        (lambda g: g["users"][1].update(reply=" "), "user 2 of group g0 lacks the text `reply`"),
        (lambda g: g["users"][1].pop("id"), "user 2 of group g0 lacks the text `id`"),
        (lambda g: g["users"].append("x"), "user 5 of group g0 lacks the text `id`"),
        (lambda g: g["users"][0].update(history="hello"), "must be a list of messages"),
        (lambda g: g["users"][0].update(persona=3), "`persona` must be a text"),
        (lambda g: g["users"][1].update(id="u0"), "two users of group g0 have one id"),
    ],
)
def test_a_group_that_cannot_be_crossed_gets_one_line(tmp_path, change, told):
    broken = group()
    change(broken)
    file = tmp_path / "groups.jsonl"
    file.write_text(json.dumps(group(1)) + "\n" + json.dumps(broken) + "\n")
    with pytest.raises(UserError, match=rf"groups.jsonl:2: .*{told}"):
        groups.read(file)


def test_no_group_and_one_name_twice_are_named(tmp_path):
    file = tmp_path / "groups.jsonl"
    file.write_text("")
    with pytest.raises(UserError, match="holds no group"):
        groups.read(file)
    file.write_text(2 * (json.dumps(group()) + "\n"))
    with pytest.raises(UserError, match="two groups have one name"):
        groups.read(file)
