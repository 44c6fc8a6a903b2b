"""Delimited tables: no cell lost, shifted or cut; a fault names its line, and a header that is not understood is shown."""

from __future__ import annotations

import csv

from data_samples import picture
import fsspec
import pytest

from mof_jax.data.files import tables
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.errors import BadExample, UserError

QUOTE = "a cell of this row begins with a quote"
SWALLOWED = "a quote opens here and closes in line 4, behind lines that are rows themselves"


@pytest.fixture
def read(tmp_path):
    """Writes a table beside six pictures; its records as (id, whether there is a picture, texts), or what is wrong with one."""
    (tmp_path / "img").mkdir()
    for i in range(6):
        (tmp_path / f"img/{i}.png").write_bytes(picture(i, 4, 4))

    def records(name: str, text: str | bytes, **options) -> list:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        source = TableSource(str(tmp_path / name), **options)
        found = []
        for i in range(len(source)):
            try:
                record = source[i]
                assert record.id == source.row_id(i)
                found.append((record.id, record.image is not None, dict(record.texts)))
            except BadExample as error:
                assert error.source == str(tmp_path / name)
                found.append(f"{error.record}: {error.reason}")
        return found

    return records


def rows(*captions, kind="title"):
    return [(f"img/{i}.png", True, {kind: (caption,)}) for i, caption in enumerate(captions)]


# What is read, and as what


@pytest.mark.parametrize("name, text", [
    ("a.csv", "filepath,title\nimg/0.png,a\nimg/1.png,b\n"),
    ("a.csv", "filepath,title\r\nimg/0.png,a\r\nimg/1.png,b"),
    ("a.csv", "filepath,title\rimg/0.png,a\rimg/1.png,b\r"),
    ("a.csv", "\ufefffilepath,title\nimg/0.png,a\nimg/1.png,b\n"),
    ("a.csv", "\n\nfilepath , title\n\nimg/0.png,a\n  \nimg/1.png,b\n\n"),
    ("a.csv", '"filepath","title"\n"img/0.png","a"\n"img/1.png","b"\n'),
    ("a.csv", "filepath,title\nimg/0.png,a,\nimg/1.png,b,,\n"),  # nothing is lost with an empty cell
    ("a.csv", ",filepath,title\n0,img/0.png,a\n1,img/1.png,b\n"),  # pandas' index
    ("a.csv", "filepath,title,\nimg/0.png,a,\nimg/1.png,b, \n"),
    ("a.csv", "Filepath,TITLE\nimg/0.png,a\nimg/1.png,b\n"),
    ("a.csv", "title\tfilepath\na\timg/0.png\nb\timg/1.png\n"),  # open_clip's default
    ("a.csv", "filepath;title\nimg/0.png;a\nimg/1.png;b\n"),
    ("a.csv", "filepath|title\nimg/0.png|a\nimg/1.png|b\n"),
    ("a.tsv", "filepath\ttitle\nimg/0.png\ta\nimg/1.png\tb\n"),
    ("a.tsv", "filepath,title\nimg/0.png,a\nimg/1.png,b\n"),
])
def test_what_is_read(read, name, text):
    assert read(name, text) == rows("a", "b")


def test_cells_are_as_they_are_written(read):
    text = ('filepath,title\nimg/0.png,"two\nlines, ""quoted"""\nimg/1.png,5" nails\nimg/2.png," a\u2028b\u0085 "\n'
            "img/3.png,None\n")
    assert read("a.csv", text) == rows('two\nlines, "quoted"', '5" nails', " a\u2028b\u0085 ", "None")
    assert read("a.csv", 'filepath,title\nimg/0.png,"A cat\nin the hat, here"\n') == rows("A cat\nin the hat, here")
    words = 'id,text\npositive,"Great\nReally, good"\nimg-1,"one\ntwo, three\n4, 5 and 6"\n'
    assert [texts["text"][0] for _, _, texts in read("a.csv", words)] == ["Great\nReally, good", "one\ntwo, three\n4, 5 and 6"]
    assert read("a.tsv", 'filepath\ttitle\nimg/0.png\t"a\tb"\nimg/1.png\tx, "y"\n') == rows("a\tb", 'x, "y"')


def test_a_cell_of_any_length(read):
    before = csv.field_size_limit()
    assert read("a.csv", f"filepath,title\nimg/0.png,{'x' * 200_000}\nimg/1.png,b\n") == rows("x" * 200_000, "b")
    assert csv.field_size_limit() == before


def test_columns_that_are_named(read):
    text = "image_name| comment_number| comment\nimg/0.png| 0| a cat\n"
    found = read("a.csv", text, image_field="image_name", text_fields={"alt": "comment"})
    assert found == [("img/0.png", True, {"alt": (" a cat",)})]
    both = "Filepath,TEXT,text\nimg/0.png,A,a\n"
    assert read("a.csv", both, text_fields={"alt": "TEXT"}) == [("img/0.png", True, {"alt": ("A",)})]
    assert read("a.csv", both) == rows("a", kind="text")  # where one is called as usual, none is renamed
    assert read("a.csv", "URL,TEXT\nhttp://x/0.png,a\n", text_fields={"alt": "TEXT"}) == [("2", False, {"alt": ("a",)})]


# Faults of a row: counted, the others stay


@pytest.mark.parametrize("line, fault", [
    (b"img/1.png,a cat, sitting", "has more cells than the header (3 for 2); a text that contains commas needs quotes around it"),
    (b"img/1.png,5,31,7", "has more cells than the header (4 for 2); a text that contains commas needs quotes around it"),
    (b"img/1.png", "ends before column title (1 cells for 2)"),
    (b"img/1.png,caf\xe9", "byte 0xe9 in cell 2 is not UTF-8; save the table as UTF-8"),
    (b"img/1.png,\xed\xa0\x80", "byte 0xed in cell 2 is not UTF-8; save the table as UTF-8"),
    (b"img/1.png,a\xe9,b", "byte 0xe9 in cell 2 is not UTF-8; save the table as UTF-8"),
    (b"img/1.png,a\0b", "cell 2: a NUL at 1 is no text"),
    (b",", "neither a picture nor a text; it has 'filepath', 'title'"),
])
def test_a_row_that_is_wrong_is_one_bad_record(read, line, fault):
    first, bad, last = read("a.csv", b"filepath,title\nimg/0.png,a\n" + line + b"\nimg/2.png,c\n")
    assert (first, bad, last) == (rows("a")[0], f"line 3: {fault}", rows("", "", "c")[2])


def test_cells_under_no_name(read):
    found = read("a.csv", "filepath,,title\nimg/0.png,x,a\nimg/1.png,,b\n")
    assert found == ["line 2: cell 'x' stands in column 2, which has no name in the header", rows("", "b")[1]]
    with pytest.raises(UserError, match="column '' holds pictures .'img/0.png'.*name it with image_field"):
        read("a.csv", ",title\nimg/0.png,a\n")


@pytest.mark.parametrize("index", ["0", "-1", "0.0", "x0", "2024-01-01"])
def test_an_index_as_pandas_writes_it_is_passed_over(read, index):
    assert read("a.csv", f",filepath,title\n{index},img/0.png,a\n") == rows("a")


@pytest.mark.parametrize("text", ["score\n3, 4\nfinal", "score\n3,4\nfinal", "Photos:\nfront.jpg, back.jpg 0", "a\nb, c\nd"])
def test_lines_inside_a_text_are_no_rows(read, text):
    """OCR, lists, addresses: what a correct table quotes is read as it stands."""
    assert read("a.csv", f'filepath,title\nimg/0.png,"{text}"\nimg/1.png,b\n') == rows(text, "b")


# Faults of a table: one line that says where and how


@pytest.mark.parametrize("name, text, line", [
    ("a.tsv", 'filepath\ttitle\nimg/0.png\ta\nimg/1.png\t"5 inch\nimg/2.png\tc\n', f"a.tsv line 3: {QUOTE} that does not"),
    ("a.tsv", 'filepath\ttitle\nimg/0.png\t"Best\nimg/1.png\tb\nimg/2.png\t"quoted" word\n', f"a.tsv line 2: {QUOTE}, and"),
    ("a.tsv", 'filepath\ttitle\nimg/0.png\t"5 inch\nimg/1.png\tb\nimg/2.png\t6 inch"\n', f"line 2: {SWALLOWED}"),
    ("a.csv", 'filepath,title\nimg/0.png,"5 inch\nimg/1.png,b\nimg/2.png,6 inch"\n', f"line 2: {SWALLOWED}"),
    ("a.csv", 'title,filepath\n"5 inch,img/0.png\nb"",img/1.png\nc",img/2.png\n', f"line 2: {SWALLOWED}"),
    ("a.csv", 'id,text\nr-1,"5 inch\nr-2,b\nr-3,6 inch"\n', f"line 2: {SWALLOWED}"),
    ("a.csv", 'id,text\n1,"5 inch\n2,b\n3,6 inch"\n', f"line 2: {SWALLOWED}"),
    ("a.csv", 'filepath,title\nimg/0.png,"a" b\n', f"a.csv line 2: {QUOTE}, and text follows the closing one in line 2"),
    ("a.csv", 'filepath,"title\nimg/0.png,a\n', "a.csv line 1: a quote of the header does not close"),
    ("a.csv", "filepath,title,title\nimg/0.png,a,b\n", "a.csv line 1: column 'title' stands twice in the header"),
    ("a.csv", "Title,TITLE,filepath\na,b,img/0.png\n", "two columns are called 'title' but for capitals"),
    ("a.tsv", "a cat\timg/0.png\na dog\timg/1.png\n", "no known column; the header (the first row) is 'a cat', 'img/0.png'"),
    ("a.csv", "x|y|z\n1|2|3\n", "the header (the first row) is 'x|y|z'; are its cells split by bars?; name columns"),
    ("a.csv", "filepath;title,alt\nimg/0.png;a,b\n", "has known columns if it is split by commas and by semicolons"),
    ("a.csv", "filepath,title;x\nimg/0.png,a;b\n", "column 'title;x' of the header holds another separator"),
    ("a.csv", "URL,TEXT\nhttp://x/0,a\n", "column 'URL' holds addresses, and nothing is fetched"),
    ("a.csv", "photo,caption\nimg/0.png,a\n", "column 'photo' holds pictures ('img/0.png') and is none of image, file_name"),
    ("a.csv", "filepath,title\nimg/0.png,a\n".encode("utf-16"), "a.csv line 1: is UTF-16, not UTF-8; save it as UTF-8"),
    ("a.csv", "filepath,title\nimg/0.png,a\n".encode("utf-16-le"), "a.csv line 1: a NUL is no text (a table in UTF-16?)"),
    ("a.csv", "filepath,titré\nimg/0.png,a\n".encode("latin-1"), "a.csv line 1: byte 0xe9 is not UTF-8; save the table as UTF-8"),
    ("a.csv", "filepath,title\n", "a.csv: the table has no rows"),
    ("a.csv", "", "a.csv: the table has no rows"),
])
def test_a_table_that_is_wrong_is_one_line(read, name, text, line):
    with pytest.raises(UserError) as stop:
        read(name, text)
    assert line in str(stop.value) and not isinstance(stop.value, BadExample) and "\n" not in str(stop.value)


@pytest.mark.parametrize("name, text", [("a.csv", "filepath,title\nimg/0.png,a\n"),
                                        ("a.jsonl", '{"filepath": "img/0.png", "title": "a"}\n')])
def test_a_column_that_is_named_and_is_not_there(read, name, text):
    for options in ({"image_field": "img"}, {"text_fields": {"alt": "caption"}}):
        with pytest.raises(UserError, match=r"no column '(img|caption)'.* it has 'filepath', 'title'"):
            read(name, text, **options)


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match="none.csv: no such file"):
        tables.read(str(tmp_path / "none.csv"), ["a"], "")


def test_a_table_in_an_object_store():
    for name, data in (("tables/a.csv", b"\xef\xbb\xbffilepath\ttitle\nimg/0.png\ta\n"), ("tables/img/0.png", picture(0, 4, 4))):
        with fsspec.open(f"memory://{name}", "wb") as f:
            f.write(data)
    record = TableSource("memory://tables/a.csv")[0]
    assert record.texts == {"title": ("a",)} and record.image == picture(0, 4, 4)
