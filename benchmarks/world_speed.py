"""How many encoded clips of 17x64x64 a second does the synthetic world render? The bar is 200 on two cores.

Run: python -m benchmarks.world_speed [--quick]
"""

import argparse
import json
import os
import tempfile
import time

from components.world.films import render_films

BAR = 200
SCENES = 10


def measure(films: int, workers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        children, begin = os.times(), time.perf_counter()
        render_films(folder, "demo", films, seed=0, scenes=SCENES, frames_per_scene=(17, 17), gradual_share=0.0, workers=workers)
        wall, after = time.perf_counter() - begin, os.times()
    cpu = sum(after[:4]) - sum(children[:4])
    return {"clips_per_second": films * SCENES / wall, "clips_per_cpu_second": films * SCENES / cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 films in place of 200")
    quick = parser.parse_args().quick
    rates = measure(40 if quick else 200, workers=2)
    print(f"{rates['clips_per_second']:.0f} clips a second with the workers' start, {rates['clips_per_cpu_second']:.0f} a CPU second")
    value = round(rates["clips_per_second"], 1)
    print(json.dumps({"encoded_clips_per_second": {"value": value, "bar": BAR, "holds": value >= BAR}}))


if __name__ == "__main__":
    main()
