"""Readers: formats, positions, and every way a file can be bad."""

import json
import re

import pytest

from core.text.readers import DataError, TextReader, read_records


def write(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def texts(file, **options):
    return list(TextReader(file, **options))


LINES = "one\n\n  two 二\nthree"


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_paragraphs_and_whole_files(tmp_path, bom, end):
    file = write(tmp_path, "a.txt", (bom + LINES).replace("\n", end))
    assert texts(file) == ["one", "  two 二", "three"]
    assert texts(file, unit="paragraph") == ["one", "  two 二\nthree"]
    assert texts(file, unit="file") == [LINES]


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
@pytest.mark.parametrize(
    ("content", "expected"), [("", []), ("x", ["x"]), ("\n\n", []), ("NUL \x00", ["NUL \x00"]), ("😀\n", ["😀"])]
)
def test_tiny_files(tmp_path, unit, content, expected):
    file = write(tmp_path, "a.txt", content)
    if unit == "file" and content:
        expected = [content]
    assert texts(file, unit=unit) == expected


def test_line_separators_inside_a_line_do_not_split_it(tmp_path):
    assert texts(write(tmp_path, "a.txt", "a\u2028b\x85c\x0cd\re\nf")) == ["a\u2028b\x85c\x0cd\re", "f"]


ROWS = [{"text": "one", "n": 1}, {"text": "zwei\nLinien", "n": 2}, {"text": "三", "n": 3}, {"text": "", "n": 4}]


def make(tmp_path, kind):
    if kind == "jsonl":
        return write(tmp_path, "a.jsonl", "\n\n".join(json.dumps(row) for row in ROWS))
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(ROWS)
        file = tmp_path / "a.parquet"
        parquet.write_table(table, file, row_group_size=3)
        return file
    separator = "," if kind == "csv" else "\t"
    lines = [separator.join(("text", "n"))] + [f'"{row["text"]}"{separator}{row["n"]}' for row in ROWS]
    return write(tmp_path, f"a.{kind}", "\ufeff" + "\r\n".join(lines))


KINDS = ["jsonl", "csv", "tsv", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_structured_formats_give_the_same_texts(tmp_path, kind):
    assert texts(make(tmp_path, kind)) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("kind", [*KINDS, "line", "paragraph", "file"])
def test_reading_on_from_any_position_gives_the_rest(tmp_path, kind):
    unit = kind if kind in ("line", "paragraph", "file") else "line"
    file = write(tmp_path, "a.txt", "\ufeffone\r\n\r\ntwo\nmore\n\n\nthree") if unit == kind else make(tmp_path, kind)
    records = list(read_records(file, unit=unit))
    for place, record in enumerate(records):
        assert json.loads(json.dumps(record.position)) == record.position
        rest = list(read_records(file, unit=unit, start=record.position))
        assert [r.fields for r in rest] == [r.fields for r in records[place + 1 :]]
        if kind != "csv":
            assert [r.where for r in rest] == [r.where for r in records[place + 1 :]]


def test_other_fields_and_several_files(tmp_path):
    first = write(tmp_path, "a.jsonl", '{"caption": "x"}\n')
    second = write(tmp_path, "b.jsonl", '{"caption": "y"}\n{"caption": "z"}\n')
    reader = TextReader([first, second], field="caption")
    assert list(reader) == ["x", "y", "z"]
    assert reader.num_read == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', r"a\.jsonl:2: not JSON \(.* at column"),
        ("a.jsonl", b'{"text": "ok"}\n["x"]\n', r"a\.jsonl:2: a line must be a JSON object, found list"),
        ("a.jsonl", b'{"text": "ok"}\n\n{"txt": "x"}\n', r"a\.jsonl:3: no field 'text'; the record has txt"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": 5}\n', r"a\.jsonl:2: field 'text' must be a string, found int"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": null}\n', r"a\.jsonl:2: .* found NoneType"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "\\ud800"}\n', r"a\.jsonl:2: field 'text' has a lone surrogate"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "\xff"}\n', r"a\.jsonl:2: byte 10 \(0xff\) is not UTF-8"),
        ("a.jsonl", b'{"text": "ok"}\n' + b"[" * 100_000, r"a\.jsonl:2: JSON that cannot be read"),
        ("a.jsonl", b'{"text": "ok"}\n{"n": ' + b"1" * 5000 + b"}", r"a\.jsonl:2: JSON that cannot be read"),
        ("a.csv", b"text,n\nok,1\nx\n", r"a\.csv:3: 1 fields, the header has 2"),
        ("a.txt", b"ok\n\xfe\xff\n", r"a\.txt:2: byte 0 \(0xfe\) is not UTF-8"),
    ],
)
def test_bad_records_are_named_or_skipped_and_counted(tmp_path, name, content, message):
    file = write(tmp_path, name, content + (b"\nlast,2\n" if name.endswith("csv") else b""))
    with pytest.raises(DataError, match=message):
        texts(file)
    reader = TextReader(file, on_bad="skip")
    found = list(reader)
    assert found[0] == "ok"
    assert reader.num_read == len(found)
    assert len(reader.skipped) == 1
    assert re.search(message, reader.skipped[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text,n\nok,1\n"x,2\n', r"a\.csv:3: not CSV"),
        ("a.csv", b"text,n\nok,1\n\xff,2\n", r"a\.csv:3: byte 0 \(0xff\) is not UTF-8"),
        ("a.parquet", b"PAR1 no", r"a\.parquet cannot be read as Parquet"),
    ],
)
def test_files_damaged_beyond_a_record_stop_even_when_skipping(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message):
        texts(write(tmp_path, name, content), on_bad="skip")


def test_missing_file_no_file_and_bad_unit(tmp_path):
    with pytest.raises(DataError, match="no file"):
        texts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no files"):
        TextReader([])
    with pytest.raises(ValueError, match="unit must be one of line, paragraph, file"):
        texts(write(tmp_path, "a.txt", "x"), unit="page")


def test_parquet_without_its_column(tmp_path):
    with pytest.raises(DataError, match=r"a\.parquet:row 1: no field 'body'; the record has text, n"):
        texts(make(tmp_path, "parquet"), field="body")
