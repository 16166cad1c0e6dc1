"""Whole evaluations, and what is written about them."""

import json
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from policies import FakePolicy, Oracle, PeekingSuite, Random

from vla.config import EvaluationConfig
from vla.evaluation import PROMPTS, Evaluation, evaluate
from vla.evaluation.report import summary_text, write_report
from vla.evaluation.rollout import Observation
from vla.evaluation.statistics import Rate

SUITE = PeekingSuite()


class Clumsy(Oracle, Random):
    """Does only what it understands: not what is away from anything, and nothing in words it doesn't know."""

    def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
        understood = "away" not in instruction and instruction.split()[:1] != ["the"]
        act = Oracle.chunk if understood else Random.chunk
        return act(self, observation, instruction, seed)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(Clumsy(), SUITE, EvaluationConfig(episodes=18), checkpoint="<b>step & 100</b>")


@pytest.fixture(scope="module")
def report(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(evaluation, SUITE, tmp_path_factory.mktemp("report") / "new" / "folder")


def test_an_oracle_does_it_all() -> None:
    result = evaluate(Oracle(), SUITE, EvaluationConfig(episodes=18))
    assert {prompt: result.prompts[prompt].mean for prompt in ("right", "other", "held_out")} == {
        "right": 1, "other": 1, "held_out": 1,
    }  # fmt: skip
    assert result.prompts["empty"].mean == 0
    assert result.unasked is not None and result.unasked.mean == 0  # the other thing leaves the original alone
    assert result.chance is not None and 0 < result.chance.mean <= 0.4
    assert result.failures == ()


def test_an_idler_does_nothing() -> None:
    result = evaluate(FakePolicy(), SUITE, EvaluationConfig(episodes=12), prompts=["right"])
    assert result.success.mean == 0
    assert result.failure_kinds == {"right": {"nothing": 12}}
    assert result.chance is result.unasked is None


def test_families_are_the_policys_unless_told() -> None:
    def families(policy: FakePolicy, asked: list[str] | None) -> list[str]:
        return list(evaluate(policy, SUITE, EvaluationConfig(episodes=4, families=asked), prompts=["right"]).families)

    assert families(FakePolicy(tasks=["touch", "lift", "somewhere else"]), None) == ["touch", "lift"]
    assert families(FakePolicy(tasks=["touch"]), ["away"]) == ["away"]


@pytest.mark.parametrize("prompts", [[], ["other"], ["right", "wrong"]])
def test_unusable_prompts_are_refused(prompts: list[str]) -> None:
    with pytest.raises(ValueError, match="'right' must be one of them"):
        evaluate(FakePolicy(), SUITE, EvaluationConfig(), prompts=prompts)  # type: ignore[arg-type]


def test_json_has_every_rate(evaluation: Evaluation, report: Path) -> None:
    written = json.loads((report.parent / "evaluation.json").read_text())
    assert Rate.from_json(written["success"]) == evaluation.success == evaluation.prompts["right"]
    assert set(written["prompts"]) == set(PROMPTS)
    for group in ("tasks", "families", "prompts"):
        assert written[group]
        for rate in written[group].values():
            assert rate.keys() == {"mean", "n", "ci95"}
            assert rate["ci95"][0] <= rate["mean"] <= rate["ci95"][1]
    for group in ("tasks", "families"):
        assert sum(rate["n"] for rate in written[group].values()) == written["success"]["n"] == 18
    assert written["settings"]["seed"] == 1_000_000
    assert {"checkpoint", "parameters", "seconds", "version", "chance", "unasked", "failures"} <= written.keys()


def test_every_failure_is_listed(evaluation: Evaluation) -> None:
    for prompt, kinds in evaluation.failure_kinds.items():
        rate = evaluation.prompts[prompt]
        assert sum(kinds.values()) == round(rate.n * (1 - rate.mean))
    assert evaluation.failures


class _Checker(HTMLParser):
    """Collects what a page would fetch or run, and whether its tags close."""

    VOID = ("meta", "i", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(evaluation: Evaluation, report: Path) -> None:
    text, checker = report.read_text(), _Checker()
    checker.feed(text)
    assert checker.open == []
    assert "script" not in checker.tags and "b&gt;step &amp; 100" in text and "<b>step" not in text
    assert checker.sources and all(source.startswith("data:video/mp4;base64,") for source in checker.sources)
    for family in evaluation.families:
        assert f">{family}<" in text


def test_films_can_be_played(report: Path) -> None:
    films = [report.parent / "rollouts.mp4", *sorted((report.parent / "videos").glob("*.mp4"))]
    assert len(films) > 16
    for path in films[:3]:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) > 8 and frames[0].std() > 10


def test_text_has_the_same_numbers(evaluation: Evaluation, report: Path) -> None:
    text = (report.parent / "evaluation.txt").read_text()
    assert text == summary_text(evaluation)
    assert f"{evaluation.prompts['held_out'].mean:.1%}" in text
    for family in evaluation.families:
        assert family in text


def test_one_prompt_makes_a_report_too(tmp_path: Path) -> None:
    settings = EvaluationConfig(episodes=2, families=["touch"])
    report = write_report(evaluate(Oracle(), SUITE, settings, prompts=["right"]), SUITE, tmp_path)
    assert "different prompts" not in report.read_text()
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2
