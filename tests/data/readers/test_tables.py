import numpy as np
import pytest

from diffnr_lightning.data.readers.tables import read_table


@pytest.mark.parametrize(
    "text",
    ["1 2\n3 4\n", "x,y\n1,2\n3,4", "# view\n 1;2 \n\n% end\n3; 4", "\ufeff1\t2\n3\t4\n"],
)
def test_numbers_are_read_however_they_are_parted(text, tmp_path):
    (tmp_path / "table.txt").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_table(tmp_path / "table.txt"), [[1, 2], [3, 4]])


def test_npy_keeps_its_shape(tmp_path):
    np.save(tmp_path / "table.npy", np.ones((2, 3, 4), np.float32))
    assert read_table(tmp_path / "table.npy").shape == (2, 3, 4)


def test_what_is_no_table_is_refused(tmp_path, one_sentence):
    files = {
        "words.txt": "1 2\nthree four\n",
        "ragged.txt": "1 2\n3\n",
        "empty.txt": "",
        "nan.txt": "1\nnan\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "damaged.npy").write_bytes(b"nothing")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x81")
    for name in (*files, "damaged.npy", "bytes.txt", "missing.txt"):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read_table(tmp_path / name)
        assert name in one_sentence(error)
