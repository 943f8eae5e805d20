"""A model of unmask in lm-evaluation-harness: `lm_eval --model unmask --model_args pretrained=DIR,guidance=0.6`.

MDMs and ARMs of ours answer the harness's requests through `unmask.likelihood`: batched by length, with common masks,
with or without guidance. Beside the harness's figures a `Record` is kept of each request: its error, its network calls,
whether its prompt was cut, what went wrong with it.

lm-eval finds the class by the entry point `lm_eval.models` where the installed version looks for one; `unmask eval`
uses it in any case.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from lm_eval.api.model import TemplateLM

from unmask import likelihood, model_directory, samplers
from unmask.data.chat_template import ChatTemplate
from unmask.data.conversations import Message, Role
from unmask.errors import UsageError, unknown_name
from unmask.evals.finished import Finished
from unmask.evals.greedy import GreedyAnswers
from unmask.evals.request_log import Log, Record, Spent
from unmask.evals.texts import Asked, Texts, numbered, until
from unmask.generation import Sampling
from unmask.language_model import load
from unmask.likelihood import Request, Settings, decoding
from unmask.wording import counted

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from unmask.language_model import LanguageModel

MANY_SETS = 100_000
"""So many network calls of the estimator "exact" are told before they are made."""
SEARCHED_LENGTHS = 8
"""Most tokens of an answer that is searched for without its length."""


class UnmaskLM(TemplateLM):
    """See the module. All arguments can be given as text, as the harness does."""

    def __init__(
        self,
        pretrained: str | LanguageModel = "",
        *,
        guidance: float | str = 0.0,
        estimator: str = "auto",
        num_samples: int | str = 128,
        adaptive: float | str | None = None,
        seed: int | str = 0,
        batch_size: int | str | None = "auto",
        max_batch_size: int | str | None = None,
        device: str | None = None,
        max_gen_toks: int | str = 256,
        sampler: str | None = None,
        steps: int | str | None = None,
        search_lengths: int | str = SEARCHED_LENGTHS,
        progress: bool = True,
        **unknown: Any,
    ) -> None:
        """`pretrained` is a model directory or a `LanguageModel`; the others are those of `unmask score` and `sample`.

        `search_lengths`: greedy answers are also looked for without telling their length, up to so many tokens; 0 for
        not. Raises `UsageError` on an unknown argument or a value out of range, before the model is loaded, or an
        estimator that the model has no mask token for.
        """
        super().__init__()
        for name in unknown:
            raise unknown_name("model argument", name, list(inspect.signature(UnmaskLM).parameters)[:-2])
        if not pretrained:
            raise UsageError("pretrained: name a model directory, as in --model_args pretrained=DIR")
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self.settings = Settings(
            estimator,
            _number("num_samples", num_samples, int),
            _number("guidance", guidance, float),
            _number("seed", seed, int),
            None if automatic else _number("batch_size", batch_size, int),
            None if adaptive is None else _number("adaptive", adaptive, float),
        )
        self.max_gen_toks = _number("max_gen_toks", max_gen_toks, int)
        if self.max_gen_toks < 1:
            raise UsageError(f"max_gen_toks {max_gen_toks}: must be at least 1")
        self.search_lengths = _number("search_lengths", search_lengths, int)
        if self.search_lengths < 0:
            raise UsageError(f"search_lengths {search_lengths}: must be 0 (none) or more")
        self.sampler, self.steps = sampler, None if steps is None else _number("steps", steps, int)
        Sampling.of(steps=self.steps)  # says what is wrong with it
        if sampler is not None:
            samplers.lookup(sampler)
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"  # the harness asks for it unless told otherwise
        self.lm = load(pretrained, device or "auto") if isinstance(pretrained, str) else pretrained
        self.name = pretrained if isinstance(pretrained, str) else "a model in memory"
        self.lm.score_tokens([], self.settings)  # says what is wrong with them
        self.progress = progress
        self.log = Log()
        self.finished = Finished()
        self.leaves_out = False
        """Whether items without a score are left out; the harness itself does not."""
        self.templated = False
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Record] = {}
        self._rolled: dict[tuple[int, ...], Record] = {}
        self._texts = Texts(self.lm, self.settings, self.sampler, self.steps)
        self._device = self.lm.device

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token; -1 if there is none."""
        eos_id = self.lm.tokenizer.eos_id
        return -1 if eos_id is None else eos_id

    @property
    def max_length(self) -> int:
        """Positions of the context."""
        return self.lm.config.context_length

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The tokens of a text."""
        if self.templated:
            return self._template().encode_rendered([string])[0]
        return self.lm.tokenizer.encode(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding gives it) of each request; nan for one that can't be scored.

        Greedy decoding takes network calls of its own and is done for documents with one request, as LAMBADA's; the
        options of a question count as not greedy.
        """
        by_task: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_task.setdefault(str(request.task_name), []).append(index)
        answers: dict[int, tuple[float, bool]] = {}
        for task, indices in by_task.items():
            spent = self.log.spent.setdefault(task, Spent())
            begun = self._clock()
            records = self._score(task, [requests[index] for index in indices], spent)
            spent.seconds += self._clock() - begun
            self._warn(task, records)
            for index, record in zip(indices, records, strict=True):
                request = requests[index]
                self.log.records[task, int(request.doc_id or 0), request.idx] = record
                answers[index] = (record.log_likelihood, bool(record.greedy))
        return [answers[index] for index in range(len(requests))]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Scores without a document, for whoever calls this directly."""
        encoded = cast("list[tuple[Any, list[int], list[int]]]", requests)
        pairs = [self._fit(tuple(each[1]), tuple(each[2]))[0] for each in encoded]
        scored = self.lm.score_tokens([Request(*pair) for pair in pairs], self.settings)
        return [(estimate.log_likelihood, False) for estimate in scored.estimates]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context; each behind the first half of what went before."""
        totals: list[float] = []
        for request in requests:
            task = str(request.task_name)
            tokens = tuple(self.tok_encode(str(cast("tuple[str]", request.args)[0])))
            if tokens not in self._rolled:
                spent = self.log.spent.setdefault(task, Spent())
                begun = self._clock()
                self._rolled[tokens] = self._rolling(tokens, spent)
                spent.seconds += self._clock() - begun
            record = self.log.records[task, int(request.doc_id or 0), request.idx] = self._rolled[tokens]
            totals.append(record.log_likelihood)
            self._show(f"{task}: {len(totals)}/{len(requests)} texts")
        self._show("")
        for task in {str(request.task_name): None for request in requests}:
            self._warn(task, [record for (name, *_), record in self.log.records.items() if name == task])
        return totals

    def _warn(self, task: str, records: Sequence[Record]) -> None:
        """Say, where nobody leaves them out, that some requests have no figure."""
        failed = [record for record in records if record.error]
        if failed and not self.leaves_out:
            logging.getLogger(__name__).warning(
                f"{task}: {counted(len(failed), 'request')} without a score ({failed[0].error}) make its figures nan "
                "or wrong: unmask eval leaves such items out"
            )

    def _rolling(self, tokens: Sequence[int], spent: Spent) -> Record:
        """Of a whole text."""
        windows = rolling_windows(tokens, self.max_length)
        fault = self._fault(max(len(scored) for _, scored in windows)) if windows else ""
        if fault:
            return Record(error=f"a window of its text has {fault}")
        scored = self.lm.score_tokens([Request(*window) for window in windows], self.settings, once=self.finished.once)
        spent.network_calls += scored.network_calls
        return Record(
            sum(estimate.log_likelihood for estimate in scored.estimates),
            math.hypot(*(estimate.standard_error for estimate in scored.estimates)),
            sum(estimate.network_calls for estimate in scored.estimates),
            all(estimate.exact for estimate in scored.estimates),
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of the request's stop strings. Prompts that leave no room are cut on the left."""
        by_task: dict[str, list[Asked]] = {}
        places: list[tuple[str, int]] = []
        for request in requests:
            prompt, options = cast("tuple[str, dict[str, Any]]", request.args)
            new = min(int(options.get("max_gen_toks", self.max_gen_toks)), self.max_length - 1)
            temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            asked = by_task.setdefault(str(request.task_name), [])
            places.append((str(request.task_name), len(asked)))
            asked.append(Asked(tuple(self.tok_encode(prompt)), new, temperature))
        by_task = {task: numbered(asked) for task, asked in by_task.items()}
        for task, asked in by_task.items():
            spent = self.log.spent.setdefault(task, Spent())
            begun = self._clock()
            spent.network_calls += self._texts.write(
                asked, self.finished, lambda done, total, task=task: self._show(f"{task}: {done}/{total} texts")
            )
            spent.seconds += self._clock() - begun
        self._show("")
        texts: list[str] = []
        for request, (task, place) in zip(requests, places, strict=True):
            text, record = self._texts.known[by_task[task][place]]
            texts.append(until(text, cast("tuple[str, dict[str, Any]]", request.args)[1].get("until")))
            self.log.records[task, int(request.doc_id or 0), request.idx] = record
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation by the model's template. Raises `UsageError` if it has none.

        From here on, special tokens in prompts are taken for such, but for those that a message had as text.
        """
        template = self._template()
        self.templated = True
        messages = [Message(cast("Role", turn["role"]), turn["content"]) for turn in chat_history]
        return template.marked(messages, add_generation_prompt=add_generation_prompt)

    def _template(self) -> ChatTemplate:
        if not self.lm.tokenizer.chat_template:
            raise UsageError(f"{self.name}: has no chat template: leave --apply-chat-template out")
        return ChatTemplate(self.lm.tokenizer.chat_template, self.lm.tokenizer)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template in the model's tokenizer configuration, or a template's text given as `chat_template`."""
        if isinstance(chat_template, str):
            return chat_template
        return self.lm.tokenizer.chat_template or ""

    def get_model_info(self) -> dict[str, Any]:
        """For the harness's result file."""
        return {"objective": self.lm.objective, "unmask_settings": vars(self.settings)}

    def _score(self, task: str, instances: Sequence[Instance], spent: Spent) -> list[Record]:
        """Records in the order of the instances, each pair of texts scored once."""
        options: dict[int, int] = {}
        for instance in instances:
            options[int(instance.doc_id or 0)] = options.get(int(instance.doc_id or 0), 0) + 1
        records: list[Record] = []
        waiting: dict[tuple[tuple[int, ...], tuple[int, ...]], Request] = {}
        pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for instance in instances:
            context, continuation = cast("tuple[str, str]", instance.args)
            prompt: list[int] = []
            answer = self.tok_encode(continuation)
            if context:
                prompt, answer = self._encode_pair(context, continuation)
            pair, cut, error = self._fit(tuple(prompt), tuple(answer))
            if not continuation.strip():
                error = "its answer is empty"
            pairs.append(pair)
            records.append(Record(truncated=cut, error=error))
            if not error and pair not in self._known:
                question = int(instance.doc_id or 0) if options[int(instance.doc_id or 0)] > 1 else None
                waiting[pair] = Request(*pair, question, float(max(1, len(continuation.strip()))))
        sets = sum(2 ** len(request.continuation) - 1 for request in waiting.values())
        if self.settings.estimator == "exact" and not self.lm.config.causal and self.progress and sets > MANY_SETS:
            print(f"{task}: the estimator 'exact' sums over {sets:,} sets of masks", file=sys.stderr, flush=True)
        scored = self.lm.score_tokens(
            list(waiting.values()),
            self.settings,
            on_progress=lambda done, total: self._show(f"{task}: {done}/{total}"),
            once=self.finished.once,
        )
        spent.network_calls += scored.network_calls
        spent.calls_saved += scored.calls_saved
        spent.batches_halved += scored.batches_halved
        for pair, estimate in zip(waiting, scored.estimates, strict=True):
            self._known[pair] = Record(
                estimate.log_likelihood, estimate.standard_error, estimate.network_calls, estimate.exact
            )
        asked = [pair for pair, each in zip(pairs, instances, strict=True) if options[int(each.doc_id or 0)] == 1]
        self._decode([pair for pair in dict.fromkeys(asked) if pair in self._known], spent)
        self._show("")
        for record, pair in zip(records, pairs, strict=True):
            if not record.error:
                known = vars(self._known[pair])
                vars(record).update({**known, "truncated": record.truncated})
        return records

    def _decode(self, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], spent: Spent) -> None:
        """Whether greedy decoding gives the continuations, with and without their length as a hint."""
        todo = [pair for pair in pairs if self._known[pair].greedy is None]
        if not todo:
            return
        greedy = GreedyAnswers(self.lm, self.settings, self.finished)
        if self.lm.config.causal:
            # where an answer has more than half of the probability, each of its tokens has
            sure = [-self._known[pair].log_likelihood < math.log(2) for pair in todo]
            found = iter(greedy.causal([pair for pair, is_sure in zip(todo, sure, strict=True) if not is_sure]))
            for pair, is_sure in zip(todo, sure, strict=True):
                self._known[pair].greedy = self._known[pair].greedy_searched = is_sure or next(found)
            return
        prompts, answers = [pair[0] for pair in todo], [pair[1] for pair in todo]
        for pair, given in zip(todo, greedy.of(prompts, list(map(len, answers)), answers), strict=True):
            self._known[pair].greedy = given.matches
            spent.network_calls += given.network_calls
        best: dict[int, decoding.Decoded] = {}
        for length in range(1, self.search_lengths + 1):
            fits = [i for i, prompt in enumerate(prompts) if len(prompt) + length <= self.max_length]
            searched = greedy.of([prompts[i] for i in fits], [length] * len(fits))
            for index, each in zip(fits, searched, strict=True):
                spent.network_calls += each.network_calls
                if index not in best or each.confidence > best[index].confidence:
                    best[index] = each
            self._show(f"greedy answers of {length} of {self.search_lengths} tokens")
        for index, pair in enumerate(todo):
            if index in best:
                self._known[pair].greedy_searched = best[index].tokens == answers[index]

    def _clock(self) -> float:
        """Seconds, with those that looked-up results took when they were computed."""
        return time.perf_counter() + self.finished.saved_seconds

    def keep_in(self, path: Path) -> Finished:
        """Keep finished requests in a file, and take from it those that the same model with the same settings left."""
        made_by = {
            "model": model_directory.digest(self.lm.model.state_dict()),
            **{key: value for key, value in vars(self.settings).items() if key != "batch_size"},
            "sampler": self.sampler,
            "steps": self.steps,
        }
        self.finished = Finished(path, made_by)
        return self.finished

    def _fit(
        self, prompt: tuple[int, ...], continuation: tuple[int, ...]
    ) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], int, str]:
        """Prompt and continuation that fit the context, the tokens cut off the prompt, and what is wrong."""
        error = self._fault(len(continuation))
        if error:
            return (prompt, continuation), 0, f"its answer has {error}"
        cut = max(0, len(prompt) + len(continuation) - self.max_length)
        return (prompt[cut:], continuation), cut, ""

    def _fault(self, scored: int) -> str:
        """What is wrong with so many scored tokens; nothing if they can be scored."""
        if not scored:
            return "no tokens"
        if scored > self.max_length:
            return f"{scored} tokens and the context {self.max_length}"
        sums = self.settings.estimator == "exact" and not self.lm.config.causal
        if sums and scored > likelihood.EXACT_LIMIT:
            return f"{scored} tokens and the estimator 'exact' takes at most {likelihood.EXACT_LIMIT}: take auto"
        return ""

    def _show(self, text: str) -> None:
        if self.progress and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


T = TypeVar("T", int, float)


def _number(name: str, value: Any, kind: type[T]) -> T:
    """An argument that may be text."""
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} {value!r}: must be a {'whole ' * (kind is int)}number") from None


def rolling_windows(tokens: Sequence[int], length: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(context, scored) pieces of a text: every token scored once, later ones behind half a window of context."""
    windows: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), tuple(tokens[:length]))] if tokens else []
    step = max(1, length // 2)
    for start in range(length, len(tokens), step):
        piece = tuple(tokens[start : start + step])
        windows.append((tuple(tokens[max(0, start + len(piece) - length) : start]), piece))
    return windows
