"""Files with random bytes in them are read, or refused in one sentence; nothing else happens."""

import logging
import zlib

import numpy as np
import pytest
import SimpleITK
import tifffile

from diffnr_lightning.data.volumes import load_volume

DAMAGED_FILES = 30


def write(path):
    values = np.linspace(-1000, 900, 480).round().reshape(6, 8, 10).astype(np.int16)
    image = SimpleITK.GetImageFromArray(values)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, imagej=True, metadata={"unit": "um", "axes": "ZYX"})
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        SimpleITK.WriteImage(image, str(path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["v.nii", "v.mha", "v.nrrd", "v.tif", "v.npy"])
def test_random_damage_is_read_or_named(tmp_path, name, caplog):
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    header = len(whole) if path.suffix == ".tif" else len(whole) - 960
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    complaints = []
    for number in range(DAMAGED_FILES):
        content = bytearray(whole)
        for place in generator.integers(header, size=4):
            content[place] = generator.integers(256)
        path.write_bytes(
            content[: generator.integers(len(content))] if number % 5 == 0 else content
        )
        try:
            load_volume(path)
        except ValueError as error:
            complaints.append(str(error))
    assert len(complaints) >= DAMAGED_FILES // 5 - 1
    for text in complaints:
        assert str(path) in text
        assert text.endswith(".")
        assert "\n" not in text
