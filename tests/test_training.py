"""What SFT and DPO read."""

import pytest

from stages.common.errors import UserError
from stages.common.training import check_row

SAID = [{"role": "user", "content": "x"}]


def test_rows_in_the_conversational_format_pass():
    check_row({"prompt": SAID, "completion": SAID, "more": 1}, ("prompt", "completion"), "f:1")


@pytest.mark.parametrize(
    "row",
    [{"prompt": SAID}, {"prompt": SAID, "completion": "text"}, {"prompt": SAID, "completion": []},
     {"prompt": SAID, "completion": [{"role": "user"}]}, ["x"]],
)  # fmt: skip
def test_other_rows_are_named_by_their_line(row):
    with pytest.raises(UserError, match=r"own\.jsonl:7: `(completion|prompt)` must be a list of messages"):
        check_row(row, ("prompt", "completion"), "own.jsonl:7")
