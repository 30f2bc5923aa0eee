"""Draws the arena's tasks from above for the docs: python benchmarks/task_pictures.py [--out docs/images/tasks.png]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lsp_fast import envs
from lsp_fast.envs.quadruped import TASKS

SIZE = 320
SEED = 4


def main() -> int:
    from PIL import Image, ImageDraw

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/tasks.png"))
    parser.add_argument("--camera", type=int, default=0)
    args = parser.parse_args()
    pictures = []
    for task in TASKS:
        env = envs.make(task)
        env.reset(seed=SEED)
        env._camera = args.camera  # type: ignore[attr-defined]  # the whole floor, not the robot's back
        picture = Image.fromarray(env.render_frame(SIZE, SIZE))  # type: ignore[attr-defined]
        ImageDraw.Draw(picture).text((8, 8), task, fill="white")
        pictures.append(np.asarray(picture))
    rows = [np.concatenate(pictures[i : i + 3], 1) for i in range(0, len(pictures), 3)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).quantize(200).save(args.out, optimize=True)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
