"""`recollect tune`: what it counts, what it chooses, and what it says of files that are wrong."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from admin.tune import tuned
from admin.tune_answers import with_joined_answers
from admin.tune_files import BadFile, Exchange, read_log, read_pairs
from admin.tune_replay import Point
from admin.tune_report import Report, as_json, draw
from admin.tune_stream import StreamReader
from config.semantic import SemanticSettings
from config.settings import Settings
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder

RECOLLECT = Path(sys.executable).with_name("recollect")
MODELS = Path(__file__).parents[2] / "build" / "models"
FRAMES = (
    "How do I change my {}?",
    "How can I change my {}?",
    "What should I do to change my {}?",
    "Please tell me how to change my {}",
    "Where can I change my {}?",
    "I would like to change my {}, how?",
    "Is there a way to change my {}?",
    "What is the way to change my {}?",
)
THINGS = (
    *("password", "delivery address", "phone number", "surname", "payment card", "seat", "hotel"),
    *("flight", "insurance", "mattress", "haircut", "piano teacher", "thermostat", "wallpaper"),
    *("gearbox", "football team", "tax class", "dentist", "garden fence", "ringtone", "diet"),
    *("aquarium water", "nationality", "bicycle tyre", "screensaver", "landlord", "toothbrush"),
    *("language course", "electricity provider", "last will"),
)


def settings() -> Settings:
    return Settings(semantic=SemanticSettings(models_dir=MODELS))


def log(file: Path, lines: Iterable[tuple[str, str]]) -> Path:
    file.write_text(
        "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in lines), "utf-8"
    )
    return file


def stream() -> list[tuple[str, str]]:
    """Every thing in every frame; whoever asks of one thing gets one answer."""
    return [(frame.format(thing), f"About the {thing}.") for frame in FRAMES for thing in THINGS]


def report_of(exchanges: Sequence[Exchange], max_error: float = 0.01) -> Report:
    return tuned(exchanges, settings(), max_error, seed=0)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RECOLLECT_")}
    return subprocess.run(
        [RECOLLECT, "tune", *arguments],
        cwd=folder,
        env={**inherited, "RECOLLECT_SEMANTIC__MODELS_DIR": str(MODELS)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_hits_come_once_answers_were_right_often_enough(tmp_path: Path) -> None:
    """As online: the route earns them first. What was decided adds up to what was asked."""
    report = report_of(read_log(log(tmp_path / "log.jsonl", stream())), 0.05)

    asked = len(FRAMES) * len(THINGS)
    assert report.asked == asked
    assert not report.left_out
    for point in report.budgets:
        assert sum(point.verdicts.values()) == point.asked == asked
        assert point.verdicts.get("serve", 0) == point.hits
    assert report.chosen is not None
    assert report.chosen.hits > 0
    assert report.chosen.wrong_share <= 0.05
    assert report.chosen.verdicts["earning"] > 0
    assert sum(one.count for one in report.calibration) <= asked
    assert report.settings == f'[semantic]\nmode = "on"\nmax_error = {report.chosen.setting:g}'


def test_where_answers_are_drawn_by_chance_nothing_is_switched_on(tmp_path: Path) -> None:
    """No evidence is worth anything there, and the budget finds that out."""
    lines = [(question, f"Answer {number}.") for number, (question, _) in enumerate(stream())]

    report = report_of(read_log(log(tmp_path / "log.jsonl", lines)))

    assert [point.hits for point in report.budgets] == [0, 0, 0, 0]
    assert all(point.wrong == point.hits for point in report.scores)
    assert report.mode == "shadow"
    assert 'mode = "shadow"' in report.settings
    assert report.why.startswith("No hits")


def test_plain_score_counts_by_whose_answer_is_given(tmp_path: Path) -> None:
    """The second is the first in other words, the third too, but has another answer."""
    lines = [
        ("How do I reset my password?", "So."),
        ("How can I reset my password?", "So."),
        ("How would I reset my password?", "Otherwise."),
        ("What is the capital of France?", "Paris"),
    ]

    report = report_of(read_log(log(tmp_path / "log.jsonl", lines)))

    at = {point.setting: (point.hits, point.wrong) for point in report.scores}
    assert at[0.95] == (2, 1)
    assert at[0.8] == (2, 1)


def test_what_the_exact_tier_answers_or_nothing_may_is_left_out(tmp_path: Path) -> None:
    """By the proxy's own rules, each with its reason."""
    cut_off = {
        "request": {
            "model": "m",
            "messages": [{"role": "user", "content": "How tall is Everest?"}],
        },
        "response": {"choices": [{"message": {"content": "It is"}, "finish_reason": "length"}]},
    }
    searching = {
        "request": {
            "model": "m",
            "messages": [{"role": "user", "content": "How high is Everest?"}],
            "web_search_options": {},
        },
        "response": {},
    }
    lines = [
        ("How do I reset my password?", "So."),
        ("  How do I reset my password? ", "So."),
        ("Why?", "Because."),
        ("and what about it?", "That."),
        ("Как сбросить мой пароль?", "Так."),
    ]
    file = log(tmp_path / "log.jsonl", lines)
    with file.open("a") as more:
        more.writelines(json.dumps(line) + "\n" for line in (cut_off, searching))

    report = report_of(read_log(file))

    assert report.asked == 1
    assert report.left_out == {
        "repeat": 1,
        "short": 1,
        "leaning": 1,
        "script": 1,
        "finish-reason": 1,
        "side-effects": 1,
    }


def test_requests_of_other_models_or_system_prompts_are_not_compared(tmp_path: Path) -> None:
    """They are of other partitions, as in the proxy."""
    lines = []
    for number, model in enumerate(("one", "one", "other")):
        question = f"How {('do', 'can', 'would')[number]} I reset my password?"
        request = {"model": model, "messages": [{"role": "user", "content": question}]}
        message = {"role": "assistant", "content": "So."}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        lines.append({"request": request, "response": {"choices": choices}})
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    report = report_of(read_log(file))

    assert report.asked == 3
    assert next(point for point in report.scores if point.setting == 0.9).hits == 1


def test_answers_that_differ_in_blanks_are_the_same(tmp_path: Path) -> None:
    """As a stored response's answer group is."""
    lines = [
        ("How do I reset my password?", "So  it is.\n"),
        ("How can I reset my password?", "So it is."),
        ("How would I reset my password?", "So it was."),
    ]
    encoder = open_encoder(DEFAULT_MODEL, MODELS, device="cpu", threads=1)
    exchanges = read_log(log(tmp_path / "log.jsonl", lines))

    one, same, other = StreamReader(encoder, settings()).read(exchanges).questions

    assert one.group == same.group != other.group


def test_answers_in_other_words_are_found_to_be_the_same(tmp_path: Path) -> None:
    """By the embedding process' own comparison; the same template of something else is not."""
    lines = [
        ("How do I reset my password?", "Open the settings and choose Reset my password there."),
        ("How can I reset my password?", "To reset your password, go to Settings: Reset password."),
        ("How do I reset my phone?", "Open the settings and choose Reset my phone there."),
        *stream(),
    ]
    encoder = open_encoder(DEFAULT_MODEL, MODELS, device="cpu", threads=1)
    reader = StreamReader(encoder, settings())
    read = reader.read(read_log(log(tmp_path / "log.jsonl", lines)))

    joined = with_joined_answers(read, reader.encode)

    one, other, template, *rest = joined.questions
    assert one.group == other.group != template.group
    assert len({question.group for question in rest}) == len(THINGS)
    assert [question.key for question in joined.questions] == [one.key for one in read.questions]


def test_each_b_is_right_only_with_its_own_pairs_answer(tmp_path: Path) -> None:
    """And only if the pair is the same; a pair that is not has an answer of its own."""
    file = tmp_path / "pairs.jsonl"
    pairs = [
        ("How do I reset my password?", "How can I reset my password?", True),
        ("How do I cancel my order?", "How can I cancel my order?", False),
    ]
    file.write_text("".join(json.dumps({"a": a, "b": b, "same": s}) + "\n" for a, b, s in pairs))

    report = report_of(read_pairs(file))

    assert (report.stored_first, report.asked) == (2, 2)
    at = {point.setting: (point.hits, point.wrong) for point in report.scores}
    assert at[0.95] == (2, 1)


def test_csv_says_the_same_as_json(tmp_path: Path) -> None:
    """In any order of columns, with others beside them, and with a byte order mark."""
    pairs = [("one, two", "three\nfour", "true"), ("five", "six", "0"), ("seven", "eight", "FALSE")]
    by_csv = tmp_path / "pairs.csv"
    with by_csv.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["same", "note", "a", "b"])
        writer.writerows([same, "x", a, b] for a, b, same in pairs)

    stored_and_asked = read_pairs(by_csv)

    texts = [one.request.body["messages"][0]["content"] for one in stored_and_asked]
    assert texts == ["one, two", "five", "seven", "three\nfour", "six", "eight"]
    assert [one.is_asked for one in stored_and_asked] == [False] * 3 + [True] * 3
    labels = [one.label for one in stored_and_asked]
    assert [a == b for a, b in zip(labels[:3], labels[3:], strict=True)] == [True, False, False]
    assert len(set(labels)) == 5


@pytest.mark.parametrize(
    ("name", "content", "where", "wanted"),
    [
        ("log.jsonl", '{"question": "a", "answer": "b"}\n{"question": 1}\n', ":2:", '"answer"'),
        ("log.jsonl", '{"question": "a", "answer": "b"}\n\nno json\n', ":3:", "JSON object"),
        ("log.jsonl", '{"request": {"messages": []}, "response": {}}', ":1:", "chat completion"),
        ("log.jsonl", '{"request": {"prompt": "x"}, "response": {}}', ":1:", "chat completion"),
        ("log.jsonl", '{"request": {"messages": [1]}, "response": {}}', ":1:", "an object"),
        ("log.jsonl", '{"question": "\\ud800", "answer": "b"}', ":1:", "surrogate"),
        ("log.csv", "question;answer\na;b\n", ":1:", "question,answer"),
        ("log.csv", 'question,answer\na,b\n"c,d\n', ":3:", "CSV"),
        ("log.csv", "question,answer\na\n", ":2:", '"answer"'),
        ("log.jsonl", "", ":1:", "a line for each question"),
        ("log.jsonl", "\xff", ": ", "UTF-8"),
    ],
)
def test_a_line_that_is_wrong_is_named(
    tmp_path: Path, name: str, content: str, where: str, wanted: str
) -> None:
    """File, line, and what would be right."""
    file = tmp_path / name
    file.write_bytes(content.encode("latin-1"))

    with pytest.raises(BadFile) as raised:
        read_log(file)

    message = str(raised.value)
    assert message.startswith(f"{file}{where}")
    assert wanted in message
    assert "\n" not in message


def test_a_label_that_is_neither_true_nor_false_is_named(tmp_path: Path) -> None:
    """In CSV any word may stand there."""
    file = tmp_path / "pairs.csv"
    file.write_text("a,b,same\none,two,1\nthree,four,maybe\n")

    with pytest.raises(BadFile, match=r"pairs\.csv:3: same is neither true nor false"):
        read_pairs(file)


@pytest.mark.parametrize(
    ("points", "mode", "max_error"),
    [
        (((0.005, 50, 0), (0.01, 200, 2), (0.02, 300, 2)), "on", 0.01),
        (((0.005, 50, 0), (0.01, 200, 3), (0.02, 300, 3)), "on", 0.005),
        (((0.005, 50, 1), (0.01, 200, 3), (0.02, 300, 3)), "shadow", 0.01),
        (((0.005, 0, 0), (0.01, 0, 0), (0.02, 300, 0)), "shadow", 0.01),
    ],
)
def test_chosen_is_what_kept_to_the_budget_with_most_hits(
    points: Sequence[tuple[float, int, int]], mode: str, max_error: float
) -> None:
    """At 1 %: no wider budget, and of the narrower ones that with the most hits."""
    budgets = [Point(setting, 1000, hits, wrong) for setting, hits, wrong in points]
    report = Report(1000, 0, {}, 0.01, budgets, [], [])

    assert (report.mode, report.chosen_max_error) == (mode, max_error)
    assert report.settings == f'[semantic]\nmode = "{mode}"\nmax_error = {max_error:g}'


def test_picture_is_a_png_with_something_in_it(tmp_path: Path) -> None:
    """Both curves are drawn, even where nothing was served."""
    report = report_of(read_log(log(tmp_path / "log.jsonl", stream())), 0.03)

    draw(report, tmp_path / "curve.png")

    png = (tmp_path / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) > 10_000


def test_command_writes_tables_or_one_json_document(tmp_path: Path) -> None:
    """Both say the same; the picture is drawn beside them."""
    file = str(log(tmp_path / "log.jsonl", stream()))

    tables = run(tmp_path, "--log", file, "--max-error", "0.05", "--picture", "curve.png")
    document = run(tmp_path, "--log", file, "--max-error", "0.05", "--json")

    assert tables.returncode == 0, tables.stderr
    assert document.returncode == 0, document.stderr
    shown = json.loads(document.stdout)
    assert shown == as_json(report_of(read_log(Path(file)), 0.05))
    assert [point["max_error"] for point in shown["budgets"]] == [0.005, 0.01, 0.02, 0.05]
    for point in shown["budgets"]:
        assert any(
            line.split()[:2] == [f"{point['max_error']:g}", str(point["hits"])]
            for line in tables.stdout.splitlines()
        )
    assert f"max_error = {shown['semantic']['max_error']:g}" in tables.stdout
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_what_is_wrong_with_the_command_is_one_line(tmp_path: Path) -> None:
    """Exit code 2 for a wrong command line or file, 1 for what fails while it runs."""
    log(tmp_path / "log.jsonl", [("How do I reset my password?", "So.")])
    (tmp_path / "bad.jsonl").write_text("no json\n")
    for code, wanted, *arguments in (
        (2, "one of --pairs and --log is needed"),
        (2, "one of --pairs and --log is needed", "--pairs", "a", "--log", "b"),
        (2, "--max-error 1 should be", "--log", "log.jsonl", "--max-error", "1"),
        (2, "bad.jsonl:1: not a JSON object", "--log", "bad.jsonl"),
        (2, "none.jsonl: No such file", "--pairs", "none.jsonl"),
        (1, "x/y.png cannot be written", "--log", "log.jsonl", "--picture", "x/y.png"),
    ):
        done = run(tmp_path, *arguments)

        assert done.returncode == code
        assert wanted in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_command_says_so(tmp_path: Path) -> None:
    """In one line, before anything is read."""
    script = (
        "import sys\n"
        "sys.modules['faiss'] = None\n"
        "sys.argv = ['recollect', 'tune', '--log', 'none.jsonl']\n"
        "from admin.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.strip() == (
        "recollect: this needs the extra `semantic`: pip install 'recollect[semantic]'"
    )
