"""What some work holds at its worst moment on the CPU, and a scan of any size to hold it for."""

import tracemalloc
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from diffnr_lightning.geometry import ScanGeometry, uniform_angles


def peak(work: Callable[[], object]) -> int:
    """Bytes alive at the worst moment of some work: torch's, and numpy's at theirs."""
    work()  # compiles, and makes what is kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    tracemalloc.start(1)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    after = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most + after - before


def scan_of(size: int, views: int) -> ScanGeometry:
    """A cone beam around a grid of so many voxels of 1 mm, on so many pixels, along each axis."""
    return ScanGeometry.cone(
        angles_rad=uniform_angles(views),
        source_to_axis_mm=4.0 * size,
        source_to_detector_mm=6.0 * size,
        detector_shape=(size, size),
        pixel_mm=1.6,
    )
