"""What reconstructions are used for: tasks that judge them by more than their voxels."""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "lungs": ["LungScore", "compare_lungs", "lung_segmenter", "segment_lungs"],
        "region_files": ["read_regions"],
        "regions": ["RegionComparison", "RegionPlan", "compare_regions", "flat_plan"],
    },
)
