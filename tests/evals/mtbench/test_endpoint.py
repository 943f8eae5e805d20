"""The judge's endpoint over real HTTP: what is tried again, what is not, and what is told."""

import threading

import pytest

from fake_judge import FakeJudge, completion, serving
from unmask.errors import UnmaskError, UsageError
from unmask.evals.mtbench.endpoint import LONGEST_ASKED_PAUSE, Endpoint

BODY = {"model": "judge", "messages": [{"role": "user", "content": "How is it?"}]}


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return FakeJudge()


@pytest.fixture
def endpoint(judge):
    with serving(judge) as url:
        pauses = []
        told = []

        def made(key="right", **about):
            made.endpoint = Endpoint(url, key, pause=pauses.append, on_pause=told.append, **about)
            return made.endpoint

        made.url, made.pauses, made.told = url, pauses, told
        yield made


def test_a_completion_has_its_text_and_its_tokens(endpoint, judge):
    reply = endpoint().complete(BODY)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == (judge.judgment, 100, 10)
    assert judge.requests == [BODY]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ((429, {}, {"error": {"message": "slow\n down"}}), "429 Too Many Requests (slow down)"),
        ((500, {}, "not JSON"), "500 Internal Server Error"),
        ((503, {}, {"detail": "loading"}), "503 Service Unavailable"),
        ((200, {}, "<html>"), "an answer that is no chat completion"),
        ((200, {}, {"choices": []}), "an answer that is no chat completion"),
        ((200, {}, [1]), "an answer that is no chat completion"),
        ((200, {}, completion(None)), "a completion without text"),
        ((None, {}, ""), "no answer (ConnectionError)"),
    ],
)
def test_what_may_pass_is_tried_again(endpoint, judge, failure, told):
    judge.script = [failure, failure]
    assert endpoint().complete(BODY).text == judge.judgment
    assert len(judge.requests) == 3
    assert len(endpoint.pauses) == 2
    assert 0.5 <= endpoint.pauses[0] <= 1
    assert 1 <= endpoint.pauses[1] <= 2  # they grow
    assert all(line.startswith(told) for line in endpoint.told)
    # and is told when it does not pass
    judge.script = [failure] * 3
    with pytest.raises(UnmaskError) as error:
        endpoint(retries=2).complete(BODY)
    assert f"--base-url {endpoint.url}: {told}, after 3 tries: run the command again to go on" in str(error.value)
    assert judge.script == []


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("100000", LONGEST_ASKED_PAUSE)])
def test_the_pause_that_the_server_asks_for_is_made(endpoint, judge, asked, expected):
    judge.script = [(429, {"Retry-After": asked}, {})]
    endpoint().complete(BODY)
    assert endpoint.pauses == [expected]


def test_a_retry_after_that_says_nothing_is_ignored(endpoint, judge):
    judge.script = [(429, {"Retry-After": "soon"}, {})]
    endpoint().complete(BODY)
    assert endpoint.pauses[0] <= 1


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, {"error": {"message": "max_tokens is too large"}}, "400 Bad Request (max_tokens is too large): check"),
        (403, {"error": "no"}, "403 Forbidden (no): check what --api-key"),
        (404, {"error": {"message": "no model judge"}}, "404 Not Found (no model judge): check --judge"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "(pay): the account's quota is spent"),
    ],
)
def test_what_cannot_pass_fails_at_once(endpoint, judge, status, content, told):
    judge.script = [(status, {}, content)]
    with pytest.raises(UnmaskError) as error:
        endpoint().complete(BODY)
    assert told in str(error.value)
    assert len(judge.requests) == 1
    assert endpoint.pauses == []


@pytest.mark.parametrize("key", ["wrong", None])
def test_a_wrong_key_fails_at_once(endpoint, judge, key):
    with pytest.raises(UnmaskError, match=r"401 Unauthorized \(Incorrect API key provided\): check --api-key or OPEN"):
        endpoint(key).complete(BODY)
    assert len(judge.requests) == 1


def test_an_address_with_the_path_is_taken_too(judge):
    with serving(judge) as url:
        assert Endpoint(f"{url}/chat/completions/", "right").complete(BODY).text == judge.judgment
        assert Endpoint(f"{url}/", "right").complete(BODY).text == judge.judgment


def test_a_netrc_does_not_take_the_place_of_the_key(endpoint, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    endpoint().complete(BODY)


def test_who_waits_when_it_is_stopped_fails(judge):
    judge.script = [(429, {"Retry-After": "500"}, {})]
    failed = []
    with serving(judge) as url:
        endpoint = Endpoint(url, "right", on_pause=lambda told: waiting.set())

        def ask():
            try:
                endpoint.complete(BODY)
            except UnmaskError as error:
                failed.append(str(error))

        waiting = threading.Event()
        judge.script *= 2
        thread = threading.Thread(target=ask)
        thread.start()
        waiting.wait()
        endpoint.stopped.set()
        thread.join(30)
        assert "429 Too Many Requests" in failed[0]


@pytest.mark.parametrize(
    ("url", "about", "told"),
    [
        ("api.openai.com", {}, "--base-url api.openai.com: must begin with http"),
        ("http://x", {"timeout": 0}, "--timeout 0"),
        ("http://x", {"retries": -1}, "--retries -1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(url, about, told):
    with pytest.raises(UsageError, match=told):
        Endpoint(url, None, **about)
