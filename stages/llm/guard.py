"""Lets only requests with the run's key through to a local server. Servers import it into environments of their own, so it
imports nothing of the project."""

import os
import secrets
from typing import Any

KEY = "LOCAL_SERVER_KEY"  # in the environment of a server process; arguments can be read by every user of the machine


async def only_with_the_key(request: Any, answer: Any) -> Any:
    """A middleware of FastAPI for all paths: vLLM's own keys leave some open."""
    from fastapi.responses import JSONResponse

    given, expected = request.headers.get("authorization", ""), f"Bearer {os.environ[KEY]}"
    if secrets.compare_digest(given.encode(), expected.encode()):
        return await answer(request)
    return JSONResponse({"error": {"message": "not the key of this run"}}, 401)
