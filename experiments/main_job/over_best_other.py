"""Print what DiffNR gains over the best other method of each case of the main table."""

import csv
from pathlib import Path
from statistics import mean

OURS = "3D Gaussians + DiffNR + data consistency"
OTHERS = ("FDK", "SIRT", "SART", "ASD-POCS", "3D Gaussians", "3D Gaussians, L1 and SSIM")

gains = []
for views in (36, 24, 12):
    table = Path(__file__).with_name(f"results_{views}_views.csv")
    scores = {}
    for row in csv.DictReader(table.open(encoding="utf-8")):
        if row["case"] and row["cases"] == "1":
            scores.setdefault(row["case"], {})[row["method"]] = float(row["r2_psnr"])
    here = {
        case: psnr[OURS] - max(psnr[method] for method in OTHERS) for case, psnr in scores.items()
    }
    least = min(here, key=here.get)
    print(f"{views} views: {mean(here.values()):+.2f} dB, least {here[least]:+.2f} dB ({least})")
    gains += here.values()
print(f"all: {mean(gains):+.2f} dB over {len(gains)} cases")
