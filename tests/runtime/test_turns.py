"""One engine, many threads: every answer is the whole right one, or a refusal that says why; closing always returns."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from memory import Request
from runtime.conversation import Conversation
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.models.kv_cache import KVCache
from runtime.models.ort_model import OrtModel
from runtime.speculation.request import PLAIN, Speculation
from runtime.turns import Answer, BusyError, ClosedError
from tests.places import ROOT

PROMPTS = ["Hello there", "What is two plus two?", "Write a story"]
LIMIT_SECONDS = 60  # a hang is a failure


def fresh(bundle: Path, folder: Path, **request: Any) -> Engine:
    """An engine of a bundle that nobody has used yet: nothing is measured or tested."""
    copy = shutil.copytree(bundle, folder / "fresh", ignore=shutil.ignore_patterns(".device"))
    return Engine.open(copy, Request(threads=1, **request))


@pytest.fixture
def own(random_bundle: Path) -> Iterator[Engine]:
    """An engine for one test, which may close it."""
    with Engine.open(random_bundle, Request(threads=1)) as engine:
        yield engine


def text_of(answer: Answer[Any]) -> str:
    return "".join(chunk.text for chunk in answer)


def together(*jobs: Callable[[], object]) -> list[Any]:
    """What each job gives, or its error; all begin at once, each in a thread of its own."""
    barrier, results = threading.Barrier(len(jobs)), [None] * len(jobs)

    def run(place: int) -> None:
        barrier.wait()
        try:
            results[place] = jobs[place]()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive(), "a thread hangs"
    return results


def in_thread(job: Callable[[], object]) -> Any:
    (result,) = together(job)
    return result


def right_answers(engine: Engine, **settings: Any) -> dict[str, str]:
    return {prompt: text_of(engine.generate(prompt, speculation=PLAIN, **settings)) for prompt in PROMPTS}


@pytest.mark.parametrize("warm", [False, True])
def test_many_threads_get_whole_answers_or_are_told_to_wait(
    random_bundle: Path, engine: Engine, tmp_path: Path, warm: bool
) -> None:
    right = right_answers(engine, max_new_tokens=24)
    results: list[tuple[str, Any]] = []

    def ask(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(12):
            prompt = choose.choice(PROMPTS)
            try:
                results.append((prompt, text_of(shared.generate(prompt, max_new_tokens=24))))
            except BusyError as error:
                results.append((prompt, error))

    with fresh(random_bundle, tmp_path) as shared:
        if warm:
            text_of(shared.generate("x", max_new_tokens=4))
        assert together(*(lambda seed=seed: ask(seed) for seed in range(8))) == [None] * 8
        assert text_of(shared.generate(PROMPTS[0], max_new_tokens=24)) == right[PROMPTS[0]]
    answers = [(prompt, text) for prompt, text in results if isinstance(text, str)]
    assert answers
    assert all(text == right[prompt] for prompt, text in answers)
    assert all("wait until that answer is over" in str(text) for _, text in results if not isinstance(text, str))


def test_threads_that_take_turns_are_all_answered(own: Engine, engine: Engine) -> None:
    right, lock = right_answers(engine, max_new_tokens=16), threading.Lock()

    def ask(prompt: str) -> str:
        with lock:
            return text_of(own.generate(prompt, max_new_tokens=16))

    assert together(*(lambda prompt=prompt: ask(prompt) for prompt in PROMPTS)) == list(right.values())


@pytest.mark.parametrize(
    "begin",
    [
        lambda engine: engine.generate("other"),
        lambda engine: engine.steps([1, 2], stop=StopRule()),
        lambda engine: Conversation(engine).say("other"),
        lambda engine: engine.alone().__enter__(),
    ],
)
def test_an_answer_between_two_steps_is_not_disturbed(own: Engine, begin: Callable[[Engine], object]) -> None:
    whole = text_of(own.generate("Hello there", max_new_tokens=20, speculation=PLAIN))
    answer = own.generate("Hello there", max_new_tokens=20, speculation=PLAIN)
    first = next(answer).text
    assert isinstance(in_thread(lambda: begin(own)), BusyError)
    assert first + text_of(answer) == whole
    assert not isinstance(in_thread(lambda: begin(own)), Exception)


def test_one_answer_may_pass_from_thread_to_thread(own: Engine) -> None:
    """As web servers do: each piece is asked for by another thread of a pool."""
    whole = text_of(own.generate("Hello there", max_new_tokens=12, speculation=PLAIN))
    answer = own.generate("Hello there", max_new_tokens=12, speculation=PLAIN)
    pieces = [in_thread(lambda: next(answer).text) for _ in range(12)]
    with pytest.raises(BusyError, match="one engine gives one answer at a time"):
        own.generate("other")  # although the answer began in this thread: others know of it
    assert "".join(pieces) == whole
    assert list(answer) == []
    own.generate("other")


def test_an_answer_that_lost_its_place_unseen_says_so(own: Engine) -> None:
    first = own.generate("Hello there")
    second = own.generate("other", max_new_tokens=3)
    assert "another answer of this engine began" in str(in_thread(lambda: list(first)))
    assert list(first) == [], "who began the other one knows"
    assert len(list(second)) > 0


def test_an_answer_that_nobody_holds_is_over(own: Engine) -> None:
    next(own.generate("Hello there"))
    assert in_thread(lambda: text_of(own.generate("Hello there", max_new_tokens=3))) != ""


class Waits:
    """A drafter that says when it is asked, and then waits to be let go."""

    name = "waits"

    def __init__(self) -> None:
        self.asked, self.may_go = threading.Event(), threading.Event()
        self.do: Callable[[], object] = lambda: None
        self.result: object = None

    def propose(self, context: object, limit: DraftLimit) -> Draft:
        self.asked.set()
        assert self.may_go.wait(LIMIT_SECONDS)
        try:
            self.result = self.do()
        except PocketspecError as error:
            self.result = error
        return Draft()


def waiting_answer(engine: Engine) -> tuple[Waits, Answer[Any]]:
    drafter = Waits()
    engine.add_drafter(drafter)
    return drafter, engine.generate("Hello there", speculation=Speculation("waits"))


@pytest.mark.parametrize("what", ["answer", "engine"])
def test_closing_from_another_thread_cancels_and_waits_for_the_step(own: Engine, what: str) -> None:
    drafter, answer = waiting_answer(own)
    done = threading.Event()

    def close() -> None:
        assert drafter.asked.wait(LIMIT_SECONDS)
        threading.Timer(0.05, drafter.may_go.set).start()
        (answer if what == "answer" else own).close()
        assert drafter.may_go.is_set(), "closing returned while the step ran"
        done.set()

    chunks, closed = together(lambda: list(answer), close)
    assert (closed, done.is_set()) == (None, True)
    assert isinstance(chunks, list), "the reader sees the answer end"
    assert len(chunks) <= 1
    assert all(chunk.step.finish is None for chunk in chunks)
    if what == "answer":
        assert len(list(own.generate("other", max_new_tokens=3, speculation=PLAIN))) == 3
    else:
        with pytest.raises(ClosedError, match="this engine is closed; open the bundle again"):
            own.generate("other")


def test_closing_gives_up_a_prompt_between_two_chunks(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run, reading = [], OrtModel._run, threading.Event()

    def slow(model: OrtModel, binding: Any) -> None:
        run(model, binding)
        ran.append(model)
        reading.set()
        threading.Event().wait(0.02)

    prompt = [1] * (own.capacity - 20)
    chunks = -(-len(prompt) // own.plan.prefill_chunk)
    assert chunks > 3
    monkeypatch.setattr(OrtModel, "_run", slow)
    answer = own.generate(prompt, speculation=PLAIN)
    read, _ = together(lambda: list(answer), lambda: (reading.wait(), answer.close()))
    assert read == []
    assert len(ran) < chunks


def test_an_answer_can_be_closed_from_inside_its_step(own: Engine) -> None:
    drafter, answer = waiting_answer(own)
    drafter.do = answer.close
    drafter.may_go.set()
    assert len(list(answer)) <= 1
    assert len(list(own.generate("other", max_new_tokens=3, speculation=PLAIN))) == 3


@pytest.mark.parametrize(
    "act",
    [
        lambda engine, answer: engine.close(),
        lambda engine, answer: engine.generate("other"),
        lambda engine, answer: next(answer),
    ],
)
def test_inside_a_step_nothing_else_begins(own: Engine, act: Callable[[Engine, Answer[Any]], object]) -> None:
    drafter, answer = waiting_answer(own)
    drafter.do = lambda: act(own, answer)
    drafter.may_go.set()
    next(answer)
    assert isinstance(drafter.result, BusyError)
    next(answer)


def test_closing_at_random_moments_from_many_threads(random_bundle: Path, engine: Engine) -> None:
    right = right_answers(engine, max_new_tokens=60)
    for seed in range(12):
        opened = Engine.open(random_bundle, Request(threads=1))
        choose = random.Random(seed)
        pauses = [choose.random() * 0.05 for _ in range(2)]

        def ask(prompt: str, opened: Engine = opened) -> str:
            return text_of(opened.generate(prompt, max_new_tokens=60))

        def close(pause: float, opened: Engine = opened) -> None:
            threading.Event().wait(pause)
            opened.close()

        jobs = [
            *(lambda prompt=prompt: ask(prompt) for prompt in PROMPTS),
            *(lambda p=pause: close(p) for pause in pauses),
        ]
        *answers, first, second = together(*jobs)
        assert (first, second) == (None, None)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert isinstance(answer, BusyError | ClosedError) or right[prompt].startswith(answer)
        opened.close()


def test_a_closed_engine_says_so_whatever_is_asked_of_it(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1)) as engine:
        answer = engine.generate("Hello there")
        next(answer)
    assert list(answer) == []
    for use in (
        lambda: engine.generate("x"),
        lambda: engine.steps([1], stop=StopRule()),
        lambda: Conversation(engine).say("x"),
        lambda: engine.set_budget(1 << 30),
        lambda: engine.explain(),
        lambda: engine.decoding_methods(),
        lambda: engine.alone().__enter__(),
    ):
        with pytest.raises(ClosedError, match="this engine is closed; open the bundle again"):
            use()
    with pytest.raises(PocketspecError, match="this model is closed; open the bundle again"):
        engine.target.forward([1])
    engine.close()


@pytest.mark.parametrize("closed", [True, False])
def test_what_an_engine_held_goes_without_the_cyclic_collector(random_bundle: Path, closed: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        opened = Engine.open(random_bundle, Request(threads=1, shape="tree", nodes=8))
        for speculation in (Speculation(), Speculation("suffix+near"), Speculation("near", 5, "tree")):
            text_of(opened.generate("Hello there", max_new_tokens=12, speculation=speculation))
        text_of(Conversation(opened, max_new_tokens=5).say("one"))
        left = next(opened.generate("Hello there"))
        models = [opened.target, *opened.drafters.values()]
        held = [weakref.ref(model._session) for model in models]
        caches: list[weakref.ref[KVCache]] = [weakref.ref(model.cache) for model in models]
        pages = [weakref.ref(block._pages) for model in models for block in model.cache._blocks]
        gone = weakref.ref(opened)
        del models
        if closed:
            opened.close()
            assert [reference() for reference in (*held, *pages)] == [None] * len([*held, *pages])
        del opened
        assert [reference() for reference in (gone, *held, *pages, *caches)] == [None] * len(
            [gone, *held, *pages, *caches]
        )
        assert left.text is not None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("when", ["idle", "between two steps", "in a step"])
def test_a_forked_process_is_told_to_open_its_own(own: Engine, tmp_path: Path, when: str) -> None:
    """And ends by itself: no thread of the engine's is waited for that stayed behind."""
    answer, drafter = None, None
    thread = threading.Thread(target=lambda: None)
    if when == "between two steps":
        answer = own.generate("Hello there")
        next(answer)
    elif when == "in a step":
        drafter, answer = waiting_answer(own)
        reader = answer
        thread = threading.Thread(target=lambda: list(reader))
        thread.start()
        assert drafter.asked.wait(LIMIT_SECONDS)
    child = os.fork()
    if not child:
        told = []
        again = answer or own
        for use in (lambda: own.generate("x"), lambda: own.target.forward([1]), own.end_answer, again.close):
            try:
                use()
            except ClosedError as error:
                told.append(str(error))
        (tmp_path / "told").write_text("\n".join(told))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    lines = (tmp_path / "told").read_text().splitlines()
    assert len(lines) == 3
    assert all("open the bundle in the process that uses it" in line for line in lines)
    if drafter is not None and answer is not None:
        drafter.may_go.set()
        answer.close()
        thread.join(LIMIT_SECONDS)
    assert len(list(own.generate("other", max_new_tokens=3, speculation=PLAIN))) == 3


FORKS = """
import os, sys
from memory import Request
from runtime.engine import Engine

def answer(engine):
    return "".join(chunk.text for chunk in engine.generate("Hello", max_new_tokens=5))

engine = Engine.open(sys.argv[1], Request(threads=2))
begun = engine.generate("Hello there")
next(begun)
if not os.fork():
    print("refused" if not begun.close() else "", answer(Engine.open(sys.argv[1], Request(threads=2))), flush=True)
    if sys.argv[2] == "delete":
        del begun, engine
    sys.exit()
os.wait()
print(answer(engine))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("end", ["exit", "delete"])
def test_a_forked_process_can_open_its_own_and_ends_in_the_usual_way(random_bundle: Path, end: str) -> None:
    """ONNX Runtime waits for the threads of a session that is destroyed, and a forked process has none of them."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(random_bundle), end]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    first, second = done.stdout.splitlines()
    assert (first, done.returncode) == (f"refused {second}", 0)
