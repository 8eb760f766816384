"""Quantizes one model as a peer does, in a process and if need be an environment of its own.

    PYTHON tests/bench/quantization_peers.py RECIPE IN.onnx SAMPLES.npy OUT.onnx

SAMPLES.npy holds the calibration set, [samples, …] for the only input of the model. PYTHON needs
onnx and ONNX Runtime, and for NNCF's recipes also nncf; nothing of onnxfold. What goes wrong is
the last line of the error output.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]


class _Reader:
    """The samples, one by one, as ONNX Runtime's quantizer asks for them."""

    def __init__(self, name: str, samples: Array) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter(
            [{name: np.ascontiguousarray(sample[None])} for sample in samples]
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def _quantize_static(activations: str, per_channel: bool) -> Callable[..., None]:
    """ONNX Runtime's quantizer after its own preparation, everything else at its defaults."""

    def quantize(source: Path, samples: Array, target: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder, "prepared.onnx")
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            reader: Any = _Reader(_input_name(source), samples)
            quantize_static(
                str(prepared),
                str(target),
                reader,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType[activations],
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
            )

    return quantize


def _nncf(preset: str, transformer: bool = False) -> Callable[..., None]:
    """NNCF's post-training quantization of the ONNX model, fast bias correction included."""

    def quantize(source: Path, samples: Array, target: Path) -> None:
        nncf: Any = importlib.import_module("nncf")  # in an environment of its own

        name = _input_name(source)
        dataset = nncf.Dataset(samples, lambda sample: {name: np.ascontiguousarray(sample[None])})
        quantized = nncf.quantize(
            onnx.load(source),
            dataset,
            preset=getattr(nncf.QuantizationPreset, preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )
        onnx.save(quantized, target)

    return quantize


RECIPES: Mapping[str, Callable[[Path, Array, Path], None]] = MappingProxyType(
    {
        "ort-u8s8": _quantize_static("QUInt8", per_channel=True),
        "ort-s8s8": _quantize_static("QInt8", per_channel=False),
        "nncf-performance": _nncf("PERFORMANCE"),
        "nncf-mixed": _nncf("MIXED"),
        "nncf-transformer": _nncf("MIXED", transformer=True),
    }
)
"""What each peer does to a model, by name."""


def _input_name(source: Path) -> str:
    graph = onnx.load(source, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    (name,) = (value.name for value in graph.input if value.name not in held)
    return name


def main() -> None:
    """Quantize with one recipe."""
    recipe, source, samples, target = sys.argv[1:]
    RECIPES[recipe](Path(source), np.load(samples, allow_pickle=False), Path(target))


if __name__ == "__main__":
    main()
