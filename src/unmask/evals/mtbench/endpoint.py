"""A chat model behind an OpenAI-compatible endpoint: one POST to `BASE/chat/completions` for each completion.

What may pass is tried again with growing pauses (as long as the server's Retry-After asks for, where it does): no
connection, 408, 409, 429, 5xx, and answers that are no completion. What cannot pass, such as a wrong key, fails at
once.
"""

from __future__ import annotations

import importlib.util
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from unmask.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    import requests

PASSING = (408, 409, 429)
"""Statuses below 500 that are tried again."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LONGEST_ASKED_PAUSE = 600.0
"""In seconds; the last where the server asks for it."""


@dataclass(frozen=True)
class Reply:
    """A completion and what it was charged for; None where the server does not tell."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class _PassingError(Exception):
    """Something that may work in a while."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


def check_installed() -> None:
    """Raise `UnmaskError` unless requests is there."""
    if importlib.util.find_spec("requests") is None:
        raise UnmaskError("unmask mtbench judge: needs the package requests: pip install requests")


class Endpoint:
    """Where to ask, and how patiently. Several threads may ask at a time."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout: float = 300.0,
        retries: int = 8,
        on_pause: Callable[[str], None] = lambda told: None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """`base_url` ends before /chat/completions. `on_pause` hears why and how long a request waits; `pause` waits.

        Raises `UsageError` on a `base_url` that is no http address, and on numbers out of range.
        """
        if not base_url.startswith(("http://", "https://")):
            raise UsageError(f"--base-url {base_url}: must begin with http:// or https://")
        if timeout <= 0:
            raise UsageError(f"--timeout {timeout:g}: must be more than 0")
        if retries < 0:
            raise UsageError(f"--retries {retries}: must not be negative")
        self.base_url = base_url.rstrip("/").removesuffix("/chat/completions")
        self._key = api_key
        self._timeout = timeout
        self._retries = retries
        self._on_pause = on_pause
        self.stopped = threading.Event()
        """Set it, and requests that wait fail at once."""
        self._pause = pause or self.stopped.wait
        self._sessions = threading.local()

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """The completion that `body` (model, messages, ...) asks for.

        Raises `UnmaskError` on what cannot pass, and when all retries are spent.
        """
        for attempt in range(self._retries + 1):
            try:
                return self._once(body)
            except _PassingError as problem:
                if attempt == self._retries or self.stopped.is_set():
                    tries = f"{attempt + 1} tries" if attempt else "1 try"
                    raise UnmaskError(
                        f"--base-url {self.base_url}: {problem}, after {tries}: run the command again to go on"
                    ) from None
                grown = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1)
                seconds = grown if problem.pause is None else min(problem.pause, LONGEST_ASKED_PAUSE)
                self._on_pause(f"{problem}: trying again in {seconds:.0f} s")
                self._pause(seconds)
        raise AssertionError("unreachable")

    def _once(self, body: Mapping[str, Any]) -> Reply:
        import requests

        try:
            response = self._session().post(
                f"{self.base_url}/chat/completions", json=dict(body), timeout=self._timeout, auth=self._authorized
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _PassingError(f"no answer ({type(error).__name__})") from None
        except requests.RequestException as error:
            raise UnmaskError(f"--base-url {self.base_url}: {error}: correct it") from None
        told = _message(response)
        status = f"{response.status_code} {response.reason}{f' ({told})' if told else ''}"
        if response.ok:
            return _reply(response)
        out_of_money = "insufficient_quota" in response.text
        if response.status_code >= 500 or (response.status_code in PASSING and not out_of_money):
            raise _PassingError(status, _retry_after(response))
        remedy = {
            401: "check --api-key or OPENAI_API_KEY",
            403: "check what --api-key or OPENAI_API_KEY may do",
            404: "check --judge, and that --base-url ends before /chat/completions",
            429: "the account's quota is spent",
        }.get(response.status_code, "check --judge, --max-tokens and --body")
        raise UnmaskError(f"--base-url {self.base_url}: {status}: {remedy}")

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the key; as `auth`, so that no entry of ~/.netrc takes its place."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _session(self) -> requests.Session:
        """One for each thread, whose connection is kept."""
        import requests

        found = getattr(self._sessions, "session", None)
        if found is None:
            found = self._sessions.session = requests.Session()
        return cast("requests.Session", found)


def _reply(response: requests.Response) -> Reply:
    fields = _json(response)
    try:
        text = fields["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise _PassingError("an answer that is no chat completion") from None
    if not isinstance(text, str):
        raise _PassingError("a completion without text")
    usage = fields.get("usage")
    counts = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
    return Reply(text, *(_count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens")))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _message(response: requests.Response) -> str:
    """What an error response says for people, in one short line."""
    if response.ok:
        return ""
    fields = _json(response)
    error: Any = cast("dict[str, Any]", fields).get("error", fields) if isinstance(fields, dict) else fields
    told = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return " ".join(told.split())[:200] if isinstance(told, str) else ""


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    asked = response.headers.get("Retry-After")
    try:
        return None if asked is None else Retry().parse_retry_after(asked)
    except InvalidHeader:
        return None
