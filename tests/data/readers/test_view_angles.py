import numpy as np
import pytest

from diffnr_lightning.data.readers.view_angles import read_angles


def test_degrees_and_radians(tmp_path):
    (tmp_path / "angles.txt").write_text("0\n90\n180\n")
    np.save(tmp_path / "angles.npy", np.array([[0.0, 1.5, 3.0]]))
    np.testing.assert_allclose(read_angles(tmp_path / "angles.txt"), [0, np.pi / 2, np.pi])
    np.testing.assert_allclose(read_angles(tmp_path / "angles.npy", "rad"), [0, 1.5, 3.0])


def test_what_looks_like_radians_or_holds_more_is_refused(tmp_path, one_sentence):
    (tmp_path / "radians.txt").write_text("0\n1.5\n3\n")
    (tmp_path / "pairs.txt").write_text("0 1\n90 2\n")
    for name, expected in (("radians.txt", "angle_unit"), ("pairs.txt", "one angle a view")):
        with pytest.raises(ValueError) as error:
            read_angles(tmp_path / name)
        text = one_sentence(error)
        assert name in text
        assert expected in text
