"""What a case folder says of the photons behind its projections."""

from dataclasses import replace

import numpy as np
import pytest

from diffnr_lightning.data import read_case, write_case
from diffnr_lightning.photons import PhotonCounts


@pytest.mark.parametrize("kind", ["complex64", "U1"])
def test_counts_that_are_no_real_numbers_are_refused(tmp_path, small_case, kind, one_sentence):
    photons = PhotonCounts.assumed(small_case.projections, 1e4, 1.0)
    folder = write_case(replace(small_case, photons=photons), tmp_path / "case")
    counts = np.load(folder / "counts_train.npy")
    np.save(folder / "counts_train.npy", np.ones(counts.shape).astype(kind))
    with pytest.raises(
        ValueError, match=rf"counts_train.npy holds {np.dtype(kind)} values; real"
    ) as error:
        read_case(folder)
    one_sentence(error)
