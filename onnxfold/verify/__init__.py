"""Is it still the same model: feeds, oracle, tolerance, verdict."""

from onnxfold.verify.options import VerifyOptions
from onnxfold.verify.sources import ModelSource
from onnxfold.verify.verdict import OutputRecord, Verdict
from onnxfold.verify.verifier import Verifier, verify

__all__ = ["ModelSource", "OutputRecord", "Verdict", "Verifier", "VerifyOptions", "verify"]
