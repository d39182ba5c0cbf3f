from __future__ import annotations

import h5py
import numpy as np
import pytest

from diffnr_lightning.data.readers.data_exchange import read_data_exchange

DEGREES = np.arange(0, 180, 20.0)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 4000, (9, 4, 6)).astype(np.uint16)


@pytest.fixture
def write(tmp_path, images):
    """Write a file, then let a function change it; return its path."""

    def write(change=lambda exchange: None):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            exchange = file.create_group("exchange")
            exchange["data"], exchange["theta"] = images, DEGREES
            exchange["data_white"], exchange["data_dark"] = np.full((3, 4, 6), 5e3), np.ones((4, 6))
            change(exchange)
        return path

    return write


def unit(text, values=DEGREES):
    def change(exchange):
        exchange["theta"][...] = values
        exchange["theta"].attrs["units"] = text

    return change


@pytest.mark.parametrize("text", ["rad", "Radians", b"radian", b"rad   ", ["rad"]])
def test_radians_of_the_attribute_are_honoured(write, text):
    raw = read_data_exchange(write(unit(text, np.deg2rad(DEGREES))))
    np.testing.assert_allclose(raw.angles_rad, np.deg2rad(DEGREES))


@pytest.mark.parametrize("change", [lambda exchange: None, unit("degrees"), unit(b"deg")])
def test_degrees_are_what_the_layout_says(write, change):
    raw = read_data_exchange(write(change))
    np.testing.assert_allclose(raw.angles_rad, np.deg2rad(DEGREES))
    assert (raw.flat == 5e3).all()
    assert (raw.dark == 1).all()


def test_advice_for_other_units_works(write, one_sentence):
    def radians_without_word(exchange):
        exchange["theta"][...] = np.deg2rad(DEGREES)

    for change in (radians_without_word, unit("gon", np.deg2rad(DEGREES))):
        path = write(change)
        with pytest.raises(ValueError, match="angle_unit=rad") as error:
            read_data_exchange(path)
        assert "exchange/theta" in one_sentence(error)
        raw = read_data_exchange(path, "rad")
        np.testing.assert_allclose(raw.angles_rad, np.deg2rad(DEGREES))


def test_degrees_that_claim_to_be_radians(write, one_sentence):
    with pytest.raises(ValueError, match="angle_unit=deg") as error:
        read_data_exchange(write(unit("rad")))
    one_sentence(error)
    raw = read_data_exchange(write(unit("rad")), "deg")
    np.testing.assert_allclose(raw.angles_rad, np.deg2rad(DEGREES))


def test_sinogram_order_is_turned(write, images):
    def sinograms(exchange):
        del exchange["data"]
        exchange["data"] = images.transpose(1, 0, 2)
        exchange["data"].attrs["axes"] = "y:theta:x"
        exchange["data_white"].attrs["axes"] = "theta_white:y:x"

    np.testing.assert_array_equal(read_data_exchange(write(sinograms)).counts, images)


@pytest.mark.parametrize("white", ["x:y", "theta_white:x:y", "y:x", None])
@pytest.mark.parametrize("dark", ["theta_dark:y:x", None])
def test_single_images_are_turned_as_their_axes_say(write, images, white, dark):
    """Those that name none lie as the views do."""
    field, stack = images[0] + 1, images[:2]

    def turned(exchange):
        del exchange["data"], exchange["data_white"], exchange["data_dark"]
        exchange["data"] = images.transpose(0, 2, 1)
        exchange["data"].attrs["axes"] = "theta:x:y"
        exchange["data_white"] = field if white == "y:x" else field.T
        exchange["data_dark"] = stack if dark else stack.transpose(0, 2, 1)
        for name, axes in (("data_white", white), ("data_dark", dark)):
            if axes:
                exchange[name].attrs["axes"] = axes

    raw = read_data_exchange(write(turned))
    np.testing.assert_array_equal(raw.counts, images)
    np.testing.assert_array_equal(raw.flat, field)
    np.testing.assert_array_equal(raw.dark, stack.mean(axis=0))


def test_a_single_image_of_other_axes_is_refused(write, one_sentence):
    def columns(exchange):
        exchange["data_dark"].attrs["axes"] = "energy:x"

    with pytest.raises(
        ValueError, match="data_dark of .* has the axes 'energy:x'; y and x in"
    ) as error:
        read_data_exchange(write(columns))
    one_sentence(error)


def axes(exchange):
    exchange["data"].attrs["axes"] = "time:energy:x"


def group(exchange):
    del exchange["data"]
    exchange.create_group("data")


def words(exchange):
    del exchange["theta"]
    exchange["theta"] = [b"many"] * 9


def few(exchange):
    del exchange["theta"]
    exchange["theta"] = DEGREES[:4]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (axes, "time:energy:x"),
        (group, "lacks 'exchange/data'"),
        (words, "theta"),
        (few, "4 angles"),
    ],
)
def test_files_that_are_no_scan(write, change, expected, one_sentence):
    with pytest.raises(ValueError) as error:
        read_data_exchange(write(change))
    assert expected in one_sentence(error)
    assert "scan.h5" in str(error.value)


def test_a_file_without_groups(tmp_path, one_sentence):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange"] = np.zeros(3)
    with pytest.raises(ValueError, match="lacks") as error:
        read_data_exchange(tmp_path / "scan.h5")
    one_sentence(error)


def test_files_that_are_missing_are_not_read_as_zeros(write, tmp_path, images, one_sentence):
    """A scan in one file a view, by links of either kind."""

    def virtual(exchange):
        del exchange["data"]
        layout = h5py.VirtualLayout(images.shape, "u2")
        for view, image in enumerate(images):
            with h5py.File(tmp_path / f"view_{view}.h5", "w") as file:
                file["image"] = image
            layout[view] = h5py.VirtualSource(f"view_{view}.h5", "image", image.shape)
        exchange.create_virtual_dataset("data", layout)

    path = write(virtual)
    assert np.array_equal(read_data_exchange(path).counts, images)
    (tmp_path / "view_7.h5").unlink()
    with pytest.raises(
        ValueError, match=r"exchange/data of .* lies in the file view_7.h5"
    ) as error:
        read_data_exchange(path)
    one_sentence(error)

    def linked(exchange):
        del exchange["data_white"]
        exchange["data_white"] = h5py.ExternalLink("flats.h5", "image")

    with pytest.raises(ValueError, match="exchange/data_white of .* lies in the file flats.h5"):
        read_data_exchange(write(linked))


def test_a_compression_that_is_not_installed_is_no_damage(write, images, one_sentence):
    def compressed(exchange):
        del exchange["data"]
        chunks = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        chunks.set_chunk(images.shape)
        # A number that is registered for nothing.
        chunks.set_filter(65000, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(images.shape)
        h5py.h5d.create(exchange.id, b"data", h5py.h5t.STD_U16LE, space, chunks)
        exchange["data"].id.write_direct_chunk((0, 0, 0), b"packed", 0)

    with pytest.raises(ValueError, match="by the filter 65000, which HDF5 does not find") as error:
        read_data_exchange(write(compressed))
    assert "hdf5plugin" in one_sentence(error)
