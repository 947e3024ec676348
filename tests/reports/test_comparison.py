"""Runs side by side: whose figures these are, that they compare, and what the page shows."""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lora_whisper import environment
from lora_whisper.cli.report import with_sweep
from lora_whisper.evaluation.provenance import texts_hash
from lora_whisper.evaluation.run_summary import write_summary
from lora_whisper.files import read_json, write_json
from lora_whisper.reports import comparison
from lora_whisper.reports.charts import LIGHT
from lora_whisper.reports.comparison import anonymous, effects, read_report, smallest_as_good
from lora_whisper.reports.comparison_page import costs, curves, drawn, run_table
from lora_whisper.reports.sweep import (
    FAILURE_FILE,
    NO_GAIN,
    point_folders,
    write_plan,
)
from lora_whisper.reports.sweep_table import show_sweep
from lora_whisper.run_folder import RunFolder
from tests.cli.conftest import Line
from tests.cli.toy_run import Heard, toy_run
from tests.reports.read_page import Page
from tests.reports.toy_sweep import SWEEP, point, ranks, texts

HURT = {"h1": 3, "h2": 5, "h3": 12, "h4": 3, "h5": 3}  # and how many utterances are wrong


def html() -> str:
    return (SWEEP / "report.html").read_text(encoding="utf-8")


def table() -> list[dict[str, str]]:
    with open(SWEEP / "report.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


# ── the report ───────────────────────────────────────────────────────────────────────────────


def test_a_sweep_becomes_a_page_a_table_and_markdown(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks()
    assert line("report", str(SWEEP)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Best: rank 16, WER 7.5 %" in shown
    assert "and the smallest: rank 4, 10.0 % with 0.4 MB" in shown
    rows = table()
    assert [row["adapter.rank"] for row in rows] == ["2", "4", "16"]
    assert [row["adapter_bytes"] for row in rows] == ["200000", "400000", "1600000"]
    assert [row["wer_percent"] for row in rows] == ["30.0", "10.0", "7.5"]
    assert [row["base_wer_percent"] for row in rows] == ["40.0"] * 3
    assert [row["on_pareto_front"] for row in rows] == ["1", "1", "1"]
    for row in rows:
        summary = json.loads((SWEEP / row["run"] / "summary.json").read_text())
        assert float(row["wer_percent"]) == pytest.approx(100 * summary["adapter"]["wer"])
        low, high = summary["adapter"]["wer_ci95"]
        assert float(row["wer_ci95_low_percent"]) == pytest.approx(100 * low, abs=1e-4)
        assert float(row["wer_ci95_high_percent"]) == pytest.approx(100 * high, abs=1e-4)
    markdown = (SWEEP / "report.md").read_text(encoding="utf-8")
    cells = [row.split(" | ") for row in markdown.splitlines() if row.startswith("| ")]
    assert len(cells) == 4
    assert len({len(row) for row in cells}) == 1
    page = Page(html())
    assert page.find("WER, base → best run") == ["40.0 % → 7.5 %"]
    assert page.find("smallest not shown to be worse") == ["rank 4, 0.4 MB"]
    assert "3 runs (3 complete) of openai/whisper-small, targets all-linear" in page.text
    assert "worse" in page.text.split("30.0 %")[1].split("10.0 %")[0]


def test_scores_of_other_words_than_were_spoken_are_no_more_true_in_a_sweep(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = [Heard("two eight five", "two nine", "two eight five", language="en")] * 20
    point("adapter.rank-2", "adapter.rank=2", heard=digits)
    assert line("report", str(SWEEP)) == 0
    terminal = " ".join(capsys.readouterr().out.split())
    for text in (terminal, (SWEEP / "report.md").read_text(encoding="utf-8"), html()):
        assert "60 words of 20 utterances are scored as 20" in " ".join(text.split())
        assert "CER without spaces base " in " ".join(text.split())
    show_sweep(point_folders(SWEEP))
    assert "warning: 60 words of 20 utterances are scored as 20" in capsys.readouterr().out


@pytest.mark.drawn
def test_where_no_run_beats_the_base_nothing_calls_itself_the_best(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks(wrong=(18, 17, 16))
    assert line("report", str(SWEEP)) == 0
    terminal = " ".join(capsys.readouterr().out.split())
    markdown = (SWEEP / "report.md").read_text(encoding="utf-8")
    for text in (terminal, markdown, html()):
        assert NO_GAIN in text.lower()
        assert "Best:" not in text
        assert "best run" not in text.lower()
    assert "The lowest: rank 16, WER 40.0 %" in terminal
    assert html().count(">base</text>") == 3, "size, time, and the effect of the rank"
    show_sweep(point_folders(SWEEP))
    assert f"warning: {NO_GAIN}" in capsys.readouterr().out


def test_points_that_were_never_begun_are_named(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks()
    absent = ("adapter.rank-32", "adapter.rank-64")
    write_plan(SWEEP, ["adapter.rank-2", "adapter.rank-4", "adapter.rank-16", *absent])
    (SWEEP / absent[0]).mkdir()
    (SWEEP / absent[0] / ".config.yaml.part").touch()  # a start that was killed
    assert line("report", str(SWEEP)) == 0
    assert "never begun: rank 32; rank 64" in " ".join(capsys.readouterr().out.split())
    assert [row["state"] for row in table()] == ["complete"] * 3 + ["never begun"] * 2
    assert "Never begun: rank 32; rank 64" in (SWEEP / "report.md").read_text(encoding="utf-8")
    assert "ever begun: rank 32; rank 64" in " ".join(Page(html()).text.split())


def test_an_emptied_run_is_missed_and_a_pruned_one_is_not_unfinished(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither has a plan that would name it: trials of a search have none."""
    ranks()
    (SWEEP / "adapter.rank-2/config.yaml").write_text("")
    pruned = RunFolder(SWEEP / "adapter.rank-4")
    pruned.summary.unlink()
    write_json(pruned.pruned, {"step": 20, "wer": 0.9})
    assert line("report", str(SWEEP)) == 0
    assert "config.yaml is not what was written there" in " ".join(capsys.readouterr().out.split())
    assert sorted(row["state"] for row in table()) == ["complete", "failed", "pruned"]
    shown = " ".join(Page(html()).text.split())
    assert "pruned: the search ended it early after step 20" in shown
    capsys.readouterr()
    assert line("report", str(SWEEP / "adapter.rank-2")) == 2
    assert "this was one run" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [{"adapter": {"wer": 0.01}}, {"train_seconds": 1e308}])
def test_a_summary_with_figures_that_cannot_be_is_damaged(
    line: Line, changed: dict[str, Any]
) -> None:
    """A rate is what its own counts give."""
    ranks()
    file = SWEEP / "adapter.rank-2/summary.json"
    values = read_json(file)
    for key, value in changed.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    write_json(file, values)
    assert line("report", str(SWEEP)) == 0
    assert {row["run"]: row["state"] for row in table()}["adapter.rank-2"] == "failed"


def test_a_sweep_that_was_killed_before_its_first_point_is_one(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    SWEEP.mkdir(parents=True)
    write_plan(SWEEP, ["adapter.rank-2", "adapter.rank-4"])
    assert line("report", str(SWEEP)) == 2
    assert "of the sweep's 2 points, none has begun" in capsys.readouterr().err


def test_what_a_run_lacks_is_named_with_it_and_costs_the_others_no_verdict(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """h1 is as good as h4 and h5, and listed before them: without hypotheses it judges nobody."""
    runs = {
        name: point(name, wrong=wrong) for name, wrong in zip(HURT, (3, 5, 9, 3, 3), strict=True)
    }
    heard = {name: run.evaluation / "adapter/test/hypotheses.jsonl" for name, run in runs.items()}
    for name, run in runs.items():
        rows = [json.loads(row) for row in heard[name].read_text().splitlines()]
        of = {"weights": {}, "rows": "r", "texts": "t", "decoding": {}}
        of["references"] = texts_hash(row["reference_normalized"] for row in rows)
        summary = read_json(run.summary)
        scores = {model: summary[model] | {"of": of} for model in ("base", "adapter")}
        write_json(run.summary, summary | scores)
    heard["h1"].unlink()
    heard["h2"].write_text("".join(heard["h2"].read_text().splitlines(True)[:3]))
    (runs["h4"].adapter / "adapter_model.safetensors").unlink()
    given = f"runs=[{','.join(str(SWEEP / name) for name in HURT)}]"
    assert line("report", given, "name=hurt") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, what in (("h1", "is missing or empty"), ("h2", "3 rows are not those of its score")):
        place = SWEEP / name / "evaluation/adapter/test/hypotheses.jsonl"
        assert shown.count(f"{place}: {what}. Type ") == 1
        assert shown.count(f"evaluate run={SWEEP / name} overwrite=true") == 1
    assert "Best: h4," in shown
    assert "without adapter_model.safetensors: h4. Bring it back" in shown
    markdown = Path("outputs/hurt/report.md").read_text(encoding="utf-8")
    verdicts = {row.split(" | ")[0][2:]: row.split(" | ")[-1] for row in markdown.splitlines()}
    assert verdicts["h1"] == verdicts["h2"] == "no hypotheses |"
    assert verdicts["h3"].startswith("worse (")
    assert verdicts["h5"].startswith("no difference")
    assert "Without adapter\\_model.safetensors: h4" in markdown

    heard["h4"].unlink()
    heard["h5"].unlink()
    assert line("report", given, "name=hurt") == 0
    assert "| the best has no hypotheses |" in Path("outputs/hurt/report.md").read_text()


def test_a_summary_that_was_cut_is_named_in_the_terminal(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks()
    cut = SWEEP / "adapter.rank-4/summary.json"
    cut.write_text(cut.read_text()[:300])
    assert line("report", str(SWEEP)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "failed: rank 4 (summary.json cannot be read: bring it back from a copy, or" in shown


def test_trials_that_a_search_has_not_scored_yet_are_not_without_a_test_set(line: Line) -> None:
    point("trial-0", heard=())
    write_json(SWEEP / "search.json", {})
    assert line("report", str(SWEEP)) == 0
    assert "a search scores its best trial alone, at its end" in " ".join(Page(html()).text.split())


def test_a_report_of_other_runs_is_replaced_only_when_that_is_asked_for(line: Line) -> None:
    ranks()
    runs = f"runs=[{','.join(map(str, sorted(SWEEP.iterdir())))}]"
    one = f"runs=[{SWEEP / 'adapter.rank-2'}]"
    assert line("report", runs) == 0
    assert line("report", runs) == 0, "of the same runs it is made again"
    assert line("report", one) == 2
    assert line("report", one, "overwrite=true") == 0
    assert line("report", runs, "name=both") == 0


def test_runs_of_other_texts_or_decoding_do_not_stand_side_by_side(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many utterances and words do not make it the same test set."""
    ranks()
    of = {"weights": {}, "rows": "a", "texts": "b", "references": "c", "decoding": {"beams": 1}}
    for number, folder in enumerate(sorted(SWEEP.iterdir())):
        summary = read_json(folder / "summary.json")
        for model in ("base", "adapter"):
            summary[model]["of"] = of | ({"decoding": {"beams": 5}} if number == 1 else {})
        write_json(folder / "summary.json", summary)
    assert line("report", str(SWEEP)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "do not compare" in said
    assert "beams 5 and 1): rank 4; rank 16" in said


@pytest.mark.drawn
def test_the_page_fetches_nothing_and_runs_its_own_script_alone(line: Line) -> None:
    ranks()
    assert line("report", str(SWEEP)) == 0
    page = Page(html())
    assert page.foreign == ["script"]
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", html())
    script = re.search(r"<script>(.*?)</script>", html(), re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(given["content"] for _, given in page.tags if "http-equiv" in given)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    drawn = html().split("</style>", 1)[1]
    assert drawn.count("<svg") == 6  # two of cost, three curves, one effect
    assert [name for name, light in LIGHT.items() if light in drawn] == []


def test_the_worst_utterances_are_those_of_the_best_run(line: Line) -> None:
    ranks()
    assert line("report", str(SWEEP)) == 0
    page = Page(html())
    counted = [
        (int(term.split()[-2]), edits)
        for (term, _, _), edits in zip(page.definitions, page.edits, strict=True)
        if term.startswith("adapter, ")
    ]
    assert counted == [(1, 1)] * 3
    assert "base, 1 wrong" in [term for term, _, _ in page.definitions]


def test_failed_and_unfinished_points_are_shown_beside_the_others(line: Line) -> None:
    ranks()
    broken = point("adapter.rank-8", "adapter.rank=8")
    broken.summary.unlink()
    never = SWEEP / "adapter.rank-64"
    never.mkdir()
    write_json(never / FAILURE_FILE, {"reason": "The memory does not <b>suffice</b>"})
    odd = SWEEP / "adapter-dora"
    odd.mkdir()
    write_json(odd / FAILURE_FILE, {"reason": "no | such kind"})
    assert line("report", str(SWEEP)) == 0
    assert [(row["adapter.rank"], row["state"]) for row in table()] == [
        ("2", "complete"),
        ("4", "complete"),
        ("8", "unfinished"),
        ("16", "complete"),
        ("64", "failed"),
        ("", "failed"),
    ]
    page = Page(html())
    assert page.find("rank 64") == ["The memory does not <b>suffice</b>"]
    assert page.find("adapter-dora") == ["no | such kind"]
    assert page.find("rank 8") == ["unfinished: stopped or running, after step 75"]
    markdown = (SWEEP / "report.md").read_text(encoding="utf-8")
    assert "- adapter-dora: no \\| such kind" in markdown
    assert "6 runs (3 complete, 2 failed, 1 unfinished)" in markdown


def test_cer_leads_in_scripts_without_spaces(line: Line) -> None:
    for rank, text in ((4, "ไม่มี"), (8, "ไม่ดี")):
        heard = [Heard("ไม่ดี", "ไม่มี", text, language="th")] * 8
        point(f"adapter.rank-{rank}", f"adapter.rank={rank}", heard=heard)
    assert line("report", str(SWEEP)) == 0
    page = Page(html())
    assert page.find("CER, base → best run") == ["20.0 % → 0.0 %"]
    markdown = (SWEEP / "report.md").read_text(encoding="utf-8")
    assert "| rank | CER | error rate of graphemes | Pareto |" in markdown
    assert "of graphemes" in page.text
    assert [row["leading_rate"] for row in table()] == ["cer", "cer"]


def test_runs_of_anywhere_go_by_their_names(line: Line) -> None:
    for name, rank in (("one", 4), ("two", 8)):
        run, summary = toy_run(Path(name) / "mine", f"adapter.rank={rank}", heard=texts(rank))
        write_summary(run, summary)
    assert line("report", "runs=[one/mine,two/mine]", "name=both") == 0
    page = Page(Path("outputs/both/report.html").read_text(encoding="utf-8"))
    assert page.find("best run") == ["one/mine"]
    assert line("report", "runs=[one/mine,two/mine]", "name=both") == 0, "it may be made again"


def test_lists_are_values_like_others(line: Line) -> None:
    point("a", "data.mix=[{weight: 1.0, train: /srv/speech/old.jsonl}]", wrong=2)
    point("b", "data.clean=[case,digits]", wrong=3)
    assert line("report", str(SWEEP)) == 0
    assert [row["data.mix"] for row in table()] == ["[]", "[{train: old.jsonl, weight: 1}]"]
    assert "[case, digits]" in Page(html()).text


def test_bases_that_differ_have_rates_of_their_own(line: Line) -> None:
    point("none", heard=texts(4, base_wrong=16))
    point("nf4", "quantization=nf4", heard=texts(5, base_wrong=18), quantization="nf4")
    assert line("report", str(SWEEP)) == 0
    page = Page(html())
    assert page.find("WER of the best run") == ["10.0 %"]
    assert "openai/whisper-small (nf4) and openai/whisper-small," in page.text
    assert "bases differ" in page.text
    assert {row["base_wer_percent"] for row in table()} == {"40.0", "45.0"}


def test_no_path_and_no_name_of_this_machine(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(environment.socket, "gethostname", lambda: "birch.example.org")
    monkeypatch.setenv("HOME", "/home/anna")
    for number, folder in enumerate(("/home/anna/my speech", "/srv/data")):
        point(
            f"{number}",
            f"data.train='{folder}/train.jsonl'",
            checkpoint=f"{folder}/whisper",
            heard=[Heard("a b", "a", "a c", bad_audio=f"{folder}/1.wav: cut short")] * 8,
        )
    never = SWEEP / "never"
    never.mkdir()
    reason = f"{Path.cwd()}/x.py on birch: /home/anna/a.wav and /mnt/b/c.wav of anna"
    write_json(never / FAILURE_FILE, {"reason": reason})
    assert line("report", str(SWEEP)) == 0
    for name in ("report.html", "report.md", "report.csv"):
        text = (SWEEP / name).read_text(encoding="utf-8")
        found = [
            *environment.findings(text, environment.own_folders(Path.cwd()), ["anna", "birch"])
        ]
        assert found == [], name
        assert "/srv" not in text
        assert "/mnt" not in text
    assert "train.jsonl (1)" in html(), "values that differ never look alike"
    assert "train.jsonl (2)" in html()


def test_a_path_is_cut_to_its_last_part_and_nothing_else_is() -> None:
    assert anonymous("/data/a/b.wav: no such file") == "…/b.wav: no such file"
    for text in ("https://huggingface.co/openai/whisper", "and/or", "~/a/b", "3 / 4 of 1/2"):
        assert anonymous(text) == text


# ── what is compared ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("other", ["other words", "other count"])
def test_rates_of_different_test_sets_do_not_compare(
    line: Line, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    point("a", "data.test=a.jsonl")
    heard = [Heard(f"x{one.reference[1:]}", one.base, one.adapter) for one in texts(3)]
    point("b", "data.test=b.jsonl", heard=heard if other == "other words" else texts(3)[:8])
    assert line("report", str(SWEEP)) == 2
    said = capsys.readouterr().err
    assert "do not compare" in said
    assert "a.jsonl" in said
    assert "b.jsonl" in said
    assert "lora-whisper evaluate" in said
    assert not (SWEEP / "report.html").exists()


def test_of_many_runs_of_another_test_set_some_are_named(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        point(f"{number}", f"adapter.rank={number + 1}")
    point("other", "adapter.rank=8", heard=texts(3)[:8])
    assert line("report", str(SWEEP)) == 2
    said = capsys.readouterr().err
    assert "rank 1; rank 2; rank 3; rank 4; and 1 other" in said


def test_a_value_that_was_tried_once_has_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ranks()
    (one,) = effects(read_report("ranks", point_folders(SWEEP), has_folder_names=False))
    assert not one.has_means


def test_runs_without_test_set_have_no_rates(line: Line) -> None:
    for rank in (4, 8):
        point(f"adapter.rank-{rank}", f"adapter.rank={rank}", heard=())
    assert line("report", str(SWEEP)) == 0
    page = Page(html())
    assert "Nothing was scored" in page.text
    assert html().split("</style>", 1)[1].count("<svg") == 3
    assert [row["wer_percent"] for row in table()] == ["", ""]


def test_the_smallest_that_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ranks((2, 4, 8), (16, 1, 1))
    report = read_report("ranks", point_folders(SWEEP), has_folder_names=False)
    assert report.best is not None
    assert report.best.label == "rank 4", "of two that are alike, the smaller one"
    smallest = smallest_as_good(report)
    assert smallest is not None
    assert smallest.label == "rank 4"
    assert [entry.is_on_front for entry in report.entries] == [True, True, False]


def test_what_is_too_long_beside_a_dot_has_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        overrides = [f"adapter.rank={4 + number}", f"adapter.alpha={8 + number}"]
        point(f"{number}", *overrides, f"adapter.dropout=0.{number}")
    report = read_report("ranks", point_folders(SWEEP), has_folder_names=False)
    assert report.is_numbered
    assert [entry.mark for entry in report.entries] == ["1", "2"]
    assert report.entries[0].label == "rank 4, alpha 8, dropout 0"
    assert run_table(report).columns[0].title == "no."
    report = read_report("ranks", point_folders(SWEEP), has_folder_names=True)
    assert [entry.mark for entry in report.entries] == ["0", "1"]


def test_effects_are_means_over_all_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = list(itertools.product((4, 8), ("1e-3", "1e-4", "1e-5")))
    for number, (rank, rate) in enumerate(grid):
        overrides = [f"adapter.rank={rank}", f"optimizer.learning_rate={rate}"]
        point(f"{number}", *overrides, wrong=number)
    report = read_report("grid", point_folders(SWEEP), has_folder_names=False)
    by_rank, by_rate = effects(report)
    means = {
        value: sum(entry.point.rate or 0 for entry in some) / len(some)
        for value, some in by_rate.entries.items()
    }
    assert list(means) == ["1e-05", "0.0001", "0.001"]
    assert list(means.values()) == pytest.approx([0.0875, 0.0625, 0.0375])
    assert by_rank.is_crossed
    assert by_rate.is_crossed
    assert by_rate.has_means
    RunFolder(SWEEP / "0").summary.unlink()
    report = read_report("grid", point_folders(SWEEP), has_folder_names=False)
    assert not effects(report)[0].is_crossed


def test_numbers_that_a_search_drew_have_no_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "MOST_VALUES", 2)
    for number in range(3):
        point(f"{number}", f"adapter.dropout=0.0{number}", f"adapter.rank={2 + number % 2}")
    report = read_report("search", point_folders(SWEEP), has_folder_names=False)
    assert {one.key: one.is_scattered for one in effects(report)} == {
        "adapter.rank": False,
        "adapter.dropout": True,
    }
    assert all(drawn(report, one).chart.startswith("<svg") for one in effects(report))


# ── plots ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.drawn
def test_many_runs_of_many_steps_make_no_page_of_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    point("a")
    point("b", "seed=2")
    report = read_report("x", point_folders(SWEEP), has_folder_names=True)
    long = [{"step": step, "loss_per_token": 1.0 + step % 7} for step in range(1, 20_000)]
    ((caption, chart),) = curves(report, {"a": long, "b": long})
    assert caption == "Training: loss per token"
    assert len(chart) < 50_000
    assert all(plot.startswith("<svg") for _, plot in costs(report))
    assert all(drawn(report, one).chart for one in effects(report))


# ── bad input ────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_typed_without_its_key() -> None:
    assert with_sweep(["outputs/sweeps/a", "name=b"]) == ["sweep=outputs/sweeps/a", "name=b"]
    for arguments in (["runs=[a]"], ["--help"], []):
        assert with_sweep(arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "runs=[…]"),
        (
            ["outputs/sweeps/gone"],
            "ranks, unfinished. Type lora-whisper report outputs/sweeps/ranks\n",
        ),
        (["elsewhere/gone"], "Type lora-whisper report FOLDER with that of a sweep"),
        (["outputs/sweeps/empty"], "no run is in this folder"),
        (["outputs/sweeps/ranks/a"], "this is one run"),
        (["runs=[outputs/sweeps/ranks]"], "holds 1 runs; type lora-whisper report"),
        (["runs=[outputs/sweeps/gone]"], "there is no such folder"),
        (["runs=[outputs/sweeps/ranks/a]", "name=taken"], "holds no report.html"),
        (["runs=[outputs/sweeps/ranks/a]", "name=sweeps/ranks/a"], "is a run"),
        (["outputs/sweeps/ranks", "runs=[a]"], "expected the folder of a sweep"),
        (["outputs/sweeps/ranks", "nmae=a"], "Did you mean name"),
        (["outputs/sweeps/unfinished"], "a single run does with resume=auto"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_message(
    line: Line, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    point("a")
    Path("outputs/sweeps/empty").mkdir()
    Path("outputs/taken").mkdir()
    Path("outputs/taken/mine.txt").touch()
    toy_run(Path("outputs/sweeps/unfinished/a"))
    assert line("report", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not list(Path("outputs").rglob("report.html"))
