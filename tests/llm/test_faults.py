"""What a refusal means: by its status, its code and its words."""

import pytest

from stages.llm.faults import FORBIDDEN, RETRY, STOP, WAIT, inside, refusal
from stages.llm.limiter import retry_after

QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    "status, error, after, meaning",
    [
        (429, {"message": QUOTA, "code": "insufficient_quota"}, None, STOP),
        (429, {"message": QUOTA, "type": "insufficient_quota", "code": None}, None, STOP),
        (429, {"message": "Account balance is not enough", "code": "1113"}, None, STOP),
        (429, {"message": QUOTA, "code": "insufficient_quota"}, 20.0, WAIT),
        (429, {"message": QUOTA, "code": 429, "status": "RESOURCE_EXHAUSTED"}, None, WAIT),
        (429, {"message": "Requests have exceeded call rate limit of your current quota. Retry after 8 seconds.",
               "code": "429"}, 8.0, WAIT),
        (429, {"message": "Quota exceeded: requests per minute", "code": "insufficient_quota"}, None, WAIT),
        (429, "slow down", None, WAIT),
        (402, {"message": "Insufficient Balance"}, None, STOP),
        (402, None, None, STOP),
        (400, {"message": "Your credit balance is too low to access the API."}, None, STOP),
        (403, {"message": "insufficient balance"}, None, STOP),
        *[(status, {"message": "x"}, None, RETRY) for status in (408, 409, 425, 500, 502, 503, 504, 520, 529)],
        *[(status, {"message": "x"}, None, STOP) for status in (301, 307, 401, 404, 405, 410, 501)],
        (403, {"message": "Your chosen model requires moderation and your input was flagged",
               "metadata": {"reasons": ["violence"]}}, None, "filtered"),
        (403, {"message": "This request violates our content policy"}, None, "filtered"),
        (403, {"message": "You do not have permission to use this model"}, None, STOP),
        (403, {"message": "Country, region, or territory not supported"}, None, STOP),
        (403, "<html>Forbidden</html>", None, FORBIDDEN),
        (400, {"code": "content_filter", "message": "The response was filtered due to the prompt"}, None, "filtered"),
        (451, {"message": "x"}, None, "filtered"),
        (400, {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}, None, STOP),
        (400, {"message": "Model Not Exist"}, None, STOP),
        (400, {"message": "max_tokens must be at least 1, got -12"}, None, "context_overflow"),
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}, None, "context_overflow"),
        (500, {"message": "the request exceeds the available context size"}, None, "context_overflow"),
        (500, {"message": "context deadline exceeded"}, None, RETRY),
        (500, {"message": "Jinja Exception: System role not supported"}, None, STOP),
        (422, {"message": "bad schema"}, None, "status_422"),
    ],
)  # fmt: skip
def test_meanings(status, error, after, meaning):
    shapes = [error, {"error": error}, [{"error": error}]] if isinstance(error, dict) else [error]
    assert {refusal(status, shape, after).meaning() for shape in shapes} == {meaning}


@pytest.mark.parametrize(
    "answer, status",
    [
        ({"error": {"code": 502, "message": "Provider returned error"}}, 502),
        ({"error": {"code": "429", "message": "slow down"}, "choices": []}, 429),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, 429),
        ({"error": {"type": "overloaded_error", "message": "x"}}, 503),
        ({"error": {"type": "server_error"}}, 500),
        ({"error": "upstream timeout"}, 504),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, 404),  # LM Studio, without /v1
        ({"choices": [{"finish_reason": "error", "message": {"content": "half"}, "error": {"code": 503}}]}, 503),
        ({"error": {"message": "x"}}, None),
        ({"error": None, "choices": [{"message": {"content": "x"}}]}, None),
        ({"object": "error"}, None),
        (["x"], None),
        (None, None),
    ],
)
def test_an_error_in_place_of_a_reply_has_its_own_status(answer, status):
    found = inside(answer)
    assert (found and found.status) == status


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "1.5"}, 1.5), ({"retry-after": "0"}, 0.0), ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None), ({"retry-after": "-3"}, None), ({"retry-after": "soon"}, None), ({}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ],
)  # fmt: skip
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_may_be_a_date():
    import email.utils
    import time

    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < retry_after({"retry-after": later}) < 31
