"""The tiny video data set: every layout names the same clips, and the clips show what the captions say."""

from __future__ import annotations

import csv
import itertools
import json
import sys

import numpy as np
import pytest

from pytest_genmodel.errors import BadInputError, MissingExtraError
from pytest_genmodel.training.dataset import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), frames=9)


def decoded(file):
    import av

    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_layout_names_the_same_clips(folder):
    import pyarrow.parquet

    prompts, videos, images = (
        (folder / f"{name}.txt").read_text().splitlines() for name in ("prompts", "videos", "images")
    )
    with (folder / "metadata.csv").open() as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    parquet = pyarrow.parquet.read_table(folder / "data" / "train-00000-of-00001.parquet").to_pylist()

    assert len(prompts) == 4
    assert all((folder / name).is_file() for name in (*videos, *images))
    assert [(row["file_name"], row["text"]) for row in table] == list(zip(videos, prompts, strict=True))
    assert [(line["video"], line["image"], line["text"]) for line in lines] == list(
        zip(videos, images, prompts, strict=True)
    )
    assert [(row["video"]["path"], row["text"]) for row in parquet] == list(zip(videos, prompts, strict=True))
    assert parquet[0]["video"]["bytes"] == (folder / videos[0]).read_bytes()


def test_clip_shows_what_its_caption_says(folder):
    frames = decoded(folder / "videos" / "0.mp4").astype(int)

    red = (frames[..., 0] - frames[..., 1:].max(-1)) > 80
    centers = [np.nonzero(mask)[1].mean() for mask in red]
    assert frames.shape == (9, 64, 96, 3)
    assert (folder / "prompts.txt").read_text().splitlines()[0] == "a red circle moves right"
    assert all(after > before for before, after in itertools.pairwise(centers))


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    again = write_dataset(tmp_path, frames=9)

    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"frames": 0}, {"width": 95}, {"height": 0}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(BadInputError, match="a data set of"):
        write_dataset(tmp_path, **wrong)


def test_missing_encoder_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(MissingExtraError, match=r"needs av: pip install 'pytest-genmodel\[train\]'"):
        write_dataset(tmp_path)
