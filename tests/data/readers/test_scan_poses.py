import numpy as np

from diffnr_lightning.data.readers.scan_poses import read_poses

RTK_FILE = """<?xml version="1.0"?>
<!DOCTYPE RTKGEOMETRY>
<RTKThreeDCircularGeometry version="3">
    <SourceToIsocenterDistance>120</SourceToIsocenterDistance>
    <SourceToDetectorDistance>180</SourceToDetectorDistance>
    <SourceOffsetX>1.5</SourceOffsetX>
    <SourceOffsetY>-0.75</SourceOffsetY>
    <ProjectionOffsetX>2.5</ProjectionOffsetX>
    <ProjectionOffsetY>-1.25</ProjectionOffsetY>
    <InPlaneAngle>358</InPlaneAngle>
    <OutOfPlaneAngle>3</OutOfPlaneAngle>
  <Projection>
    <GantryAngle>0</GantryAngle>
    <Matrix>
        -179.890348863437    6.32563622417666   -0.66985979893646                 390
        -6.28190940645017   -179.669983370454   -8.91541865926747                -195
                        0 -0.0523359562429438   0.998629534754574                -120
    </Matrix>
  </Projection>
  <Projection>
    <GantryAngle>37</GantryAngle>
    <Matrix>
        -144.069952207542    6.32563622417666    107.725740643896                 390
        -10.3823888097285   -179.669983370454   -3.33962247334734                -195
        0.600990256578643 -0.0523359562429438    0.79754100783701                -120
    </Matrix>
  </Projection>
  <Projection>
    <GantryAngle>120</GantryAngle>
    <Matrix>
         89.3650588288657    6.32563622417666     156.12454191085                 390
        -4.58002434107434   -179.669983370454    9.89800245989201                -195
        0.864838546066896 -0.0523359562429438  -0.499314767377287                -120
    </Matrix>
  </Projection>
</RTKThreeDCircularGeometry>
"""


def test_a_file_that_rtk_wrote_says_where_its_rays_are(ellipsoid, tmp_path):
    """Sums of the images that RTK 2.7 made of an ellipsoid by this geometry, with all of its offsets and angles."""
    (tmp_path / "geometry.xml").write_text(RTK_FILE)
    scan = read_poses(tmp_path / "geometry.xml", (17, 41), (2.0, 1.0), first_mm=(-16.0, -20.0))
    # RTK's (x, y, z) = (3, -2, 5) is ours at (5, 3, -2).
    seen = ellipsoid((8, 6, 4), (5, 3, -2), density=1.0).line_integrals(scan)
    np.testing.assert_allclose(seen.sum(axis=(1, 2)), [994.461, 1011.44824, 878.2714], rtol=1e-6)
