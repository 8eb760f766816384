"""Quantizes one model as a peer does, in a process and if need be an environment of its own.

    PYTHON tests/bench/quantization_peers.py RECIPE IN.onnx SAMPLES.npy OUT

SAMPLES.npy holds the calibration set, [samples, …] for the only input of the model. PYTHON needs
onnx and ONNX Runtime, for NNCF's recipes also nncf and OpenVINO; nothing of onnxfold. What goes
wrong is the last line of the error output.
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


def _quantize_static(activations: str) -> Callable[..., None]:
    """ONNX Runtime's quantizer after its own preparation, weights by channel, else its defaults."""

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
                per_channel=True,
            )

    return quantize


def _nncf(preset: str, transformer: bool = False, smooth: bool = True) -> Callable[..., None]:
    """NNCF's post-training quantization of the ONNX model, fast bias correction included.

    Args:
        preset: `PERFORMANCE`: activations are symmetric; `MIXED`: some are not.
        transformer: Tell NNCF that the model is one; it places Q/DQ by other rules.
        smooth: For those, whether SmoothQuant scales channels.
    """

    def quantize(source: Path, samples: Array, target: Path) -> None:
        onnx.save(
            _nncf_quantized(onnx.load(source), source, samples, preset, transformer, smooth), target
        )

    return quantize


def _nncf_ir(preset: str, transformer: bool = False) -> Callable[..., None]:
    """The same of the model as OpenVINO reads it, which only OpenVINO runs."""

    def quantize(source: Path, samples: Array, target: Path) -> None:
        openvino: Any = importlib.import_module("openvino")

        model = openvino.Core().read_model(source)
        quantized = _nncf_quantized(model, source, samples, preset, transformer, smooth=True)
        openvino.save_model(quantized, target, compress_to_fp16=False)

    return quantize


def _nncf_quantized(
    model: Any, source: Path, samples: Array, preset: str, transformer: bool, smooth: bool
) -> Any:
    nncf: Any = importlib.import_module("nncf")  # in an environment of its own
    more: dict[str, Any] = {}
    if not smooth:
        names = importlib.import_module("nncf.quantization.advanced_parameters")
        off = names.AdvancedSmoothQuantParameters(convolution=-1.0, matmul=-1.0)
        more["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off)
    name = _input_name(source)
    return nncf.quantize(
        model,
        nncf.Dataset(samples, lambda sample: {name: np.ascontiguousarray(sample[None])}),
        preset=getattr(nncf.QuantizationPreset, preset),
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(samples),
        fast_bias_correction=True,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        **more,
    )


RECIPES: Mapping[str, Callable[[Path, Array, Path], None]] = MappingProxyType(
    {
        "ort-u8s8": _quantize_static("QUInt8"),
        "ort-s8s8": _quantize_static("QInt8"),
        "nncf-performance": _nncf("PERFORMANCE"),
        "nncf-mixed": _nncf("MIXED"),
        "nncf-transformer": _nncf("MIXED", transformer=True),
        "nncf-transformer-plain": _nncf("MIXED", transformer=True, smooth=False),
        "nncf-ir-performance": _nncf_ir("PERFORMANCE"),
        "nncf-ir-mixed": _nncf_ir("MIXED"),
        "nncf-ir-transformer": _nncf_ir("MIXED", transformer=True),
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
