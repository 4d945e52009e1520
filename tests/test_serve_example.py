"""The examples of serving give what the model makes of the loader's batches: over HTTP, and by Triton's interface."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import manifest_of, noise, pictures
from make_images import dicom

import dali_pipes as dp

ROOT = Path(__file__).parent.parent
RECIPE = dp.Recipe(size=(40, 48), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def example() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("serve_example", ROOT / "examples/serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    folder = tmp_path_factory.mktemp("served")
    manifest_of(folder, {**pictures(3), "x.dcm": dicom([noise(i, 30, 20, 1) for i in range(2)])})
    (folder / "frames.csv").write_text("path,frame\n000.jpg,0\n001.jpg,0\n002.jpg,0\nx.dcm,0\nx.dcm,1\n")
    return dp.Manifest.from_csv(folder / "frames.csv")


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    module = example()
    running = module.server(RECIPE, module.small_model())
    thread = threading.Thread(target=running.serve_forever, name="serve-example")
    thread.start()
    yield running.server_address
    running.shutdown()
    thread.join()
    running.server_close()


def post(address: tuple[str, int], path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def loaded(samples: dp.Manifest) -> torch.Tensor:
    with dp.Loader(samples, RECIPE, batch_size=8, backend="dali-cpu", num_workers=1) as loader:
        return torch.cat([batch.image for batch in loader])


def test_answers_are_those_of_the_loaders_pixels(samples: dp.Manifest, address: tuple[str, int]) -> None:
    images, model = loaded(samples), example().small_model()
    for sample, image in zip(samples, images):
        body = samples.resolve(sample.index).read_bytes()
        status, found = post(address, f"/predict?frame={sample.frame}", body)
        with torch.inference_mode():
            assert (status, found["classes"]) == (200, model(image[None])[0].tolist())
    assert post(address, "/predict", b"a text")[0] == 422
    assert "not an image format" in post(address, "/predict", b"a text")[1]["error"]
    assert post(address, "/predict?frame=x", samples.resolve(0).read_bytes())[0] == 422
    assert post(address, "/predict", b"")[0] == 413


def test_the_triton_model_of_the_documentation(
    samples: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text("utf-8"), re.DOTALL)
        if "TritonPythonModel" in block
    )
    triton: Any = types.ModuleType("triton_python_backend_utils")

    class Named:
        def __init__(self, name: str, values: np.ndarray) -> None:
            self.name, self.values = name, values

        def as_numpy(self) -> np.ndarray:
            return self.values

    class Response:
        def __init__(self, output_tensors: list[Named] | None = None, error: Exception | None = None) -> None:
            self.tensors, self.error = output_tensors, error

    triton.Tensor, triton.InferenceResponse, triton.TritonError = Named, Response, RuntimeError
    triton.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    (tmp_path / "recipe.toml").write_text(RECIPE.to_toml())
    parameters = {"recipe": {"string_value": str(tmp_path / "recipe.toml")}}
    model = names["TritonPythonModel"]()
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
    whole = samples.subset([0, 1, 2])
    data = np.array([whole.resolve(i).read_bytes() for i in range(3)], object)[:, None]
    good, bad = model.execute([{"FILE": Named("FILE", data)}, {"FILE": Named("FILE", np.array([[b"no"]], object))}])
    model.finalize()
    assert good.tensors[0].name == "IMAGE"
    assert np.array_equal(good.tensors[0].values, loaded(whole).numpy())
    assert isinstance(bad.error, RuntimeError)
