"""Runs' folders to make a page of, and the page parsed."""

import io
import json
from html.parser import HTMLParser

import numpy as np

from lsp_fast.config import make_config, to_dict

HEALTH = {
    "updates": 10, "seconds": 30.0, "updates_per_second": 5.0, "world_model/reward_error": 0.02,
    "world_model/kl": 5.0, "world_model/observation_nll": -3.0, "behavior/task_reward": 0.5,
    "behavior/value_abs_max": 30.0, "behavior/reward_abs_max": 1.0, "behavior/saturation": 0.95,
    "behavior/action_std": 0.3, "skill/action_spread": 0.5, "skill/information": 1.4, "planner/gain": 0.1,
    "planner/gain_error": 0.2, "planner/elite_overlap": 0.3, "planner/std": 0.4,
}  # fmt: skip


def write_run(folder, ys=(10.0, 20.0), *, rows=0, health=None, **config):
    """A run's folder as training leaves it, without checkpoints."""
    folder.mkdir(parents=True)
    values = {"task": "walker_walk", "env_steps": 2000, **config}
    (folder / "config.json").write_text(json.dumps(to_dict(make_config("smoke", **values))))
    steps = [2000 * (i + 1) // rows for i in range(rows)]
    lines = [{"env_steps": x, **HEALTH, **(health or {})} for x in steps]
    lines += [{"env_steps": 2000 * (i + 1) // len(ys), "eval/return": y} for i, y in enumerate(ys)]
    lines.sort(key=lambda row: row["env_steps"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


def png(width=40, height=20, noise=False):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256 if noise else 1, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def film(path, frames=6, size=(64, 160)):
    """A video, by what the package writes videos with."""
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), size[::-1], fps=20, macro_block_size=2, ffmpeg_log_level="error")
    writer.send(None)
    for i in range(frames):
        writer.send(np.full((*size, 3), 40 * i, np.uint8).tobytes())
    writer.close()


class Page(HTMLParser):
    """A page, parsed strictly: every element that must be closed is, in order.

    Attributes:
        elements: name and attributes of each.
        texts: of headings, cells and the like: the name and the text within.
    """

    EMPTY = frozenset({"meta", "link", "img", "wbr", "br", "hr"})

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        assert html.startswith("<!DOCTYPE html>\n<html lang=")
        self.feed(html)
        self.close()
        assert not self.open
        names = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(names) == len(set(names))
        self.ids = set(names)

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append((tag, []))

    def handle_startendtag(self, tag, attrs):
        assert any(name == "svg" for name, _ in self.open), f"<{tag}/> closes itself only in SVG"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        name, texts = self.open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        self.texts.append((tag, " ".join("".join(texts).split())))

    def handle_data(self, data):
        for _, texts in self.open:
            texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]
