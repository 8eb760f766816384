"""Which passes there are, and in which order they run: the only place where a pass is listed."""

from onnxfold.passes import (
    drop_dead,
    drop_identities,
    equalize_layers,
    fold_constants,
    fold_data,
    fold_linear,
    fold_skip,
    fold_upsample,
    fuse_bn,
    fuse_pad,
    insert_qdq,
    lower_conv_transpose,
    lower_prelu,
    lower_reduce_mean,
    merge_branches,
    merge_sequential,
    share_duplicates,
    simplify,
    split_depthwise,
    to_fp16,
    unpack_sequences,
)
from onnxfold.pipeline.passes import Pass

DEFAULT: tuple[Pass, ...] = (
    drop_dead.PASS,  # first, so that nothing dead counts as a reader
    drop_identities.PASS,  # constants show behind Identity and CastLike
    unpack_sequences.PASS,  # shapes are not known through a sequence
    fold_constants.PASS,  # weights and shapes become visible as constants
    drop_identities.PASS,  # known shapes show which reshapes do nothing
    fuse_pad.PASS,  # before fuse_bn, because explicit pads decide what may move
    fold_data.PASS,  # before fuse_bn, whose constants may then reach the first convolution
    fuse_bn.PASS,  # folds what the passes above brought together
    fold_data.PASS,  # a Split and a Concat meet where a BatchNormalization was in between
    merge_branches.PASS,  # after fuse_bn, so that a branch is one kernel and its cost is plain
    drop_identities.PASS,  # layouts change back and forth where arithmetic was in between
    fold_linear.PASS,  # what only gains as a whole; most regions are a single node by now
    fuse_bn.PASS,  # a sum that became one kernel takes what stands behind it
    share_duplicates.PASS,  # after folding, which makes a constant of its own for every fold
    drop_identities.PASS,  # what had two equal readers has one now
)
"""What runs when nothing is asked for."""

_ON_REQUEST: tuple[Pass, ...] = (
    simplify.PASS,
    equalize_layers.PASS,  # for INT8: float models gain nothing
    fold_skip.PASS,  # merge_branches does this and more
    merge_sequential.PASS,  # the next two are part of fold_linear
    fold_upsample.PASS,
    lower_conv_transpose.PASS,  # this and the next three: for INT8, what has integer kernels
    lower_prelu.PASS,
    lower_reduce_mean.PASS,
    split_depthwise.PASS,
    insert_qdq.PASS,  # lossy; after everything that changes float weights or what is calibrated
    to_fp16.PASS,  # lossy; after everything that folds in full precision
)

BUILTIN: tuple[Pass, ...] = (*_ON_REQUEST, *dict.fromkeys(DEFAULT))
"""Every pass of the library, in the order in which it makes sense to run them."""
