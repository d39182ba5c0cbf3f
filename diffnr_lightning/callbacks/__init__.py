"""What happens beside an optimisation: density control, pseudo-references, records, pictures."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "convergence": ["Convergence"],
        "density_control": ["DensityControl"],
        "pseudo_reference": ["PseudoReference"],
        "repaired_projections": ["RepairedProjections"],
        "sampled_reference": ["SampledReference"],
        "slice_images": ["SliceImages"],
        "snapshots": ["Snapshots"],
    },
)
