"""The numbers of a blend, from pairs that are made up: weights under limits, names of validation sets, lines of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_workflow.data import blend
from nemo_workflow.data.blend import Source, ValidationSet
from nemo_workflow.data.indexed_dataset import Pair
from tests.places import write_pair


def pair(tokens: int, name: str = "p") -> Pair:
    return Pair(name, "uint16", 1, 1, tokens)


def sources(*weights: float, most: tuple[float | None, ...] = ()) -> tuple[Source, ...]:
    limits = most or (None,) * len(weights)
    return tuple(Source(pair(10), weight, limit) for weight, limit in zip(weights, limits, strict=True))


@pytest.mark.parametrize(
    ("weights", "most", "samples", "drawn", "most_of_all", "found"),
    [
        ((0.5, 0.5), (), (100, 100), 100, None, (0.5, 0.5)),  # no limit: as they were
        ((0.5, 0.5), (), (10, 100), 100, 2, (0.2, 0.8)),  # 20 of 100 samples are all that the first may give
        ((0.5, 0.25, 0.25), (1, None, None), (10, 100, 100), 100, None, (0.1, 0.45, 0.45)),
        ((0.5, 0.3, 0.2), (None, None, None), (20, 40, 1000), 100, 1, (0.2, 0.4, 0.4)),  # the second is full then too
        ((0.6, 0.4), (3, None), (10, 40), 100, 2, (0.3, 0.7)),  # a line's own limit goes before the common one
        ((0.5, 0.5), (), (50, 50), 100, 1, (0.5, 0.5)),  # just enough
        ((1.0, 0.0), (0.5, None), (100, 100), 100, None, (0.5, 0.0)),  # nobody to take what is left
    ],
)
def test_what_a_source_may_not_give_goes_to_the_others(
    weights: tuple[float, ...],
    most: tuple[float | None, ...],
    samples: tuple[int, ...],
    drawn: int,
    most_of_all: float | None,
    found: tuple[float, ...],
) -> None:
    problems: list[str] = []
    limited = blend.limited(sources(*weights, most=most), samples, drawn, most_of_all, problems)
    assert [source.weight for source in limited] == pytest.approx(list(found)) and problems == []


def test_a_run_that_draws_more_than_all_may_give_is_a_problem() -> None:
    problems: list[str] = []
    given = sources(0.5, 0.5, most=(1.5, 2))
    assert blend.limited(given, (1001, 10), 2000, None, problems) == given
    assert problems == [
        "--max-epochs-per-source: the run draws 2,000 samples, and 1,521 are all that the sources may give;"
        " allow more epochs, add data, or lower --max-steps"
    ]


@pytest.mark.parametrize(("tokens", "samples"), [((9, 9), 2), ((10, 9), 2), ((8, 8), 0), ((17, 0), 2), ((1, 0), 0)])
def test_the_samples_of_a_validation_set(tokens: tuple[int, ...], samples: int) -> None:
    """The token after a sample's last must be there too: 8 tokens make no sample of 8."""
    assert ValidationSet("v", tuple(Source(pair(count), 1.0) for count in tokens)).samples(8) == samples


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("code=/data/code", ("code", "/data/code")),
        ("code=/data/a=b", ("code", "/data/a=b")),
        ("/data/code", ("code", "/data/code")),
        ("/data/code/preprocessed", ("code", "/data/code/preprocessed")),
        ("/data/a=b", ("a=b", "/data/a=b")),
        ("/data/a=b/web", ("web", "/data/a=b/web")),
    ],
)
def test_the_name_of_a_validation_set(word: str, found: tuple[str, str]) -> None:
    assert blend.name_and_place(word) == found


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), ("0.25", 0.25), ("1e-9", 1e-9), ("0", 0), ("-1", 0), ("inf", 0), ("nan", 0), ("x", 0), ("", 0)],
)
def test_a_weight_is_a_finite_number_above_0(text: str, number: float) -> None:
    assert blend._number(text) == number


def test_a_second_set_of_a_name_and_one_without_data_are_problems(tmp_path: Path) -> None:
    write_pair(tmp_path / "a" / "x", [300])
    problems = ["--dataset-dir: a problem of before"]
    write_pair(tmp_path / "a" / "y", [300] * 3)
    words = [f"a={tmp_path}/a", f"a={tmp_path}/a", f"b c={tmp_path}/a", f"b={tmp_path}/none"]
    (found,) = blend.validation_sets(words, problems)
    assert found.name == "a" and [source.weight for source in found.sources] == [0.25, 0.75]
    assert problems.pop(0) == "--dataset-dir: a problem of before"
    assert [problem.split(":")[0] for problem in problems] == [
        f"--validation-dir {words[1]}", f"--validation-dir {words[2]}", f"--validation-dir {tmp_path}/none",
    ]  # fmt: skip
    assert "a second set called a" in problems[0] and "'b c' is not a valid name" in problems[1]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    write_pair(tmp_path / "a" / "x", [300] * 3)
    write_pair(tmp_path / "b" / "y", [300])
    return tmp_path


def read(folder: Path, text: str) -> tuple[list[tuple[str, float, float | None]], list[str]]:
    (folder / "blend").write_text(text, encoding="utf-8")
    problems: list[str] = []
    found = blend.from_file(str(folder / "blend"), problems)
    return [(Path(one.pair.prefix).name, round(one.weight, 3), one.most_epochs) for one in found], problems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 a\n1 b\n", [("x", 0.75, None), ("y", 0.25, None)]),
        ("# a comment, é\n\n 3  a # the first\n1 b/y", [("x", 0.75, None), ("y", 0.25, None)]),
        ("tokens a\ntokens b", [("x", 0.75, None), ("y", 0.25, None)]),
        ("1 max-epochs=1 a\n1 b", [("x", 0.5, 1.0), ("y", 0.5, None)]),
        ("1 max-epochs=2 a\n1 max-epochs=0.5   b", [("x", 0.5, 2.0), ("y", 0.5, 0.5)]),
    ],
)
def test_lines_of_a_blend_file(two: Path, text: str, found: list[tuple[str, float, float | None]]) -> None:
    assert read(two, text) == (found, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing\n", "{file}: no line of the form `WEIGHT PATH`"),
        ("Some text.\n" * 99, "{file}: no line of the form `WEIGHT PATH`; a text file with a line"),
        ("12 apples.\n" + "Some text.\n" * 99, "{file}: 1 of 100 lines of the form `WEIGHT PATH`; a text file"),
        ("0 " + "a" * 999, "{file}, line 1: expected `WEIGHT PATH` or `WEIGHT max-epochs=N PATH`"),
        ("2\n", "{file}, line 1: expected `WEIGHT PATH` or"),
        ("1 a\nx b\n", "{file}, line 2: expected `WEIGHT PATH` or"),
        ("1 max-epochs=3\n", "{file}, line 1: expected `WEIGHT PATH` or"),
        ("1 ~no_such_user_here/a\n", "{file}, line 1: ~no_such_user_here/a: "),
        ("1 a\n1 nowhere\n", "--blend {folder}/blend, line 2: {folder}/nowhere: no such folder or pair"),
    ],
)
def test_one_wrong_line_is_one_problem(two: Path, text: str, said: str) -> None:
    _, problems = read(two, text)
    (problem,) = problems
    said = said.format(file=f"--blend {two}/blend", folder=two)
    assert problem.startswith(said) and len(problem) < len(str(two)) + 300, problem


def test_a_source_named_twice_and_a_file_that_cannot_be_read_are_problems(two: Path) -> None:
    _, problems = read(two, "1 a\n1 a/x\n1 b\n")
    assert problems == [f"{two}/a/x: named twice as a source; name it once, or weight it in a --blend file"]
    problems = []
    assert blend.from_file(str(two / "none"), problems) == ()
    assert len(problems) == 1 and problems[0].startswith(f"--blend {two}/none: no such file; ")
    (two / "blend").write_bytes(b"1 a\xff\n")
    assert (
        blend.from_file(str(two / "blend"), problems) == () and "is not text in UTF-8; a text file with" in problems[1]
    )
    assert blend.from_file(str(two / "a"), problems) == ()
    assert problems[2].endswith(
        ": is a folder: it holds what preprocessing has made of a text, which goes with --dataset-dir"
    )
    (two / "empty").mkdir()
    assert blend.from_file(str(two / "empty"), problems) == () and ": is a folder; a text file with" in problems[3]


def test_a_path_starts_from_the_files_folder_or_from_the_current_one(
    two: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "blend").write_text("1 a\n1 b/y\n")
    monkeypatch.chdir(two)
    problems: list[str] = []
    found = blend.from_file(str(elsewhere / "blend"), problems)
    assert [Path(source.pair.prefix).parent for source in found] == [two / "a", two / "b"] and not problems
    write_pair(elsewhere / "a" / "nearer", [30])
    assert Path(blend.from_file(str(elsewhere / "blend"), problems)[0].pair.prefix) == elsewhere / "a" / "nearer"


def test_a_path_may_have_a_hash_and_a_blank_in_it(tmp_path: Path) -> None:
    write_pair(tmp_path / "a#1 b" / "x", [300])
    assert read(tmp_path, "1 a#1 b\n") == ([("x", 1.0, None)], [])
    assert read(tmp_path, "1 max-epochs=2 a#1 b\n") == ([("x", 1.0, 2.0)], [])
    assert read(tmp_path, "1 max_epochs=2 a#1 b\n") == ([("x", 1.0, 2.0)], [])


def test_folders_are_weighted_by_their_tokens(two: Path) -> None:
    def found(temperature: float | None, *folders: str) -> tuple[list[float], list[str]]:
        problems: list[str] = []
        made = blend.from_folders(tuple(f"{two}/{name}" for name in folders), problems, temperature)
        return [round(source.weight, 3) for source in made], [problem.split(":")[0] for problem in problems]

    assert found(None, "a", "b") == ([0.75, 0.25], [])
    assert found(1.0, "a", "b") == ([0.75, 0.25], [])
    assert found(1e9, "a", "b") == ([0.5, 0.5], [])
    assert found(0.005, "a", "b") == ([1.0, 0.0], [])  # 900 to the power of 200 is more than a float holds
    assert found(None, "a", "a") == ([0.5, 0.5], [f"{two}/a/x"])  # named twice
    assert found(2.0, "a", "b", "none") == ([0.634, 0.366], [f"--dataset-dir {two}/none"])
    assert found(2.0, "a") == ([1.0], ["--blend-temperature 2"])
    assert found(None, "none") == ([], [f"--dataset-dir {two}/none"])


@pytest.mark.parametrize(
    ("text", "temperature", "weights", "said"),
    [
        ("9 a\n1 b\n", 2.0, [0.75, 0.25], []),
        ("9 a\n1 b\n", 0.5, [0.988, 0.012], []),
        ("tokens a\ntokens b\n", 2.0, [0.634, 0.366], []),
        ("1 a\n", 2.0, [1.0], ["--blend-temperature 2: does nothing with one source"]),
        ("tokens a\n1 b\n", None, [0.999, 0.001], ["some lines weigh by `tokens` and some by a number"]),
        ("", 2.0, [], ["no line of the form `WEIGHT PATH`"]),
        ("1 a\n1 empty\n", None, [1.0], ["/empty: no token in its files; preprocess text into it"]),
        ("1 a\n1 broken\n1 nowhere\n", None, [1.0], ["/broken/z.bin: missing, though z.idx is there", "/nowhere: no such folder or pair"]),
    ],
)  # fmt: skip
def test_weights_and_problems_of_a_blend_file(
    two: Path, text: str, temperature: float | None, weights: list[float], said: list[str]
) -> None:
    write_pair(two / "empty" / "e", [0])
    write_pair(two / "broken" / "z", [9])
    (two / "broken" / "z.bin").unlink()
    (two / "blend").write_text(text)
    problems: list[str] = []
    found = blend.from_file(str(two / "blend"), problems, temperature)
    assert [round(one.weight, 3) for one in found] == pytest.approx(weights, abs=0.0011)
    assert len(problems) == len(said), problems
    for problem, words in zip(problems, said, strict=True):
        assert words in problem
