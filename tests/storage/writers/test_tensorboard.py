"""TensorBoard's events."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from storage.event_files import next_second
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsp_fast.media import Video
from lsp_fast.storage.logger import RunLogger

IDENTITY = {"task": "t", "method": "m", "seed": 4}


def opened(folder, rows=0, log=("tensorboard",)):
    return RunLogger(folder, IDENTITY, rows, log)


def read(folder):
    """As TensorBoard reads them: what is purged is gone."""
    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    return events


def test_events_are_written_with_the_first_row_only(tmp_path):
    opened(tmp_path).finish("finished")
    assert not list(tmp_path.glob("events*"))
    log = opened(tmp_path)
    log.scalars(1, {"a": 1.0})
    log.finish("finished")
    assert len(list(tmp_path.glob("events*"))) == 1


def test_rows_pictures_and_videos_lie_there(tmp_path):
    log = opened(tmp_path)
    log.scalars(10, {"eval/return": 1.5, "x": math.nan})
    log.picture(10, "open_loop", np.zeros((4, 6, 3), np.uint8))
    log.video(20, "episode", Video([np.full((8, 8, 3), 50 * i, np.uint8) for i in range(4)]))
    log.finish("finished")
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("eval/return")] == [(10, 1.5)]
    assert math.isnan(events.Scalars("x")[0].value)
    assert [image.step for image in events.Images("open_loop")] == [10]
    [video] = events.Images("episode")
    shown = Image.open(io.BytesIO(video.encoded_image_string))
    assert video.step == 20 and shown.format == "GIF" and shown.n_frames == 4


@pytest.mark.parametrize("rows", [0, 1])  # a run that begins with recorded data has a checkpoint before its first row
def test_what_came_after_the_checkpoint_does_not_count(tmp_path, rows):
    log = opened(tmp_path)
    for step in (10, 20, 30):
        log.scalars(step, {"x": float(step)})
    log.finish("stopped")
    next_second()
    log = opened(tmp_path, rows)
    log.scalars(25, {"x": 0.5})
    log.finish("finished")
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("x")]
    assert found == [(10, 10.0), (25, 0.5)][1 - rows :]


@pytest.mark.parametrize("before", [(), ("tensorboard",)])
def test_a_run_that_was_logged_elsewhere_so_far_is_there_whole(tmp_path, before):
    log = opened(tmp_path, log=before)
    log.scalars(10, {"x": 1.0, "y": math.nan})
    log.finish("stopped")
    next_second()
    log = opened(tmp_path, rows=1)
    log.scalars(20, {"x": 2.0})
    log.finish("finished")
    assert [event.step for event in read(tmp_path).Scalars("x")] == [10, 20]
