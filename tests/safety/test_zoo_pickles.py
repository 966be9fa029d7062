"""``.pkl`` files of model zoos: numpy arrays and plain containers are read, as pickle itself reads them; no more."""

import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
from hostile import pickle_file

from det_distill.files import FileError, load_model_file, load_zoo_pickle

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float32),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::2],
    "no dimension": np.array(2.5),
    "big endian": np.arange(3, dtype=">i4"),
    "half": np.ones(3, np.float16),
    "truth": np.array([True, False]),
    "texts": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "complex": np.ones(2, np.complex64),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_zoo_file_holds_is_read_as_pickle_reads_it(tmp_path, protocol):
    values = {
        "weights": ARRAYS,
        "lr": np.float64(0.5),
        "n": np.int64(3),
        "list": [1, (2.0, None)],
        "b": b"\x00\xff",
    }
    values["ordered"] = OrderedDict(a=np.ones(2), b={"c", "d"})
    values["frozen"], values["long"] = frozenset((1, 2)), 1 << 80
    file = pickle_file(tmp_path / "w.pkl", values, protocol)
    found, expected = load_zoo_pickle(file), pickle.loads(file.read_bytes())
    for name, array in expected["weights"].items():
        read = found["weights"][name]
        assert type(read) is np.ndarray and read.dtype == array.dtype, name
        np.testing.assert_array_equal(read, array)
        assert read.flags.writeable
    assert type(found["ordered"]) is OrderedDict and list(found["ordered"]) == ["a", "b"]
    assert type(found["lr"]) is np.float64 and found["lr"] == 0.5 and found["n"] == 3
    for key in ("list", "b", "frozen", "long"):
        assert found[key] == values[key]


def test_a_file_of_python_2_with_numpys_old_names_is_read_as_latin1(tmp_path):
    """Written by hand, as Python 2.7 has it, of ``{"w": numpy.array([1, 2], "f4"), "name": "\\xe9"}`` at protocol 2."""
    raw = np.array([1, 2], "f4").tobytes()
    stream = (
        b"\x80\x02}q\x00(U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01\x87q\x0bRq\x0c"
        b"(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U"
        + bytes([len(raw)])
        + raw
        + b"q\x0ftq\x10b"
        b"U\x04nameq\x11U\x01\xe9q\x12u."
    )
    (tmp_path / "w.pkl").write_bytes(stream)
    found = load_zoo_pickle(tmp_path / "w.pkl")
    assert found["name"] == "\xe9" and found["w"].tolist() == [1.0, 2.0]
    assert pickle.loads(stream, encoding="latin1")["w"].tolist() == [1.0, 2.0]


def test_the_kinds_of_zoo_files_become_what_detectron2_makes_of_them(tmp_path):
    weight = {"conv1_w": np.ones(2, np.float32), "conv1_w_momentum": np.ones(2, np.float32)}
    caffe2 = {"model": {"conv1_w": weight["conv1_w"]}, "__author__": "Caffe2", "matching_heuristics": True}
    for content in (weight, {"blobs": weight, "cfg": "MODEL: x"}):
        found = load_model_file(str(pickle_file(tmp_path / "w.pkl", content)))
        assert found.pop("model").keys() == {"conv1_w"}
        assert found == {k: v for k, v in caffe2.items() if k != "model"}
    zoo = {"model": weight, "__author__": "the zoo"}
    assert load_model_file(str(pickle_file(tmp_path / "w.pkl", zoo)))["__author__"] == "the zoo"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}], dtype=object), "type 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "type 'V4'"),
        (np.array(["2020-01-01"], "M8[D]"), "type 'M8'"),
        (np.ma.array([1.0]), r"would call numpy\.ma"),
        (np.matrix([1.0]), r"would call numpy\.matrix|class of its own"),
        (defaultdict(list), r"would call collections\.defaultdict"),
        (print, r"would call builtins\.print"),
        (range(3), r"would call builtins\.range"),
    ],
    ids=["objects", "records", "dates", "masked", "matrix", "defaultdict", "function", "range"],
)
def test_everything_else_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(FileError, match=rf"w\.pkl .*{message}"):
        load_zoo_pickle(pickle_file(tmp_path / "w.pkl", {"a": content}, 4))


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x80\x02",
        b"no pickle at all",
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02cnumpy\ndtype\n}U\x05_makeK\x01sb.",
        b"\x80\x02cnumpy\ndtype\nN}U\x05_makeK\x01s\x86b.",
        b"\x80\x02cnumpy\ndtype\n(Vf4\nV__class__\ntR.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(ccollections\nOrderedDict\nK\x00U\x01btR.",
        b"\x80\x02U\x01aQ.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
    ],
    ids=[
        *("empty", "cut", "text", "deep", "in itself", "changes a function", "changes a slot", "odd type"),
        *("another class", "persistent", "extension", "buffer"),
    ],
)
def test_a_broken_or_crafted_stream_is_an_error_for_people(tmp_path, stream):
    (tmp_path / "w.pkl").write_bytes(stream)
    if stream.endswith(b"__class__\ntR."):
        load_zoo_pickle(tmp_path / "w.pkl")  # superfluous arguments do nothing
        return
    with pytest.raises(FileError, match=r"w\.pkl (is not a readable checkpoint|is refused)"):
        load_zoo_pickle(tmp_path / "w.pkl")


@pytest.mark.parametrize("shape", [(1 << 40,), (-1,), (3,), ("a",)])
def test_an_array_whose_shape_is_not_that_of_its_bytes_is_refused(tmp_path, shape):
    array = np.ones(2)

    class Wrong:
        def __reduce__(self):
            make, arguments, state = array.__reduce__()
            return make, arguments, (state[0], shape, *state[2:])

    with pytest.raises(FileError, match="numpy array"):
        load_zoo_pickle(pickle_file(tmp_path / "w.pkl", Wrong()))
