"""The examples run on tiny data and do what they say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

import dali_pipes as dp
from dali_pipes.tools.demo_data import make_demo_set

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_windows_of_dicom_files_share_one_cache(tmp_path: Path) -> None:
    manifest = dp.Manifest.from_csv(make_demo_set(tmp_path, mammograms=5, photos=0))
    made = manifest.subset(range(5))
    images, labels, decoded = example("dicom_windows").two_windows(made, tmp_path / "cache-dir", size=64)
    assert images.shape == (5, 2, 64, 64)
    assert labels.tolist() == [0] * 5
    assert not torch.equal(images[:, 0].int(), images[:, 1].int())
    assert decoded == 0


def test_the_items_of_a_dataset_are_computed_once(tmp_path: Path) -> None:
    first, second = example("cached_dataset").epochs(tmp_path, length=20)
    assert first >= 20
    assert second <= 1  # the first item is compared with what is kept
