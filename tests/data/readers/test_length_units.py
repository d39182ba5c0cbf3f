import pytest

from diffnr_lightning.data.readers.length_units import in_millimetres


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("mm", 1.0),
        ("Millimeters", 1.0),
        ('"microns"', 1e-3),
        ("um", 1e-3),
        ("\u00b5m", 1e-3),
        ("\u03bcm", 1e-3),
        ("\\u00B5m", 1e-3),
        ("micrometre", 1e-3),
        ("nanometers", 1e-6),
        ("cm", 10.0),
        ("m", 1000.0),
        ("inches", 25.4),
        ("\u00c5", 1e-7),
        ("pixels", None),
        ("", None),
        (None, None),
        ("???", None),
    ],
)
def test_words_of_headers(word, expected):
    found = in_millimetres(word)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_other_words_are_no_length():
    with pytest.raises(ValueError, match="'seconds' is no unit of length"):
        in_millimetres("seconds")
